"""Workers that a server has no connections for are refused before they start, with the numbers."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search import connections
from igkd_search.connections import Room, check_room, room
from igkd_search.database import CONNECTIONS, Database, connect
from igkd_search.errors import StorageError
from tests import poolers
from tests.databases import prepared_url, run_on_server


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url("postgresql", tmp_path))
    yield opened
    opened.close()


def room_of(base: Database) -> Room:
    with base.transaction() as connection:
        found = room(connection)
    assert found is not None
    return found


def test_the_server_is_asked(postgres: Database) -> None:
    before = room_of(postgres)
    assert before.limit == 100 and before.reserved == 3 and before.used >= 1
    with postgres.engine.connect() as one, postgres.engine.connect() as two:
        one.execute(sa.text("SELECT 1"))
        two.execute(sa.text("SELECT 1"))
        assert room_of(postgres).used > before.used


def test_a_role_that_sees_no_others_counts_them_too(postgres: Database) -> None:
    role = f"r{secrets.token_hex(8)}"
    run_on_server(f"CREATE ROLE {role} LOGIN")
    as_role = sa.make_url(postgres.url).set(username=role)
    engine = sa.create_engine(as_role, poolclass=sa.NullPool)
    with postgres.engine.connect() as mine:
        mine.execute(sa.text("SELECT 1"))
        with engine.connect() as connection:
            found = room(connection)
    assert found is not None and found.used >= 2
    run_on_server(f"DROP ROLE {role}")


def test_workers_that_fit_are_let_through(postgres: Database) -> None:
    check_room(postgres, room_of(postgres).workers)


def test_workers_that_do_not_fit_are_told_the_numbers_and_the_ways_out(postgres: Database) -> None:
    with pytest.raises(StorageError) as refused:
        check_room(postgres, 1000)
    message = str(refused.value)
    assert f"1000 workers need {1000 * CONNECTIONS}" in message
    assert "100 in all, 3 kept for administrators" in message
    assert f"start {room_of(postgres).workers} at most (--workers)" in message
    assert "max_connections" in message and "PgBouncer (storage/README.md)" in message


def test_a_server_that_is_full_has_room_for_none(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "room", lambda connection: Room(20, 3, 18))
    with pytest.raises(StorageError, match=r"0 connections free.* 1 worker needs 2: raise"):
        check_room(postgres, 1)


def test_sqlite_counts_no_connections(tmp_path: Path) -> None:
    base = connect(prepared_url("sqlite", tmp_path))
    check_room(base, 10_000)
    with base.transaction() as connection:
        assert room(connection) is None
    base.close()


@pytest.mark.skipif(poolers.PROGRAM is None, reason="pgbouncer is not on PATH (apt: pgbouncer)")
def test_behind_a_pooler_workers_share_what_there_is(postgres: Database) -> None:
    with poolers.pooler(postgres.url, {"postgres": "word"}) as address:
        place = sa.make_url(address).set(username="postgres", password="word")
        pooled = connect(place.render_as_string(hide_password=False))
        with pooled.transaction() as connection:
            assert connections.is_pooled(connection)
        check_room(pooled, 1000)
        pooled.close()
    with postgres.transaction() as connection:
        assert not connections.is_pooled(connection)
