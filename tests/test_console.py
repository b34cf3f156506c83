"""Results on standard output, all else on standard error, whole and as they are."""

import io
import json
import logging
import math

import pytest
from rich.console import Console
from rich.table import Table

from igkd_search import console

pytestmark = pytest.mark.usefixtures("own_terminal")


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


def test_sentences_break_between_words_and_never_within_a_formula(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "kd:shuffled [not a style] is 4.05 points below baseline (95% interval 2.72, p ="
    console.print_list("shown", [f"{words} 0.006, n = 4).", "short"])
    assert capsys.readouterr().out.splitlines() == [
        "shown",
        "  - kd:shuffled [not a style] is 4.05 points below baseline (95% interval 2.72,",
        "    p = 0.006, n = 4).",
        "  - short",
    ]


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


def test_there_is_one_console_a_stream() -> None:
    assert console.terminal() is console.terminal("stderr")
    assert console.terminal("stdout") is not console.terminal("stderr")
    assert console.terminal("stdout").width == 160


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
