"""A search seen from outside: how far it is, how it ended, and a database that goes away."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from igkd_search import (
    database,
    registry,
    searches,
    slots,
    spec,
    stages,
    study_file,
    workers,
)
from igkd_search.errors import StorageLost
from igkd_search.identities import this_process
from igkd_search.spectator import Spectator, stops_so_far
from tests.databases import KINDS, prepared_url

SPACE = {"kd_weight": {"low": 0.0, "high": 1.0}}


def study_of(**search: Any) -> spec.Study:
    plain = {"name": "mine", "search": {"trials": 2, "space": SPACE, **search}}
    return study_file.check(spec.Study, plain, "test")


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[database.Database]:
    opened = database.connect(prepared_url(request.param, tmp_path))
    registry.register(opened, study_of())
    yield opened
    opened.close()


@contextmanager
def spectator(
    base: database.Database, **search: Any
) -> Iterator[tuple[Spectator, stages.Stage, list[float]]]:
    now, stage = [0.0], stages.Stage("trials", 0, "trials", None)
    watching = Spectator(base.url, study_of(**search), stage, 0, lambda: now[0])
    yield watching, stage, now
    watching.close()


def finish(base: database.Database, accuracy: float) -> None:
    """A trial that is complete, and its slot."""
    table = slots.Slots(base, "mine")
    claim = table.claim()
    assert claim is not None
    study = optuna.load_study(study_name="mine", storage=base.storage)
    trial = study.ask()
    trial.suggest_float("kd_weight", 0.0, 1.0)
    study.tell(trial, accuracy)
    table.finish(claim, "complete")


def test_it_shows_budget_best_and_workers_once_a_second(base: database.Database) -> None:
    register = workers.Register(base, "mine", this_process(), workers.Machine("cpu", None, {}))
    with spectator(base) as (watching, stage, now):
        watching.look()
        assert (stage.done, stage.total, stage.note) == (0, 2, "no best yet, 0 workers")
        register.join()
        finish(base, 0.75)
        now[0] = 0.9
        watching.look()
        assert stage.done == 0
        now[0] = 1.0
        watching.look()
        assert (stage.done, stage.total, stage.note) == (1, 2, "best 75.0%, 1 worker")
        assert not watching.finished
        finish(base, 0.5)
        register.leave()
        now[0] = 2.0
        watching.look()
        assert (stage.done, stage.note) == (2, "best 75.0%, 0 workers")
        assert watching.finished and watching.ending() == "budget"


def test_it_says_why_the_workers_have_left(base: database.Database) -> None:
    with spectator(base) as (watching, _, _):
        assert watching.ending() == "its workers have left; the same command goes on"
        searches.ask_to_stop(base, "mine")
        assert watching.ending() == "igkd stop"
    for _ in range(2):
        finish(base, 0.5)
    registry.register(base, study_of(), trials=4)
    with spectator(base, patience=1) as (watching, _, _):
        searches.ask_to_stop(base, "mine")
        assert watching.ending() == "igkd stop"
    assert stops_so_far(base.url, "mine") == 2
    told = Spectator(base.url, study_of(patience=1), stages.Stage("trials", 0, "", None), 2)
    assert told.ending().startswith("search.patience = 1: the last 1 trials brought none")
    told.close()


def test_a_database_that_is_away_is_waited_for(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageLost("the database is away: it sleeps")

    with spectator(base) as (watching, stage, now):
        with monkeypatch.context() as away:
            away.setattr(workers, "rows", fail)
            watching.look()
            assert stage.note == "the database is away: it sleeps"
            assert watching.ending() == "the database is away: it sleeps"
        now[0] = 5.0
        watching.look()
        assert stage.note == "no best yet, 0 workers"


def test_a_database_that_nobody_has_made_has_never_asked_anyone_to_stop(tmp_path: Path) -> None:
    assert stops_so_far(f"sqlite:///{tmp_path / 'none.db'}", "mine") == 0
    assert json.dumps([str(path) for path in tmp_path.iterdir()]) == "[]"
