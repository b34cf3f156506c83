"""Results on standard output, all else on standard error; stages as bars or as plain lines."""

import io
import json
import logging
import math
import re
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.table import Table

from igkd_search import console

PLAN = ("teacher", "overlays", "trials")


class Clock:
    """A monotonic clock that stands until the test moves it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No consoles of other tests, none of the developer's wishes, and the log as it was."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "_consoles", {})
    package = logging.getLogger("igkd_search")
    before = list(package.handlers), package.level, package.propagate
    yield
    package.handlers[:], package.level, package.propagate = before
    assert console._display is None and console._planned == {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    hand = Clock()
    monkeypatch.setattr(console, "time", hand)
    return hand


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal in place of standard error is sent."""
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setitem(console._consoles, "stderr", terminal)
    return seen


def bars() -> dict[str, tuple[str, str, float | None, float]]:
    """Of each bar on display: its count, its word, its total, how far it is."""
    assert console._display is not None
    return {
        task.description: (task.fields["count"], task.fields["note"], task.total, task.completed)
        for task in console._display.tasks
    }


def test_without_a_terminal_a_stage_logs_its_begin_and_its_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with console.display(PLAN), console.stage("teacher", 3, "epochs") as stage:
        assert console._display is None
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
    with console.stage("targets", 100, "images") as stage:
        for _ in range(16):
            stage.advance(5)
            clock.now += 1
    counts = [message.split()[1] for message in caplog.messages]
    assert counts == ["0/100", "5/100", "30/100", "55/100", "80/100", "80/100"]


def test_a_stage_that_fails_says_nothing_of_an_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with pytest.raises(ZeroDivisionError), console.stage("start", note="loading"):
        raise ZeroDivisionError
    assert caplog.messages == ["start: loading"]


def test_settling_without_a_terminal_logs_the_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    console.settle("overlays", "found")
    assert caplog.messages == ["overlays: found"]


def test_results_go_to_standard_output_and_the_rest_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.log_to_terminal()
    logging.getLogger("igkd_search.teacher").info("a line of the log")
    console.print_table("best", ["name", "value"], [["kd_weight", "0.5"]])
    console.print_pairs("search", {"trials": "20"})
    console.print_json({"best": 1})
    console.print_error("storage/: not writable")
    out, err = capsys.readouterr()
    assert "a line of the log" in err and "error: storage/: not writable" in err
    assert "kd_weight" in out and "trials  20" in out and '"best": 1' in out
    assert "log" not in out and "storage" not in out
    assert "kd_weight" not in err and "best" not in err
    assert "\x1b" not in out + err  # no terminal: no colours, no cursor


def test_the_log_of_others_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    root = list(logging.getLogger().handlers)
    console.choose(console.Loudness(quiet=True))
    console.log_to_terminal()
    logging.getLogger("igkd_search.worker").info("too quiet")
    logging.getLogger("igkd_search.worker").warning("loud enough")
    assert logging.getLogger().handlers == root
    assert capsys.readouterr().err.split(" ", 1)[1] == "loud enough\n"


def test_logging_twice_to_the_terminal_says_everything_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.log_to_terminal()
    console.log_to_terminal()
    logging.getLogger("igkd_search").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_what_is_not_finite_becomes_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(
        {"nan": math.nan, "rows": [math.inf, (1, -math.inf)], "deep": {"π": 0.5, "none": None}}
    )
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {
        "nan": None,
        "rows": [None, [1, None]],
        "deep": {"π": 0.5, "none": None},
    }
    assert "π" in text and text.endswith("}\n")


def test_a_table_keeps_every_cell_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    cause = "bug: list index [i] of [/tmp] :smile:"
    console.print_table("trials", ["trial", "cause"], [["0", cause], ["[red]1", ""]])
    out = capsys.readouterr().out
    assert cause in out and "[red]1" in out and out.startswith("trials")


def test_columns_of_words_are_to_the_left_and_of_figures_to_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.print_table("", ["a", "long word", "figure"], [["x", "y", "1"]], left=2)
    row = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert [row.index(cell) for cell in "xy1"] == [0, 3, 19]


def test_wide_tables_are_not_cut_where_no_terminal_says_how_wide_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"column_{i}" for i in range(12)]
    console.print_table("", names, [[str(i) for i in range(12)]])
    header = capsys.readouterr().out.splitlines()
    assert any(all(name in line for name in names) for line in header)


