"""The commands about workers, typed in this process."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner, Result

from igkd_search import (
    cli,
    console,
    database,
    launch,
    pool,
    registry,
    searches,
    slots,
    spec,
    training,
    workers,
)
from igkd_search.identities import Identity, this_process
from tests import tiny
from tests.databases import prepared_url

MACHINE = workers.Machine("cpu", None, {})


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Type commands in this process; what they set for a process of their own is put back."""
    package, on_sigterm = logging.getLogger("igkd_search"), signal.getsignal(signal.SIGTERM)
    kept = package.handlers[:], package.level, package.propagate
    verbosity = optuna.logging.get_verbosity()
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setenv("IGKD_STORAGE_WAIT", "0")
    monkeypatch.chdir(tmp_path)
    yield lambda *typed: CliRunner().invoke(cli.app, [str(argument) for argument in typed])
    package.handlers[:], package.level, package.propagate = kept
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def base(searched: Path, tmp_path: Path, study: spec.Study) -> Iterator[database.Database]:
    """The tiny study after two trials, with a budget of three."""
    with contextlib.closing(database.connect(f"sqlite:///{searched / 'igkd.db'}")) as original:
        target = f"sqlite:///{tmp_path / 'igkd.db'}"
        with original.engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql(f"VACUUM INTO '{tmp_path / 'igkd.db'}'")
    opened = database.connect(target)
    registry.register(opened, study, trials=3)
    yield opened
    opened.close()


def test_a_worker_joins_by_the_name_of_the_study_and_leaves_when_the_budget_is_spent(
    igkd: Callable[..., Result], base: database.Database, searched: Path
) -> None:
    found = igkd("worker", "tiny", "--storage", base.url, "--home", searched)
    assert found.exit_code == 0, found.output
    assert found.stdout == "" and "the budget is spent; igkd best tiny" in found.stderr
    assert slots.Slots(base, "tiny").counts() == slots.Counts(3, 0, 0, 3)
    last = workers.rows(base, "tiny", this_process())[-1]
    assert (last.pid, last.state) == (os.getpid(), "left")


def test_a_worker_never_changes_the_budget_and_an_idle_one_loads_nothing(
    igkd: Callable[..., Result],
    base: database.Database,
    searched: Path,
    arrays: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.register(base, tiny.study(arrays), trials=2)
    file = tiny.write_study(Path("again.toml"), arrays, search={"trials": 50})
    monkeypatch.setattr(launch, "join", None)
    found = igkd("worker", file, "--storage", base.url, "--home", searched)
    assert found.exit_code == 0, found.output
    assert "the budget is spent" in found.stderr and "torch" not in found.stderr
    assert slots.Slots(base, "tiny").counts() == slots.Counts(2, 0, 0, 2)


def test_a_worker_that_is_asked_to_leave_ends_well_and_its_trial_waits(
    igkd: Callable[..., Result],
    base: database.Database,
    searched: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = training.train

    def asked_after_an_epoch(*arguments: Any, **options: Any) -> Iterator[training.EpochResult]:
        for record in train(*arguments, **options):
            signal.raise_signal(signal.SIGTERM)
            yield record

    monkeypatch.setattr(training, "train", asked_after_an_epoch)
    found = igkd("worker", "tiny", "--storage", base.url, "--home", searched)
    assert found.exit_code == 0, found.output
    assert "left: SIGTERM" in found.stderr
    assert slots.Slots(base, "tiny").counts() == slots.Counts(3, 1, 0, 2)


def test_a_worker_that_was_wanted_before_a_stop_leaves_at_once(
    igkd: Callable[..., Result],
    base: database.Database,
    searched: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # whoever started it asked for it then, and starts it again when it dies
    searches.ask_to_stop(base, "tiny")
    monkeypatch.setenv("IGKD_STOPS", "0")
    found = igkd("worker", "tiny", "--storage", base.url, "--home", searched)
    assert found.exit_code == 0, found.output
    assert "left: igkd stop" in found.stderr
    assert slots.Slots(base, "tiny").counts().done == 2


@pytest.mark.parametrize("command", ["worker", "stop"])
def test_what_is_not_there_is_refused_and_not_made(
    igkd: Callable[..., Result], tmp_path: Path, command: str
) -> None:
    found = igkd(command, "tiny")
    assert found.exit_code == 1 and "error: no database at" in found.stderr
    assert not (tmp_path / "storage").exists()
    found = igkd(command, "nobody", "--storage", prepared_url("sqlite", tmp_path))
    assert found.exit_code == 1 and "nobody" in found.stderr and "no" in found.stderr


def joined(base: database.Database, identity: Identity) -> workers.Register:
    register = workers.Register(base, "tiny", identity, MACHINE)
    register.join()
    return register


def test_a_stop_reaches_whoever_is_at_work_and_can_wait_for_them(
    igkd: Callable[..., Result], study: spec.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = prepared_url("postgresql", tmp_path)
    base = database.connect(url)
    registry.register(base, study)
    found = igkd("stop", "tiny", "--storage", url)
    assert (found.exit_code, found.stdout) == (0, "")
    assert found.stderr == (
        "no worker of 'tiny' is at work; those that are still preparing will leave too\n"
    )
    here, elsewhere = this_process(), replace(this_process(), host="elsewhere", boot_id="another")
    at_work = [joined(base, here), joined(base, elsewhere)]
    joined(base, this_process()).leave()  # it has left already
    found = igkd("stop", "tiny", "--storage", url)
    assert found.exit_code == 0
    assert "2 workers of 'tiny' on 2 hosts will leave after the current epoch" in found.stderr
    assert "all have left" not in found.stderr
    assert searches.read(base, "tiny").stops == 2

    def sleep(_seconds: float) -> None:
        at_work.pop().leave()
        joined(base, this_process())  # who comes after the stop is not waited for

    monkeypatch.setattr(time, "sleep", sleep)
    found = igkd("stop", "tiny", "--storage", url, "--wait")
    assert found.exit_code == 0 and found.stderr.endswith("all have left\n")
    assert at_work == []
    base.close()


@pytest.mark.parametrize("words", [[], ["tiny", "--any"], ["tiny", "--wait"]])
def test_a_worker_is_of_one_study_or_of_all(
    igkd: Callable[..., Result], tmp_path: Path, words: list[str]
) -> None:
    found = igkd("worker", *words)
    assert found.exit_code == 2 and "--any for all of them" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_all_studies_says_why_it_ended(
    igkd: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = prepared_url("sqlite", tmp_path)
    told = list[object]()

    def serve(base: database.Database, home: Path, device: str, *, wait: bool) -> str:
        told.extend([base.url, home, device, wait])
        return "budget" if len(told) == 4 else "SIGTERM"

    found = igkd("worker", "--any", "--storage", url)
    assert found.exit_code == 0 and "no study is unfinished" in found.stderr
    monkeypatch.setattr(pool, "serve", serve)
    found = igkd("worker", "--any", "--storage", url, "--home", "home", "--device", "cpu")
    assert (found.exit_code, found.stdout) == (0, "") and "no study is unfinished" in found.stderr
    assert told == [url, Path("home"), "cpu", False]
    assert "left: SIGTERM" in igkd("worker", "--any", "--wait", "--storage", url).stderr
    assert told[-1] is True
    refused = igkd("worker", "--any", "--storage", url, "--device", "abacus")
    assert refused.exit_code == 1 and "--device = abacus" in refused.stderr
