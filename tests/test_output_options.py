"""--quiet, -v and --log-json: of every command, before its name and after it, once."""

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from igkd_search import cli, console, output_options, stages

log = logging.getLogger("igkd_search.worker")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(console, "_consoles", {})
    yield
    assert stages._display is None


def typed(*arguments: str) -> Result:
    """A command that logs, warns, works and prints, typed with these options."""
    app = output_options.App()

    @app.callback()
    def options() -> None:
        """All commands."""

    @app.command()
    def work(count: int = 1) -> None:
        console.log_to_terminal()
        log.debug("looked at %d", count)
        log.info("did %d", count)
        log.warning("odd")
        console.print_note("typed well")
        with stages.display(["trials"]), stages.stage("trials", 2, "trials") as stage:
            stage.advance()
        console.print_line("result")
        console.print_error("in vain")

    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("arguments", [["--quiet", "work"], ["work", "--quiet"]], ids=" ".join)
def test_quiet_leaves_warnings_errors_and_the_result(arguments: list[str]) -> None:
    found = typed(*arguments)
    assert found.exit_code == 0, found.output
    assert found.stdout == "result\n"
    assert [line.split(" ", 1)[1] for line in found.stderr.splitlines()] == ["odd", "in vain"]


@pytest.mark.parametrize(
    "arguments", [["-v", "work"], ["work", "--verbose"], ["-v", "work", "-v"]], ids=" ".join
)
def test_verbose_says_who_says_it(arguments: list[str]) -> None:
    lines = [line.split(" ", 1)[1] for line in typed(*arguments).stderr.splitlines()]
    assert "DEBUG igkd_search.worker: looked at 1" in lines
    assert "WARNING igkd_search.worker: odd" in lines


def test_without_any_of_them_there_is_no_debugging() -> None:
    typed("work", "-v")
    said = typed("work").stderr
    assert "did 1" in said and "typed well" in said and "looked" not in said


@pytest.mark.parametrize(
    "arguments", [["--log-json", "work"], ["work", "--log-json"]], ids=" ".join
)
def test_each_line_of_the_log_is_an_object(arguments: list[str]) -> None:
    found = typed(*arguments)
    lines = [json.loads(line) for line in found.stderr.splitlines()]
    assert found.stdout == "result\n"
    assert all({"time", "level", "module", "message"} <= set(line) for line in lines)
    assert {line["time"][-6:] for line in lines} == {"+00:00"}
    said = [(line["level"], line["message"]) for line in lines if "stage" not in line]
    assert said == [
        ("info", "did 1"),
        ("warning", "odd"),
        ("info", "typed well"),
        ("error", "in vain"),
    ]
    assert lines[0]["module"] == "worker"
    stages = [line["stage"] for line in lines if "stage" in line]
    assert [(each["done"], each["total"], each["ended"]) for each in stages] == [
        (0, 2, False),
        (1, 2, False),
        (1, 2, True),
    ]
    assert set(stages[0]) == {
        *("name", "done", "total", "unit", "note", "seconds", "left_seconds", "ended")
    }


def test_tracebacks_and_warnings_are_objects_too(capsys: pytest.CaptureFixture[str]) -> None:
    console.choose(console.Loudness(as_json=True))
    console.log_to_terminal()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("a bug")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["traceback"].startswith("Traceback") and first["message"] == "a bug"
    assert second["module"] == "py.warnings" and "old" in second["message"]


@pytest.mark.parametrize(
    "arguments",
    [["--quiet", "-v", "work"], ["--quiet", "work", "-v"], ["work", "--quiet", "-v"]],
    ids=" ".join,
)
def test_quiet_and_verbose_exclude_each_other(arguments: list[str]) -> None:
    found = typed(*arguments)
    assert found.exit_code == 2 and "--quiet and --verbose: one of them" in found.stderr


def test_every_command_has_them() -> None:
    commands = typer.main.get_command(cli.app)
    named = {"quiet", "verbose", "log_json"}
    assert named <= {each.name for each in commands.params}
    for name, command in commands.commands.items():  # type: ignore[attr-defined]
        assert named <= {each.name for each in command.params}, name


def test_children_log_as_this_process_does_but_never_less() -> None:
    assert output_options.typed() == ()
    console.choose(console.Loudness(quiet=True))
    assert output_options.typed() == ()
    console.choose(console.Loudness(verbose=True, as_json=True))
    assert output_options.typed() == ("--verbose", "--log-json")


def test_a_log_of_optuna_goes_where_ours_goes(tmp_path: Path) -> None:
    import optuna

    console.log_to_terminal()
    ours = logging.getLogger("igkd_search").handlers
    assert logging.getLogger("optuna").handlers == ours and optuna is not None
