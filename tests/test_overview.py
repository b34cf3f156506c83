"""What people see of a search at 80 and 200 columns, in a pipe, and in one line."""

import io
from typing import Any

import pytest
from rich.console import Console

from igkd_search import console, overview

PARAMETERS = {
    "temperature": 2.5,
    "kd_weight": 0.0123456,
    "overlay_probability": 0.1,
    "learning_rate": 0.03,
    "optimizer": "sgd",
}


@pytest.fixture(autouse=True)
def fresh_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})


def worker(number: int, **changes: Any) -> dict[str, Any]:
    found = {
        "worker": f"w{number}",
        "host": f"gpu-node-{number}",
        "pid": 4000 + number,
        "device": "cuda:0",
        "uuid": None,
        "versions": {},
        "state": "training",
        "trial": 20 + number,
        "epoch": 5,
        "epochs": 8,
        "images_per_s": 12345.6,
        "silent": 2.0,
    }
    return {**found, **changes}


def trial(number: int, **changes: Any) -> dict[str, Any]:
    found = {
        "trial": number,
        "epochs": 5,
        "planned": 8,
        "accuracy": 0.931,
        "attempt": 1,
        "worker": f"w{number - 20}",
        "parameters": PARAMETERS,
    }
    return {**found, **changes}


def status(**changes: Any) -> dict[str, Any]:
    found = {
        "study": "s",
        "budget": {"trials": 40, "done": 20, "running": 2, "open": 18, "queued": 3},
        "states": {"complete": 15, "pruned": 4, "failed": 1, "running": 2},
        "proposed_by": {"model": 21, "start": 1},
        "failures": {"diverged": 1},
        "running": [trial(20), trial(21)],
        "best": {"trial": 7, "accuracy": 0.961, "parameters": PARAMETERS},
        "front": None,
        "workers": [worker(0), worker(1)],
        "left": 3,
        "deaths": 0,
        "stopped": None,
        "ended": False,
        "rate": {"trials_per_hour": 142.4, "images_per_s": 24691.2},
        "seconds": {"searched": 723.0, "left": 4500.0},
        "advice": ["1 trial failed: 'igkd trials s' says why"],
    }
    return {**found, **changes}


def drawn(found: dict[str, Any], width: int, height: int | None = None, note: str = "") -> str:
    """What a terminal of this size shows."""
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=width, height=24, color_system=None)
    console._consoles["stdout"] = terminal
    terminal.print(overview.view(found, width, height, note))
    return seen.getvalue()


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_eighty_columns_show_all_that_counts() -> None:
    found = lines(drawn(status(), 80))
    for wanted in (
        "budget 20 of 40 trials done, 2 running, 18 open, 3 queued",
        "states 15 complete, 1 failed, 4 pruned, 2 running",
        "failures 1 diverged",
        "proposed by 21 model, 1 start",
        "best trial 7, 96.1% on validation",
        "rate 142 trials/h, 24,691 images/s",
        "time 12 min 3 s searched, about 1 h 15 min left",
        "workers 2 at work, 3 left",
        "! 1 trial failed: 'igkd trials s' says why",
        "gpu-node-0 4000 cuda:0 20 5/8 93.1% 12,346 2 s ago",
        "gpu-node-1 4001 cuda:0 21 5/8 93.1% 12,346 2 s ago",
    ):
        assert wanted in found
    assert "temperature 2.5, kd_weight 0.0123, overlay_probability 0.1," in " ".join(found)


def test_a_wide_terminal_shows_what_is_being_tried() -> None:
    of_trial = "2 s ago temperature 2.5, kd_weight 0.0123, overlay_probability 0.1, learning_rate"
    found = lines(drawn(status(), 200))
    assert sum(of_trial in line for line in found) == 2
    assert not any(of_trial in line for line in lines(drawn(status(), 80)))


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("height", [None, 24])
def test_no_line_of_the_table_is_wrapped_or_too_long(width: int, height: int | None) -> None:
    host, device = "a-very-long-name-of-a-host.of.some.cluster", "MIG-6b1c3c6f-1a2b-3c4d-5e6f"
    workers = [
        worker(i, host=host, device=device, pid=4194304, trial=i, silent=3599.0) for i in range(3)
    ]
    running = [trial(i, planned=300, epochs=299, attempt=3, worker=f"w{i}") for i in range(3)]
    text = drawn(status(workers=workers, running=running), width, height)
    assert max(map(len, text.splitlines())) <= width
    rows = [line for line in text.splitlines() if "299/300" in line]
    assert len(rows) == 3
    assert all("4194304" in row and "93.1%" in row and "59 min 59 s ago" in row for row in rows)
    assert all("…" in row for row in rows)


