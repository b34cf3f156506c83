from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search import searches, workers
from igkd_search.database import Database, connect
from igkd_search.errors import StorageError
from igkd_search.identities import Identity, this_process
from igkd_search.schema import metadata
from igkd_search.schema import workers as table
from tests.databases import KINDS, prepared_url

MACHINE = workers.Machine("cuda:0", "GPU-1234", {"torch": "2.15", "optuna": "5.0"})


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url(request.param, tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url("sqlite", tmp_path))
    yield opened
    opened.close()


def register(
    base: Database, identity: Identity | None = None, study: str = "s"
) -> workers.Register:
    return workers.Register(base, study, identity or this_process(), MACHINE)


def elsewhere() -> Identity:
    return replace(this_process(), host="elsewhere", boot_id="another boot")


def only_row(base: Database) -> workers.WorkerRow:
    (row,) = workers.rows(base, "s", this_process())
    return row


def silence(base: Database, seconds: float) -> None:
    with base.transaction() as connection:
        connection.execute(sa.update(table).values(last_seen=base.now - seconds))


def test_a_worker_says_who_and_where_it_is(base: Database) -> None:
    me = this_process()
    register(base, me).join()
    row = only_row(base)
    assert (row.worker, row.host, row.pid) == (me.owner, me.host, me.pid)
    assert (row.device, row.uuid, row.versions) == ("cuda:0", "GPU-1234", dict(MACHINE.versions))
    assert (row.state, row.alive, row.dead) == ("waiting", True, False)
    assert row.trial_number is None and row.silent < 60


def test_what_it_works_on_is_told_with_the_next_sign_of_life(base: Database) -> None:
    mine = register(base)
    mine.join()
    mine.say(state="training", slot=3, trial_number=4, epoch=1, epochs=8, images_per_s=99.5)
    assert only_row(base).state == "waiting", "nothing is written in between"
    mine.say(epoch=2)
    mine.beat()
    row = only_row(base)
    told = (row.state, row.slot, row.trial_number, row.epoch, row.epochs, row.images_per_s)
    assert told == ("training", 3, 4, 2, 8, 99.5)
    mine.leave()
    row = only_row(base)
    assert (row.state, row.trial_number, row.images_per_s, row.alive) == ("left", None, None, False)


def test_a_worker_hears_that_its_study_was_asked_to_stop(base: Database) -> None:
    mine = register(base)
    assert mine.join() == 0
    searches.ask_to_stop(base, "s")
    searches.ask_to_stop(base, "another")
    assert mine.beat() == 1
    assert register(base).join() == 1


def test_who_is_silent_for_long_is_not_taken_for_alive(base: Database) -> None:
    mine = register(base, elsewhere())
    mine.join()
    silence(base, workers.SILENT_SECONDS + 5)
    row = only_row(base)
    assert not row.alive and not row.dead, "nobody here can know"
    mine.beat()
    assert only_row(base).alive


def test_a_dead_process_of_this_host_is_known_to_be_dead(base: Database) -> None:
    register(base, replace(this_process(), process_started="1")).join()
    row = only_row(base)
    assert row.dead and not row.alive


def test_joining_twice_leaves_one_row(base: Database) -> None:
    mine = register(base)
    mine.join()
    mine.join()
    assert only_row(base).state == "waiting"


def test_workers_are_listed_by_study_in_order_of_their_coming(base: Database) -> None:
    for study in ("s", "other", "s"):
        register(base, this_process(), study).join()
    reader = this_process()
    assert [len(workers.rows(base, name, reader)) for name in ("s", "other", None)] == [2, 1, 3]
    started = [row.started for row in workers.rows(base, None, reader)]
    assert started == sorted(started)


def test_a_sqlite_file_serves_one_host_and_the_error_says_what_to_type(sqlite: Database) -> None:
    there = register(sqlite, elsewhere())
    there.join()
    with pytest.raises(StorageError) as raised:
        register(sqlite).join()
    said = str(raised.value)
    assert "elsewhere works on this one" in said
    assert "igkd copy s --to postgresql+psycopg://USER@HOST/igkd" in said
    there.leave()
    register(sqlite).join()
    assert len([row for row in workers.rows(sqlite, "s", this_process()) if row.alive]) == 1


def test_postgres_serves_many_hosts(tmp_path: Path) -> None:
    base = connect(prepared_url("postgresql", tmp_path))
    register(base, elsewhere()).join()
    register(base).join()
    assert {row.host for row in workers.rows(base, "s", this_process())} == {
        "elsewhere",
        this_process().host,
    }
    base.close()


def test_an_older_database_that_is_only_read_has_no_register(base: Database) -> None:
    with base.transaction() as connection:
        metadata.drop_all(connection, [table])
    assert workers.rows(base, "s", this_process()) == []


def test_what_needs_a_study_at_rest_waits_for_its_workers(base: Database) -> None:
    workers.check_idle(base, "s", this_process(), "move it")
    mine = register(base)
    mine.join()
    register(base, study="other").join()
    register(base, replace(this_process(), process_started="1")).join()
    with pytest.raises(StorageError, match=r"a worker is at work, on .*, and move it then"):
        workers.check_idle(base, "s", this_process(), "move it")
    mine.leave()
    workers.check_idle(base, "s", this_process(), "move it")