def test_pairs_and_errors_show_brackets_and_long_values_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "sqlite:///" + "very/" * 60 + "[deep]/igkd.db"
    console.print_pairs("next", {"storage": long, "export": "igkd export digits -o best.toml"})
    console.print_error(f"{long}: found [3], allowed are [1, 2]")
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "next",
        f"  storage  {long}",
        "  export   igkd export digits -o best.toml",
    ]
    assert err == f"error: {long}: found [3], allowed are [1, 2]\n"


def test_all_planned_stages_are_shown_from_the_start(screen: io.StringIO) -> None:
    with console.display(PLAN):
        assert list(bars()) == list(PLAN)
        assert all(note == "waiting" for _, note, _, _ in bars().values())
        assert console._display is not None
        console._display.refresh()
        shown = screen.getvalue()
    assert all(name in shown for name in PLAN) and shown.count("waiting") >= len(PLAN)


def test_a_bar_follows_its_stage(screen: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with console.display(PLAN):
        with console.stage("teacher", 4, "epochs") as stage:
            assert bars()["teacher"] == ("0/4 epochs", "", 4, 0)
            stage.advance(3, note="trial 3: bug in [rows]")
            assert bars()["teacher"] == ("3/4 epochs", "trial 3: bug in [rows]", 4, 3)
            assert bars()["trials"][1] == "waiting"
        # stopped early: the bar is full, the count is true
        assert bars()["teacher"] == ("3/4 epochs", "trial 3: bug in [rows]", 3, 3)
    assert "trial 3: bug in [rows]" in screen.getvalue()
    assert caplog.messages == []  # the bar says it all


def test_a_stage_that_was_not_planned_gets_a_bar_of_its_own(screen: io.StringIO) -> None:
    with console.display(PLAN), console.stage("latency", 2, "steps"):
        assert list(bars()) == [*PLAN, "latency"]


def test_settling_a_planned_stage_fills_its_bar(screen: io.StringIO) -> None:
    with console.display(PLAN):
        console.settle("overlays", "found")
        assert bars()["overlays"] == ("", "found", 1, 1)


def test_a_stage_that_comes_back_takes_its_own_bar_again(screen: io.StringIO) -> None:
    with console.display(PLAN):
        with console.stage("teacher", 2, "epochs") as stage:
            stage.advance(2)
        with console.stage("teacher", 5, "epochs", note="again"):
            assert list(bars()) == list(PLAN)
            assert bars()["teacher"] == ("0/5 epochs", "again", 5, 0)


def test_a_display_within_a_display_shows_one(screen: io.StringIO) -> None:
    with console.display(PLAN):
        outer = console._display
        with console.display(("other",)):
            assert console._display is outer and "other" not in bars()
        assert console._display is outer


def test_an_error_leaves_no_display_behind(screen: io.StringIO) -> None:
    with pytest.raises(KeyboardInterrupt), console.display(PLAN):
        raise KeyboardInterrupt
    assert console._display is None
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_the_log_of_a_terminal_goes_above_the_bars(screen: io.StringIO) -> None:
    console.log_to_terminal()
    with console.display(PLAN):
        logging.getLogger("igkd_search.banks").warning("a bank was [rebuilt]")
    assert "a bank was [rebuilt]" in screen.getvalue()


def test_a_view_in_a_file_has_no_spaces_at_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Table.grid()
    grid.add_row("a", "b")
    grid.add_row("long", "er")
    console.print_view(grid)
    assert capsys.readouterr().out == "a   b\nlonger\n"


def test_what_others_wait_for_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Pipe(io.StringIO):
        def flush(self) -> None:
            seen.append(self.getvalue())

    monkeypatch.setattr("sys.stdout", Pipe())
    console.print_line("one")
    console.print_json_line({"π": math.nan})
    assert seen == ["one\n", 'one\n{"π": null}\n']


def test_a_screen_is_drawn_anew_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=40, height=5, color_system=None)
    monkeypatch.setitem(console._consoles, "stdout", terminal)
    with console.screen() as draw:
        draw("first")
        draw("second")
    text = seen.getvalue()
    assert text.startswith("\x1b[?1049h") and "\x1b[?25h" in text[-20:], "the cursor is back"
    assert text.index("first") < text.index("second") < text.index("\x1b[?1049l")


