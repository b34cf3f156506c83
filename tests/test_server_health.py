"""A server's answers as findings: who may do what, how far, how late, how full it is."""

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search import connections, server_health
from igkd_search.connections import Room
from igkd_search.findings import Finding
from tests.databases import fresh_url, prepared_url, run_on_server

ROLE = "server_health"


@pytest.fixture(scope="module", autouse=True)
def role() -> None:
    """A role that owns nothing and may do nothing; it goes with the server."""
    run_on_server(f"CREATE ROLE {ROLE} LOGIN")


def administer(url: str, statement: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def found_by_name(url: str, user: str = "postgres") -> dict[str, Finding]:
    engine = sa.create_engine(sa.make_url(url).set(username=user), poolclass=sa.NullPool)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        return {one.name: one for one in server_health.examine(connection)}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return prepared_url("postgresql", tmp_path)


@pytest.fixture
def empty(tmp_path: Path) -> str:
    return fresh_url("postgresql", tmp_path)


def test_the_owner_of_an_empty_database_has_all_it_needs(empty: str) -> None:
    found = found_by_name(empty)
    assert {one.state for one in found.values()} == {"ok"}
    assert "makes tables as well" in found["writing"].found
    assert "of 100 free" in found["connections"].found


def test_who_may_not_make_the_tables_is_told_who_does(empty: str) -> None:
    writing = found_by_name(empty, ROLE)["writing"]
    assert writing.state == "fault" and "igkd_owner" in writing.advice


def test_a_role_without_rights_is_told_of_one_that_it_lacks(url: str) -> None:
    writing = found_by_name(url, ROLE)["writing"]
    assert writing.state == "fault" and "SELECT" in writing.found
    assert "roles.sql" in writing.advice


def test_a_role_that_only_reads_is_a_warning(url: str) -> None:
    administer(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
    writing = found_by_name(url, ROLE)["writing"]
    assert writing.state == "warning" and "igkd_worker" in writing.advice


def test_one_right_that_is_absent_is_enough_for_the_warning(url: str) -> None:
    administer(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
    assert found_by_name(url, ROLE)["writing"].state == "ok"
    administer(url, f"REVOKE DELETE ON igkd_slots FROM {ROLE}")
    assert found_by_name(url, ROLE)["writing"].state == "warning"


def test_a_role_that_writes_rows_is_well_though_it_makes_no_table(url: str) -> None:
    administer(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
    assert "makes and drops no table" in found_by_name(url, ROLE)["writing"].found


@pytest.mark.parametrize(("hours", "order"), [(1, "behind"), (-1, "ahead of")])
def test_a_clock_that_is_off_is_a_warning(
    url: str, monkeypatch: pytest.MonkeyPatch, hours: int, order: str
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    clock = found_by_name(url)["clock"]
    assert clock.state == "warning" and f" s {order} this host's" in clock.found


def test_a_server_that_is_far_away_is_a_warning(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    found = found_by_name(url)["round trip"]
    assert found.state == "warning" and found.found.startswith("1000.0 ms")


@pytest.mark.parametrize(
    ("room", "state", "words"),
    [
        (Room(100, 3, 90), "ok", "7 of 100 free, enough for 3 more workers"),
        (Room(100, 3, 96), "warning", "1 of 100 free, enough for 0 more workers"),
        (None, "ok", "through a pooler"),
    ],
)
def test_connections_that_are_left_are_counted_in_workers(
    url: str, monkeypatch: pytest.MonkeyPatch, room: Room | None, state: str, words: str
) -> None:
    monkeypatch.setattr(connections, "room", lambda connection: room)
    found = found_by_name(url)["connections"]
    assert found.state == state and words in found.found


def test_a_check_that_fails_leaves_the_others_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_health, "_STATE", sa.text("SELECT no_such_function()"))
    found = found_by_name(url)
    assert found["writing"].state == "fault" and "no_such_function" in found["writing"].found
    assert found["clock"].state == found["connections"].state == "ok"
