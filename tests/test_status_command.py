"""`igkd status` as typed: once, looking on, in a pipe and as lines of JSON; how it ends."""

import json
import logging
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner, Result

from igkd_search import cli, console, progress, registry, spec, study_file, watching
from igkd_search.database import connect
from tests.databases import prepared_url
from tests.test_overview import status

Igkd = Callable[..., Result]


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Igkd]:
    """Type commands about the study `s`, whose search has not begun; nobody sleeps."""
    package, on_sigterm = logging.getLogger("igkd_search"), signal.getsignal(signal.SIGTERM)
    kept = package.handlers[:], package.level, package.propagate
    verbosity = optuna.logging.get_verbosity()
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.chdir(tmp_path)
    url = prepared_url("sqlite", tmp_path)
    monkeypatch.setenv("IGKD_STORAGE", url)
    base = connect(url)
    plain = {"name": "s", "search": {"space": {"kd_weight": {"low": 0.0, "high": 1.0}}}}
    registry.register(base, study_file.check(spec.Study, plain, "test"))
    base.close()
    yield lambda *arguments: CliRunner().invoke(cli.app, [str(each) for each in arguments])
    package.handlers[:], package.level, package.propagate = kept
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each look at the study finds from now on, instead of what is there."""
    found: list[Any] = []

    def read(_: progress.Reader) -> dict[str, Any]:
        look = found.pop(0)
        if isinstance(look, BaseException):
            raise look
        return dict(look)

    monkeypatch.setattr(progress.Reader, "read", read)
    sleepless = partial(watching.watch, sleep=lambda seconds: None)
    monkeypatch.setattr(watching, "watch", sleepless)
    return found


def test_once_it_prints_and_ends(igkd: Igkd) -> None:
    table = igkd("status", "s")
    assert table.exit_code == 0 and "0 of 20 trials done, 0 running, 20 open" in table.stdout
    assert "igkd worker s" in table.stdout and table.stderr == ""
    found = json.loads(igkd("status", "s", "-f", "json").stdout)
    assert found["study"] == "s" and found["budget"]["open"] == 20


def test_looking_on_ends_by_itself_with_the_search(igkd: Igkd, looks: list[Any]) -> None:
    looks += [status(), status(deaths=1), status(ended=True)]
    result = igkd("status", "s", "--watch", "--interval", 0.5)
    assert result.exit_code == 0 and looks == []
    assert [line.count("20 of 40 trials done") for line in result.stdout.splitlines()] == [1, 1, 1]
    looks += [status(), status(ended=True)]
    lines = igkd("status", "s", "-w", "-f", "json").stdout.splitlines()
    assert [json.loads(line)["ended"] for line in lines] == [False, True]


def test_leaving_is_no_error_but_not_the_end_of_the_search(igkd: Igkd, looks: list[Any]) -> None:
    looks += [status(), KeyboardInterrupt()]
    result = igkd("status", "s", "--watch")
    assert result.exit_code == 130 and result.stderr == ""
    assert len(result.stdout.splitlines()) == 1


def test_an_interval_must_be_one(igkd: Igkd) -> None:
    assert igkd("status", "s", "--watch", "--interval", 0).exit_code == 2


def test_an_unknown_study_is_named_at_once(igkd: Igkd) -> None:
    result = igkd("status", "other", "--watch")
    assert result.exit_code == 1 and "no study 'other' at" in result.stderr
