"""A command ends with one line and an exit code, whatever stopped it; a bug keeps its traceback."""

import os
import signal
import sys

import optuna
import pytest
import typer

from igkd_search import processes
from igkd_search.endings import reporting
from igkd_search.errors import MaterialError


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No handlers of log or signals outlive a test."""
    monkeypatch.setattr("igkd_search.console.log_to_terminal", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.delenv("IGKD_DEBUG", raising=False)


def test_a_users_error_is_one_line_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reporting("digits"):
        raise MaterialError("the bank is about other images")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "error: the bank is about other images\n"


def test_an_interruption_says_that_nothing_is_lost_and_is_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit) as ended, reporting("digits"):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert "nothing is lost" in capsys.readouterr().err


def test_a_lost_database_is_a_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reporting("digits"):
        raise optuna.exceptions.StorageInternalError("disk I/O error")
    assert ended.value.exit_code == 1
    assert "error: the database was lost: disk I/O error;" in capsys.readouterr().err


def test_a_command_that_was_started_by_another_hears_of_its_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "no linux")  # this process has other parents
    monkeypatch.setenv(processes.SUPERVISOR, "1")
    with reporting("digits"):
        assert processes.SUPERVISOR not in os.environ


def test_a_bug_and_an_error_under_debug_come_out_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ZeroDivisionError), reporting("digits"):
        raise ZeroDivisionError
    monkeypatch.setenv("IGKD_DEBUG", "1")
    with pytest.raises(MaterialError), reporting("digits"):
        raise MaterialError("shown with its traceback")