def test_who_died_or_fell_silent_comes_first_and_is_marked() -> None:
    workers = [
        worker(0),
        worker(1, state="silent", trial=None, images_per_s=None, silent=600.0),
        worker(2, state="waiting", trial=None, images_per_s=None),
        worker(3, state="dead", trial=23, images_per_s=None),
        worker(4, state="silent", trial=None, images_per_s=None, silent=2 * 86400.0),
    ]
    running = [trial(20), trial(23, worker=None, attempt=2), trial(30, worker=None)]
    text = drawn(status(workers=workers, running=running), 80)
    found = lines(text)
    table = found[next(i for i, line in enumerate(found) if line.startswith("host")) + 2 :]
    assert table == [
        "gpu-node-3 4003 cuda:0 23 5/8 93.1% 2 dead",
        "gpu-node-1 4001 cuda:0 silent 10 min",
        "gpu-node-0 4000 cuda:0 20 5/8 93.1% 12,346 2 s ago",
        "gpu-node-2 4002 cuda:0 waits 2 s ago",
        "(nobody) 30 5/8 93.1%",
    ]
    assert "workers 2 at work, 2 silent, 1 dead, 3 left" in found, "all of them are counted"


def test_a_small_screen_says_how_many_workers_it_does_not_show() -> None:
    many = status(workers=[worker(i, trial=None) for i in range(64)], running=[])
    text = drawn(many, 80, height=24)
    shown = sum(line.startswith("gpu-node") for line in text.splitlines())
    assert len(text.splitlines()) <= 24
    assert shown and f"... and {64 - shown} more" in text
    assert drawn(many, 80).count("gpu-node") == 64, "printed, all of them"
    assert "more" not in drawn(many, 80, height=100)


def test_a_bar_and_a_warning_stand_on_a_screen_only() -> None:
    assert "━" in drawn(status(), 80, 24) and "━" not in drawn(status(), 80)
    assert "! the database is away" in lines(drawn(status(), 80, 24, "the database is away"))


def test_before_anything_has_finished_nothing_is_promised() -> None:
    unknown = {"searched": 0.0, "left": None}
    rate = {"trials_per_hour": None, "images_per_s": None}
    early = status(best=None, seconds=unknown, rate=rate, failures={}, advice=[])
    found = lines(drawn(early, 80))
    assert "best none yet" in found
    assert "time 0 s searched, time left unknown until a trial has finished" in found
    assert not any(line.startswith(("rate", "failures", "!")) for line in found)
    nobody = lines(drawn({**early, "workers": [], "running": []}, 80))
    assert "time 0 s searched, time left unknown since nobody is at work" in nobody
    assert not any(line.startswith("host") for line in nobody)


def test_what_has_ended_or_stopped_says_so() -> None:
    done = status(ended=True, stopped="search.hours = 2 are spent", workers=[], running=[])
    found = lines(drawn(done, 80))
    assert "stopped search.hours = 2 are spent" in found
    assert "time 12 min 3 s searched" in found
    assert overview.line(done).endswith("the search has ended; search.hours = 2 are spent")


def test_a_front_is_told_by_its_ends() -> None:
    front = [
        {"trial": 3, "accuracy": 0.98, "latency_ms": 0.5},
        {"trial": 1, "accuracy": 0.93, "latency_ms": 0.25},
    ]
    assert "front 2 trials, the fastest 93.0% in 0.25 ms" in lines(drawn(status(front=front), 80))
    one = [{"trial": 1, "accuracy": 0.93, "latency_ms": None}]
    assert "front 1 trial, the fastest 93.0%" in lines(drawn(status(front=one), 80))


def test_printed_in_a_pipe_it_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    overview.print_status(status(study="[s]"))
    out = capsys.readouterr().out
    assert out.startswith("study [s]\n") and "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "2 s ago  temperature 2.5" in out


def test_a_line_says_the_most_important() -> None:
    assert overview.line(status()) == (
        "20 of 40 trials done, 2 running, 1 failed; workers: 2 at work, 3 left; "
        "best 96.1% (trial 7); 142 trials/h, 24,691 images/s; about 1 h 15 min left"
    )


@pytest.mark.parametrize(
    ("changes", "another"),
    [
        ({"seconds": {"searched": 725.0, "left": 4490.0}}, False),
        ({"rate": {"trials_per_hour": 1.0, "images_per_s": None}}, False),
        ({"running": [trial(20, epochs=6), trial(21)]}, False),
        ({"workers": [worker(0, silent=4.0), worker(1)]}, False),
        ({"workers": [worker(0, state="silent"), worker(1)]}, True),
        ({"budget": {"trials": 40, "done": 21, "running": 1, "open": 18, "queued": 3}}, True),
        ({"best": {"trial": 21, "accuracy": 0.97, "parameters": {}}}, True),
        ({"failures": {"diverged": 2}}, True),
        ({"deaths": 1}, True),
        ({"ended": True}, True),
        ({"stopped": "hours"}, True),
    ],
)
def test_only_what_counts_is_worth_another_line(changes: dict[str, Any], another: bool) -> None:
    assert (overview.outline(status(**changes)) != overview.outline(status())) is another
