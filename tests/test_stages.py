"""Stages are bars of one display on a terminal, and lines of the log everywhere else."""

import io
import logging
import re

import pytest
from rich.console import Console

from igkd_search import console, stages

PLAN = ("teacher", "overlays", "trials")
pytestmark = pytest.mark.usefixtures("own_terminal")


class Clock:
    """A monotonic clock that stands until the test moves it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    hand = Clock()
    monkeypatch.setattr(stages, "time", hand)
    return hand


def on_display() -> dict[str, tuple[str, str, float | None, float]]:
    """Of each bar on display: its count, its word, its total, how far it is."""
    assert stages._display is not None
    return {
        task.description: (task.fields["count"], task.fields["note"], task.total, task.completed)
        for task in stages._display.tasks
    }


def test_without_a_terminal_a_stage_logs_its_begin_and_its_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with stages.display(PLAN), stages.stage("teacher", 3, "epochs") as stage:
        assert stages._display is None
        for _ in range(3):
            clock.now += 1
            stage.advance(note="validation 97.0%")
    assert caplog.messages == [
        "teacher: 0/3 epochs",
        "teacher: 1/3 epochs · validation 97.0%",
        "teacher: 3/3 epochs · validation 97.0% · 3.0 s",
    ]


def test_plain_lines_come_at_most_every_five_seconds(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with stages.stage("targets", 100, "images") as stage:
        for _ in range(16):
            stage.advance(5)
            clock.now += 1
    counts = [message.split()[1] for message in caplog.messages]
    assert counts == ["0/100", "5/100", "30/100", "55/100", "80/100", "80/100"]


def test_a_stage_that_fails_says_nothing_of_an_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with pytest.raises(ZeroDivisionError), stages.stage("start", note="loading"):
        raise ZeroDivisionError
    assert caplog.messages == ["start: loading"]


def test_settling_without_a_terminal_logs_the_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    stages.settle("overlays", "found")
    assert caplog.messages == ["overlays: found"]


def test_all_planned_stages_are_shown_from_the_start(screen: io.StringIO) -> None:
    with stages.display(PLAN):
        assert list(on_display()) == list(PLAN)
        assert all(note == "waiting" for _, note, _, _ in on_display().values())
        assert stages._display is not None
        stages._display.refresh()
        shown = screen.getvalue()
    assert all(name in shown for name in PLAN) and shown.count("waiting") >= len(PLAN)


def test_a_bar_follows_its_stage(screen: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with stages.display(PLAN):
        with stages.stage("teacher", 4, "epochs") as stage:
            assert on_display()["teacher"] == ("0/4 epochs", "", 4, 0)
            stage.advance(3, note="trial 3: bug in [rows]")
            assert on_display()["teacher"] == ("3/4 epochs", "trial 3: bug in [rows]", 4, 3)
            assert on_display()["trials"][1] == "waiting"
        # stopped early: the bar is full, the count is true
        assert on_display()["teacher"] == ("3/4 epochs", "trial 3: bug in [rows]", 3, 3)
    assert "trial 3: bug in [rows]" in screen.getvalue()
    assert caplog.messages == []  # the bar says it all


def test_a_stage_that_was_not_planned_gets_a_bar_of_its_own(screen: io.StringIO) -> None:
    with stages.display(PLAN), stages.stage("latency", 2, "steps"):
        assert list(on_display()) == [*PLAN, "latency"]


def test_settling_a_planned_stage_fills_its_bar(screen: io.StringIO) -> None:
    with stages.display(PLAN):
        stages.settle("overlays", "found")
        assert on_display()["overlays"] == ("", "found", 1, 1)


def test_a_stage_that_comes_back_takes_its_own_bar_again(screen: io.StringIO) -> None:
    with stages.display(PLAN):
        with stages.stage("teacher", 2, "epochs") as stage:
            stage.advance(2)
        with stages.stage("teacher", 5, "epochs", note="again"):
            assert list(on_display()) == list(PLAN)
            assert on_display()["teacher"] == ("0/5 epochs", "again", 5, 0)


def test_a_display_within_a_display_shows_one(screen: io.StringIO) -> None:
    with stages.display(PLAN):
        outer = stages._display
        with stages.display(("other",)):
            assert stages._display is outer and "other" not in on_display()
        assert stages._display is outer


def test_an_error_leaves_no_display_behind(screen: io.StringIO) -> None:
    with pytest.raises(KeyboardInterrupt), stages.display(PLAN):
        raise KeyboardInterrupt
    assert stages._display is None
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_the_log_of_a_terminal_goes_above_the_bars(screen: io.StringIO) -> None:
    console.log_to_terminal()
    with stages.display(PLAN):
        logging.getLogger("igkd_search.banks").warning("a bank was [rebuilt]")
    assert "a bank was [rebuilt]" in screen.getvalue()


def test_a_total_that_is_learnt_later_is_that_of_the_bar(screen: io.StringIO) -> None:
    with stages.display(PLAN), stages.stage("trials", unit="trials") as stage:
        stage.total = 14
        stage.advance(3)
        assert on_display()["trials"] == ("3/14 trials", "", 14, 3)
        assert stages._display is not None and not stages._display.tasks[-1].finished


def test_what_was_foreseen_passes_and_ends_with_its_stage(clock: Clock) -> None:
    with stages.stage("trials", 3, "trials"):
        stages.foresee("trials", 100.0)
        clock.now += 30
        assert stages._left("trials") == 70.0
        clock.now += 300
        assert stages._left("trials") == 0.0
    assert stages._left("trials") is None


def test_a_line_that_says_nothing_new_is_left_out(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with stages.stage("trials", 3, "trials") as stage:
        for note in ("best 1.0%", "best 1.0%", "best 2.0%"):
            stages.foresee("trials", 42.0)
            stage.advance(0, note)
            clock.now += 6
    assert caplog.messages == [
        "trials: 0/3 trials",
        "trials: 0/3 trials · best 1.0% · about 42 s left",
        "trials: 0/3 trials · best 2.0% · about 42 s left",
        "trials: 0/3 trials · best 2.0% · 18.0 s",
    ]


@pytest.mark.parametrize("loudness", [console.Loudness(quiet=True), console.Loudness(as_json=True)])
def test_whoever_wants_less_gets_no_bars(screen: io.StringIO, loudness: console.Loudness) -> None:
    console.choose(loudness)
    with stages.display(PLAN):
        assert stages._display is None
    assert screen.getvalue() == ""


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setitem(console._consoles, "stderr", terminal)
    console.log_to_terminal()
    with stages.display(PLAN):
        assert stages._display is None
    assert seen.getvalue() == ""


def lines_of(screen: io.StringIO) -> list[str]:
    """What a terminal showed last, without what moves its cursor."""
    assert stages._display is not None
    screen.seek(0)
    screen.truncate()
    stages._display.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.getvalue())
    return [line.rstrip() for line in shown.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 200])
def test_budget_best_and_time_left_are_read_at_any_width(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setitem(console._consoles, "stderr", terminal)
    with stages.display(PLAN):
        with stages.stage("overlays", 1150, "images") as stage:
            stage.advance(1150)
        with stages.stage("trials", 100, "trials") as stage:
            stages.foresee("trials", 250.0)
            stage.advance(6, "best 99.7%, trial 100 50/100 95.0%")
            *_, line = lines_of(seen)
    assert line.startswith("trials") and len(line) <= width
    assert "6/100" in line and "4 min left" in line and "best 99.7%" in line
    assert ("trial 100 50/100 95.0%" in line) == (width == 200)
    assert not line.endswith(("tri", ",", "…"))