@pytest.mark.parametrize(("kind", "drawn"), [("xterm", True), ("dumb", False)])
def test_only_a_terminal_that_can_is_drawn_on(
    monkeypatch: pytest.MonkeyPatch, kind: str, drawn: bool
) -> None:
    assert not console.can_redraw(), "the tests' output is no terminal"
    terminal = Console(force_terminal=True, _environ={"TERM": kind})
    monkeypatch.setitem(console._consoles, "stdout", terminal)
    assert console.can_redraw() is drawn


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (723.0, "12 min 3 s"),
        (3600.0, "1 h"),
        (11520.0, "3 h 12 min"),
        (86399.0, "23 h 59 min"),
        (187200.0, "2 d 4 h"),
    ],
)
def test_time_spans_have_two_units(seconds: float, text: str) -> None:
    assert console.in_words(seconds) == text


def test_there_is_one_console_a_stream() -> None:
    assert console.terminal() is console.terminal("stderr")
    assert console.terminal("stdout") is not console.terminal("stderr")
    assert console.terminal("stdout").width == 160


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "best 99.7%, trial 6 3/8 95.0%"),
        (20, "best 99.7%"),
        (9, "best..."),
        (2, "be"),
    ],
)
def test_a_word_beside_a_bar_is_cut_between_words(width: int, shown: str) -> None:
    assert console.fitted("best 99.7%, trial 6 3/8 95.0%", width) == shown
    assert len(shown) <= width


@pytest.mark.parametrize(("seconds", "shown"), [(7.9, "0:07"), (102, "1:42"), (7389, "2:03:09")])
def test_time_taken_is_shown_as_by_a_clock(seconds: float, shown: str) -> None:
    assert console._clock(seconds) == shown


def lines_of(screen: io.StringIO) -> list[str]:
    """What a terminal showed last, without what moves its cursor."""
    assert console._display is not None
    screen.seek(0)
    screen.truncate()
    console._display.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.getvalue())
    return [line.rstrip() for line in shown.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 200])
def test_budget_best_and_time_left_are_read_at_any_width(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setitem(console._consoles, "stderr", terminal)
    with console.display(PLAN):
        with console.stage("overlays", 1150, "images") as stage:
            stage.advance(1150)
        with console.stage("trials", 100, "trials") as stage:
            console.foresee("trials", 250.0)
            stage.advance(6, "best 99.7%, trial 100 50/100 95.0%")
            *_, line = lines_of(seen)
    assert line.startswith("trials") and len(line) <= width
    assert "6/100" in line and "4 min left" in line and "best 99.7%" in line
    assert ("trial 100 50/100 95.0%" in line) == (width == 200)
    assert not line.endswith(("tri", ",", "…"))


def test_a_total_that_is_learnt_later_is_that_of_the_bar(screen: io.StringIO) -> None:
    with console.display(PLAN), console.stage("trials", unit="trials") as stage:
        stage.total = 14
        stage.advance(3)
        assert bars()["trials"] == ("3/14 trials", "", 14, 3)
        assert console._display is not None and not console._display.tasks[-1].finished


def test_what_was_foreseen_passes_and_ends_with_its_stage(clock: Clock) -> None:
    with console.stage("trials", 3, "trials"):
        console.foresee("trials", 100.0)
        clock.now += 30
        assert console._left("trials") == 70.0
        clock.now += 300
        assert console._left("trials") == 0.0
    assert console._left("trials") is None


def test_a_line_that_says_nothing_new_is_left_out(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    with console.stage("trials", 3, "trials") as stage:
        for note in ("best 1.0%", "best 1.0%", "best 2.0%"):
            console.foresee("trials", 42.0)
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
    with console.display(PLAN):
        assert console._display is None
    assert screen.getvalue() == ""


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setitem(console._consoles, "stderr", terminal)
    console.log_to_terminal()
    with console.display(PLAN):
        assert console._display is None
    assert seen.getvalue() == ""


def test_a_table_can_be_pasted_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("best", ["", "value"], [["accuracy", "0.5"], ["latency", ""]])
    out = capsys.readouterr().out
    assert out.isascii() and out == (
        "best\n          value\n---------------\naccuracy    0.5\nlatency\n"
    )


def test_a_table_stands_closer_before_it_breaks_words(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = []
    for width in (29, 28):
        seen = io.StringIO()
        terminal = Console(file=seen, force_terminal=True, width=width, color_system=None)
        monkeypatch.setitem(console._consoles, "stdout", terminal)
        console.print_table("", ["epochs", "accuracy", "temperature"], [["1", "2", "3"]])
        heads.append(seen.getvalue().splitlines()[0].rstrip())
    assert heads == ["epochs  accuracy  temperature", "epochs accuracy temperature"]
