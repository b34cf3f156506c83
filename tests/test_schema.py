"""A database of the first schema is brought up to date by a writer, and read as it is by others."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search.database import Database, connect
from igkd_search.errors import StorageError
from igkd_search.schema import (
    SCHEMA_VERSION,
    attempts,
    file_parts,
    files,
    metadata,
    queue,
    schema,
    searches,
    workers,
)
from tests.databases import KINDS, Kind, at_once, prepared_url

ADDED = {1: [files, file_parts], 2: [attempts, workers, searches, queue]}
"""Version -> the tables that came after it."""


@pytest.fixture(params=KINDS)
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as the first schema left it, with a study in it."""
    kind: Kind = request.param
    database = connect(prepared_url(kind, tmp_path))
    database.write_study("s", {"epochs": 3}, 5)
    with database.transaction() as connection:
        metadata.drop_all(connection, [table for tables in ADDED.values() for table in tables])
        connection.execute(sa.update(schema).values(version=1))
    database.close()
    return database.url


def version_of(database: Database) -> list[int]:
    with database.transaction() as connection:
        return list(connection.scalars(sa.select(schema.c.version)))


def open_keep_and_close(url: str) -> str:
    database = connect(url)
    digest = database.keep_file("s", "teacher", b"weights")
    database.close()
    return digest


def test_a_reader_leaves_an_older_database_as_it_is(old_url: str) -> None:
    reader = connect(old_url, read_only=True)
    assert reader.study_names() == ["s"]
    assert reader.read_file("s", "teacher") is None
    assert reader.file_digests("s") == {}
    assert version_of(reader) == [1]
    reader.close()


def test_a_writer_adds_what_is_missing_and_keeps_the_rest(old_url: str) -> None:
    database = connect(old_url)
    assert version_of(database) == [SCHEMA_VERSION]
    stored = database.read_study("s")
    assert stored is not None and (stored.question, stored.trials) == ({"epochs": 3}, 5)
    database.keep_file("s", "teacher", b"weights")
    assert database.read_file("s", "teacher") == b"weights"
    database.close()
    again = connect(old_url)
    assert version_of(again) == [SCHEMA_VERSION]
    assert again.read_file("s", "teacher") == b"weights"
    again.close()


def test_a_reader_that_came_first_sees_the_files_that_a_writer_keeps(old_url: str) -> None:
    reader = connect(old_url, read_only=True)
    open_keep_and_close(old_url)
    assert reader.read_file("s", "teacher") == b"weights"
    reader.close()


def test_processes_that_meet_at_an_older_database_all_get_in(old_url: str) -> None:
    assert len(set(at_once(4, open_keep_and_close, old_url))) == 1
    database = connect(old_url, read_only=True)
    assert version_of(database) == [SCHEMA_VERSION]
    database.close()


def test_a_writer_killed_before_the_version_was_written_is_repeated(old_url: str) -> None:
    engine = sa.create_engine(old_url)
    with engine.begin() as connection:
        metadata.create_all(connection)  # the tables are there, the version is still 1
    engine.dispose()
    database = connect(old_url)
    assert version_of(database) == [SCHEMA_VERSION]
    database.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_schema_of_the_future_is_left_alone(old_url: str, read_only: bool) -> None:
    database = connect(old_url)
    with database.transaction() as connection:
        connection.execute(sa.update(schema).values(version=SCHEMA_VERSION + 1))
    database.close()
    with pytest.raises(StorageError, match="has igkd schema 4, this igkd-search reads schema 3"):
        connect(old_url, read_only=read_only)
