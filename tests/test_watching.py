"""Looking on with an injected clock: until the search has ended, and past a lost database."""

import io
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from igkd_search import console, watching
from igkd_search.errors import StorageLost
from tests.test_overview import status, trial, worker

AWAY = StorageLost("cannot use the database at sqlite:///x.db: gone")


@pytest.fixture(autouse=True)
def fresh_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})


class Search:
    """What is read, one look after the other; an error is raised. Its clock moves by the sleeps."""

    def __init__(self, *looks: dict[str, Any] | Exception) -> None:
        self.looks = list(looks)
        self.now = 1000.0
        self.slept: list[float] = []

    def read(self) -> dict[str, Any]:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def watch(self, show: watching.Show, **options: Any) -> dict[str, Any]:
        clock = {"sleep": self.sleep, "monotonic": lambda: self.now}
        return watching.watch(self.read, show, **{"patience": 900.0, **clock, **options})


def after(done: int, **changes: Any) -> dict[str, Any]:
    budget = {"trials": 40, "done": done, "running": 2, "open": 38 - done, "queued": 0}
    return status(budget=budget, ended=done == 40, **changes)


def noting(seen: list[tuple[int, str]]) -> watching.Show:
    return lambda found, note: seen.append((found["budget"]["done"], note))


def test_it_looks_on_until_the_search_has_ended() -> None:
    seen: list[tuple[int, str]] = []
    search = Search(after(1), after(2), after(40))
    assert search.watch(noting(seen), interval=5.0) == after(40)
    assert seen == [(1, ""), (2, ""), (40, "")]
    assert search.slept == [5.0, 5.0], "none once it has ended"


def test_a_search_that_has_ended_is_shown_once() -> None:
    seen: list[tuple[int, str]] = []
    search = Search(after(40))
    search.watch(noting(seen))
    assert seen == [(40, "")] and search.slept == []


def test_a_lost_database_is_waited_for_with_what_was_seen_last() -> None:
    seen: list[tuple[int, str]] = []
    Search(after(1), AWAY, AWAY, after(40)).watch(noting(seen))
    assert [done for done, _ in seen] == [1, 1, 1, 40]
    assert [bool(note) for _, note in seen] == [False, True, True, False]
    assert "gone" in seen[1][1]


def test_after_its_patience_the_loss_is_an_error() -> None:
    seen: list[tuple[int, str]] = []
    search = Search(after(1), *[AWAY] * 99)
    with pytest.raises(StorageLost, match="gone"):
        search.watch(noting(seen), interval=2.0, patience=10.0)
    assert sum(search.slept) == 10.0
    # and each absence has all of it
    search = Search(after(1), *[AWAY] * 4, after(2), *[AWAY] * 4, after(40))
    search.watch(noting(seen), interval=2.0, patience=10.0)


def test_patience_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGKD_STORAGE_WAIT", "0")
    search = Search(after(1), AWAY)
    with pytest.raises(StorageLost):
        search.watch(noting([]), patience=None)


def test_a_database_that_is_away_at_first_is_an_error() -> None:
    with pytest.raises(StorageLost):
        Search(AWAY, after(40)).watch(noting([]))


def stamp() -> datetime:
    return datetime(2025, 1, 31, 12, 0, 5)


def shown_by(
    manner: Callable[..., Any], capsys: pytest.CaptureFixture[str], *looks: Any, **options: Any
) -> tuple[list[str], str]:
    with manner(**options) as show:
        Search(*looks).watch(show)
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_in_a_pipe_there_is_a_line_for_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    further = after(1, running=[trial(20, epochs=7)], seconds={"searched": 9.0, "left": 1.0})
    looks = (after(1), further, after(2), AWAY, AWAY, after(2), after(40))
    found, err = shown_by(watching.as_lines, capsys, *looks, now=stamp)
    assert all(line.startswith("2025-01-31 12:00:05 ") for line in found)
    words = [line[20:] for line in found]
    assert [word.partition(" trials")[0] for word in words if "trials done" in word] == [
        "1 of 40",
        "2 of 40",
        "2 of 40",
        "40 of 40",
    ]
    assert words[2].startswith("cannot use the database") and len(words) == 5
    assert "the search has ended" in words[-1] and err == ""


def test_json_lines_are_one_document_a_change(capsys: pytest.CaptureFixture[str]) -> None:
    silent = after(1, workers=[worker(0, silent=9.0), worker(1)])
    later = after(1, seconds={"searched": 9.0, "left": 1.0})
    further = after(1, running=[trial(20, epochs=7)])
    looks = (after(1), silent, later, further, AWAY, AWAY, further, after(40))
    found, err = shown_by(watching.as_json, capsys, *looks)
    documents = [json.loads(line) for line in found]
    assert documents == [after(1), further, after(40)]
    assert err.count("cannot use the database") == 1


def test_a_screen_is_left_with_what_was_drawn_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=80, height=30, color_system=None)
    monkeypatch.setitem(console._consoles, "stdout", terminal)
    with watching.on_screen() as show:
        Search(after(1), AWAY, after(40)).watch(show)
    drawn, mark, left = seen.getvalue().partition("\x1b[?1049l")
    assert mark and drawn.startswith("\x1b[?1049h")
    assert drawn.index("1 of 40") < drawn.index("cannot use the database") < drawn.index("40 of 40")
    assert "study s" in left and "40 of 40 trials done" in left


def test_an_interruption_gives_the_screen_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=80, height=30, color_system=None)
    monkeypatch.setitem(console._consoles, "stdout", terminal)
    interrupted: Any = KeyboardInterrupt()
    search = Search(after(1))

    def sleep(_: float) -> None:
        raise interrupted

    with pytest.raises(KeyboardInterrupt), watching.on_screen() as show:
        search.watch(show, sleep=sleep)
    assert "1 of 40 trials done" in seen.getvalue().partition("\x1b[?1049l")[2]
