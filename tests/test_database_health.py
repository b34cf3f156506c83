"""A database from outside: there or not, whose tables, which study; nothing of it is changed."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search import database_health, filesystems
from igkd_search.database import connect
from igkd_search.findings import Finding
from igkd_search.identities import this_process
from igkd_search.schema import SCHEMA_VERSION, metadata, schema
from igkd_search.slots import Slots
from igkd_search.workers import Machine, Register
from tests import tiny
from tests.databases import KINDS, Kind, fresh_url, prepared_url


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def found_by_name(url: str, typed: bool = False) -> dict[str, Finding]:
    return {one.name: one for one in database_health.examine(url, typed)}


def faults(found: dict[str, Finding]) -> set[str]:
    return {one.name for one in found.values() if one.state == "fault"}


def snapshot(folder: Path) -> dict[Path, bytes]:
    beside = ("-wal", "-shm")  # what SQLite needs while it reads
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if not path.name.endswith(beside)}


def change(url: str, *statements: object) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(str(statement)))


def test_an_empty_place_is_well_and_stays_empty(kind: Kind, tmp_path: Path) -> None:
    url = fresh_url(kind, tmp_path)
    found = found_by_name(url)
    assert faults(found) == set()
    said = found["tables" if kind == "postgresql" else "database"].found
    assert "the first igkd run makes" in said
    assert snapshot(tmp_path) == {}


def test_a_database_of_this_version_is_well_and_stays_as_it_is(kind: Kind, tmp_path: Path) -> None:
    url = prepared_url(kind, tmp_path)
    before = snapshot(tmp_path)
    found = found_by_name(url)
    assert {one.state for one in found.values()} == {"ok"}
    assert f"of version {SCHEMA_VERSION}" in found["tables"].found
    assert ("SQLite" if kind == "sqlite" else "Postgres 18") in found["database"].found
    assert snapshot(tmp_path) == before


def test_an_older_database_is_well_since_it_is_brought_up_to_date(
    kind: Kind, tmp_path: Path
) -> None:
    url = prepared_url(kind, tmp_path)
    change(url, f"UPDATE {schema.name} SET version = 1")
    tables = found_by_name(url)["tables"]
    assert tables.state == "ok" and f"brings them to {SCHEMA_VERSION}" in tables.found


def test_a_database_of_the_future_is_a_fault(kind: Kind, tmp_path: Path) -> None:
    url = prepared_url(kind, tmp_path)
    change(url, f"UPDATE {schema.name} SET version = 99")
    tables = found_by_name(url)["tables"]
    assert tables.state == "fault" and "--upgrade igkd-search" in tables.advice


def test_mlflow_in_the_same_database_is_a_fault(kind: Kind, tmp_path: Path) -> None:
    url = prepared_url(kind, tmp_path)
    tables = ("experiments", "runs", "latest_metrics")
    change(url, *(f"CREATE TABLE {name} (x integer)" for name in tables))
    found = found_by_name(url)
    assert faults(found) == {"neighbours"} and "alembic_version" in found["neighbours"].found


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgres://u:word@h/d", "type postgresql+psycopg://u:***@h/d instead"),
        ("mysql://u:word@h/d", "must be sqlite:///PATH or postgresql+psycopg://"),
        ("nothing", "the storage URL cannot be read"),
    ],
)
def test_a_url_of_another_kind_is_one_fault(url: str, words: str) -> None:
    (only,) = database_health.examine(url)
    assert only.state == "fault" and words in only.found and "word@" not in only.found


def test_a_server_that_is_not_there_is_one_fault_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://u:word@/d?host={tmp_path}&port=6000"
    (only,) = database_health.examine(url)
    assert (only.name, only.state) == ("database", "fault")
    assert "No such file or directory" in only.found and "word" not in only.found
    assert "pg_isready -p 6000" not in only.advice and "storage/README.md" in only.advice


def test_a_database_that_nobody_made_names_what_makes_it(tmp_path: Path) -> None:
    place = sa.make_url(fresh_url("postgresql", tmp_path)).set(database="nobody_made_it")
    (only,) = database_health.examine(place.render_as_string(hide_password=False))
    assert "does not exist" in only.found
    assert "psql -v database=nobody_made_it -f storage/roles.sql" in only.advice


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ('FATAL: password authentication failed for user "u"', "PGPASSFILE"),
        ("fe_sendauth: no password supplied", "PGPASSFILE"),
        ("FATAL: no pg_hba.conf entry for host", "PGPASSFILE"),
        ("Connection refused", "pg_isready -h h -p 1 "),
    ],
)
def test_the_way_in_follows_from_what_the_server_says(reason: str, words: str) -> None:
    url = sa.make_url("postgresql+psycopg://u@h:1/d")
    assert words in database_health._way_in(url, reason)


@pytest.mark.parametrize(
    ("place", "warned"),
    [("u:word@", True), ("u:@", False), ("u@", False), ("", False)],
)
def test_a_password_in_the_command_line_is_a_warning(
    tmp_path: Path, place: str, warned: bool
) -> None:
    url = f"postgresql+psycopg://{place}/d?host={tmp_path}"
    assert ("password" in found_by_name(url, typed=True)) is warned
    assert "password" not in found_by_name(url)


def test_a_file_that_is_no_database_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "igkd.db").write_bytes(b"pictures" * 1000)
    found = found_by_name(f"sqlite:///{tmp_path}/igkd.db")
    assert faults(found) == {"database"} and "not a database" in found["database"].found


def test_a_file_that_cannot_be_written_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a superuser may write whatever modes say
    monkeypatch.setattr(filesystems, "refusal", lambda path: "Permission denied")
    writing = found_by_name(f"sqlite:///{tmp_path}/igkd.db")["writing"]
    assert writing.state == "fault"
    assert f"{tmp_path} cannot be written (Permission denied)" in writing.found


def test_a_folder_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("mine")
    writing = found_by_name(f"sqlite:///{tmp_path}/home/igkd.db")["writing"]
    assert writing.state == "fault"


def test_a_network_file_system_is_a_fault_with_the_line_for_postgres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "kind_of", lambda path: "lustre")
    writing = found_by_name(f"sqlite:///{tmp_path}/igkd.db")["writing"]
    assert writing.state == "fault" and "lustre" in writing.found
    assert "--storage postgresql+psycopg://USER@HOST/igkd" in writing.advice


def of_study(url: str, name: str) -> dict[str, Finding]:
    return {one.name: one for one in database_health.examine_study(url, name)}


def test_a_study_that_nobody_knows_is_a_fault_with_the_names(kind: Kind, tmp_path: Path) -> None:
    found = of_study(prepared_url(kind, tmp_path), "digitz")
    assert found["study"].state == "fault" and "digits" in found["study"].found


def test_a_study_that_has_not_begun_is_well(kind: Kind, tmp_path: Path) -> None:
    found = of_study(fresh_url(kind, tmp_path), "digits")["study"]
    assert found.state == "ok" and "has not begun" in found.found


def test_a_study_without_its_images_is_a_fault(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Path(shutil.copytree(arrays, tmp_path / "images"))
    tiny.write_study(tmp_path / "s.toml", images)
    url, file = fresh_url("sqlite", tmp_path), str(tmp_path / "s.toml")
    assert of_study(url, file)["images"].state == "ok"
    moved = images.rename(tmp_path / "moved")
    assert of_study(url, file)["images"].state == "fault"
    monkeypatch.setenv("IGKD_DATA", str(moved))
    assert of_study(url, file)["images"].state == "ok"


@pytest.fixture
def begun(kind: Kind, tmp_path: Path, arrays: Path) -> tuple[str, Callable[[], Register]]:
    """A database in which a study has begun, and a way for a worker to join and take a slot."""
    base = connect(prepared_url(kind, tmp_path))
    base.write_study("tiny", tiny.study(arrays).model_dump(mode="json"), 3)
    table = Slots(base, "tiny")
    table.set_budget(3)

    def join() -> Register:
        register = Register(base, "tiny", this_process(), Machine("cpu", None, {}))
        register.join()
        assert table.claim()
        return register

    return base.url, join


def test_who_works_on_a_study_is_counted(begun: tuple[str, Callable[[], Register]]) -> None:
    url, join = begun
    name = found_of(url)
    assert "0 of 3 trials done, 0 workers at work" in name.found
    join()
    assert "0 of 3 trials done, 1 workers at work" in found_of(url).found


def found_of(url: str) -> Finding:
    return of_study(url, "tiny")["study"]


def test_trials_of_workers_that_are_silent_are_a_warning(
    begun: tuple[str, Callable[[], Register]],
) -> None:
    url, join = begun
    join()
    change(url, "UPDATE igkd_workers SET last_seen = last_seen - 1000")
    silent = of_study(url, "tiny")["workers"]
    assert silent.state == "warning" and "igkd run tiny" in silent.advice


def test_a_database_that_lost_a_table_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    url = prepared_url("sqlite", tmp_path)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(f"DROP TABLE {metadata.tables['igkd_studies'].name}")
    connection.close()
    assert of_study(url, "digits")["study"].state == "fault"
