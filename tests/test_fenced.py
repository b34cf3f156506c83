"""Optuna's writes are committed only with the proof of the lease, and outlive an outage."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy.orm import Session

from igkd_search import fenced
from igkd_search.database import Database, connect
from igkd_search.errors import LeaseLost, StorageLost
from igkd_search.patience import Patience
from igkd_search.schema import slots as table
from igkd_search.slots import Claim, Slots
from tests.databases import KINDS, prepared_url


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    patience = Patience(60.0, sleep=lambda _: None)
    opened = connect(prepared_url(request.param, tmp_path), patience=patience)
    opened.write_study("s", {}, 1)
    Slots(opened, "s").set_budget(1)
    yield opened
    opened.close()


@pytest.fixture
def study(database: Database) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=database.storage, direction="maximize")


def claimed(slots: Slots) -> Claim:
    claim = slots.claim()
    assert claim is not None
    return claim


def lose(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(sa.update(table).values(attempt=table.c.attempt + 1))


def test_a_write_of_the_owner_is_committed_and_renews_its_lease(
    database: Database, study: optuna.Study
) -> None:
    slots = Slots(database, "s")
    claim = claimed(slots)
    before = slots.rows()[0].counter
    with slots.fenced(claim):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(0.5, 1)
        trial.set_user_attr("a", 1)
        study.tell(trial, 0.5)
    assert slots.rows()[0].counter > before
    (found,) = study.trials
    assert (found.intermediate_values, found.user_attrs, found.value) == ({1: 0.5}, {"a": 1}, 0.5)


def test_no_write_of_a_late_owner_is_committed(database: Database, study: optuna.Study) -> None:
    slots = Slots(database, "s")
    claim = claimed(slots)
    trial = study.ask()
    trial.report(0.5, 1)
    lose(database)
    writes: dict[str, Callable[[], object]] = {
        "an epoch": lambda: trial.report(0.6, 2),
        "attributes": lambda: database.storage.set_trial_attrs(trial._trial_id, {"b": 1}),
        "an attribute": lambda: trial.set_user_attr("a", 1),
        "a parameter": lambda: trial.suggest_float("x", 0, 1),
        "the end": lambda: study.tell(trial, 0.6),
        "a trial": lambda: study.enqueue_trial({}),
    }
    for write in writes.values():
        with slots.fenced(claim), pytest.raises(LeaseLost, match="attempt 1 is over"):
            write()
    (found,) = optuna.load_study(study_name="s", storage=database.storage).trials
    assert (found.intermediate_values, found.user_attrs, found.params) == ({1: 0.5}, {}, {})
    assert found.state == optuna.trial.TrialState.RUNNING


def test_attributes_are_set_in_one_transaction(database: Database, study: optuna.Study) -> None:
    slots = Slots(database, "s")
    claim, trial = claimed(slots), study.ask()
    trial.set_user_attr("a", 1)
    before = slots.rows()[0].counter
    with slots.fenced(claim):
        database.storage.set_trial_attrs(trial._trial_id, {"a": 2, "b": "two", "c": 0.5})
    assert slots.rows()[0].counter == before + 1
    assert study.trials[0].user_attrs == {"a": 2, "b": "two", "c": 0.5}


def test_the_proof_is_made_in_the_transaction_of_the_write(
    database: Database, study: optuna.Study
) -> None:
    """The lease is lost after every check that could be made before the write."""
    slots = Slots(database, "s")
    claim = claimed(slots)
    trial = study.ask()

    def lose_it(session: Session) -> None:
        session.execute(sa.update(table).values(attempt=table.c.attempt + 1))
        change = sa.update(table).where(table.c.attempt == claim.attempt).values(counter=99)
        if session.connection().execute(change).rowcount != 1:
            raise LeaseLost("too late")

    with database.storage.guarded(lose_it), pytest.raises(LeaseLost):
        trial.report(0.5, 1)
    assert study.trials[0].intermediate_values == {}
    assert slots.rows()[0].attempt == claim.attempt, "both are rolled back"


def test_reading_needs_no_lease_and_outside_nothing_does(
    database: Database, study: optuna.Study
) -> None:
    slots = Slots(database, "s")
    claim = claimed(slots)
    trial = study.ask()
    lose(database)
    with slots.fenced(claim):
        assert [found.number for found in study.get_trials()] == [0]
        assert database.storage.get_trial(trial._trial_id).number == 0
    trial.report(0.5, 1)
    assert study.trials[0].intermediate_values == {1: 0.5}


def test_an_operation_is_repeated_while_the_database_is_away(
    database: Database, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, calls = study.ask(), list[int]()
    begin = sa.Engine.connect

    def away(engine: sa.Engine) -> sa.Connection:
        calls.append(1)
        if len(calls) <= 3:
            raise sa.exc.TimeoutError("no connection is free")
        return begin(engine)

    monkeypatch.setattr(sa.Engine, "connect", away)
    trial.report(0.5, 1)
    assert len(calls) > 3
    assert study.trials[0].intermediate_values == {1: 0.5}
    calls.clear()
    with database.patience.once(), pytest.raises(StorageLost, match="the database is away: no con"):
        trial.report(0.6, 2)
    assert len(calls) == 1


def test_every_operation_of_optuna_is_fenced_or_only_reads() -> None:
    """A new release of Optuna must not bring a way round."""
    known = {*fenced.WRITES, *fenced.READS}
    source = inspect.getsource(_CachedStorage)
    used = {word.split("(")[0] for word in source.split("self._backend.")[1:]}
    heartbeat = {name for name in used if "heartbeat" in name or "stale" in name}
    assert used - heartbeat - {"delete_study"} <= known
    abstract = optuna.storages.BaseStorage.__abstractmethods__
    assert set(abstract) - {"delete_study"} <= known
    for name in known:
        assert getattr(fenced.FencedStorage, name) is not getattr(RDBStorage, name)
