import hashlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from igkd_search.database import Database, check_shared, connect, masked
from igkd_search.errors import StorageError, StorageLost
from igkd_search.patience import Patience
from igkd_search.schema import SCHEMA_VERSION, file_parts, schema, studies
from tests.databases import KINDS, Kind, at_once, fresh_url, prepared_url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind: Kind = request.param
    return fresh_url(kind, tmp_path)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url(request.param, tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "igkd.db"


def open_and_close(url: str) -> list[str]:
    database = connect(url)
    names = database.study_names()
    database.close()
    return names


def test_processes_that_meet_at_an_empty_database_all_get_in(url: str) -> None:
    assert at_once(6, open_and_close, url) == [[]] * 6


def test_a_queued_trial_is_handed_out_once(url: str) -> None:
    databases = [connect(url) for _ in range(4)]
    study = optuna.create_study(storage=databases[0].storage, study_name="s")
    for x in range(12):
        study.enqueue_trial({"x": x})

    def ask_thrice(database: Database) -> list[int]:
        worker = optuna.load_study(storage=database.storage, study_name="s")
        asked = [worker.ask().number for _ in range(3)]
        database.storage.remove_session()
        return asked

    with ThreadPoolExecutor(4) as threads:
        numbers = [number for asked in threads.map(ask_thrice, databases) for number in asked]
    for database in databases:
        database.close()
    assert sorted(numbers) == list(range(12))


def test_every_sqlite_connection_is_tuned(sqlite_file: Path) -> None:
    database = connect(f"sqlite:///{sqlite_file}")
    held = [database.engine.raw_connection() for _ in range(3)]
    for connection in held:
        cursor = connection.cursor()
        assert cursor.execute("PRAGMA synchronous").fetchone() == (1,)
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cursor.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
        connection.close()
    database.close()


def test_how_long_a_sqlite_lock_is_waited_for_can_be_typed(sqlite_file: Path) -> None:
    database = connect(f"sqlite:///{sqlite_file}?timeout=2.5")
    with database.transaction() as connection:
        assert connection.scalar(sa.text("PRAGMA busy_timeout")) == 2500
    database.close()
    with pytest.raises(StorageError, match="could not convert string to float: 'soon'"):
        connect(f"sqlite:///{sqlite_file}?timeout=soon")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_worker_takes_the_write_lock_before_it_reads(sqlite_file: Path, read_only: bool) -> None:
    connect(f"sqlite:///{sqlite_file}").close()
    database = connect(f"sqlite:///{sqlite_file}", read_only=read_only)
    other = sqlite3.connect(sqlite_file, timeout=0, isolation_level=None)

    def is_locked() -> bool:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        other.execute("ROLLBACK")
        return False

    with database.transaction() as connection:
        connection.execute(sa.select(studies))
        assert is_locked() is not read_only
    with database.storage.scoped_session() as session:
        session.execute(sa.select(studies))
        assert is_locked() is not read_only
    assert not is_locked()
    other.close()
    database.close()


def test_a_reader_waits_for_no_writer(database: Database) -> None:
    database.write_study("before", {"a": 1}, 3)
    optuna.create_study(storage=database.storage, study_name="before")
    reader = connect(database.url, read_only=True)
    with database.transaction() as connection:
        connection.execute(sa.update(studies).values(trials=9))
        stored = reader.read_study("before")
        assert stored is not None and stored.trials == 3
        assert optuna.get_all_study_names(reader.storage) == ["before"]
    stored = reader.read_study("before")
    assert stored is not None and stored.trials == 9
    reader.close()


def test_a_reader_cannot_write(database: Database) -> None:
    reader = connect(database.url, read_only=True)
    with pytest.raises(StorageError, match=r"read-?only"):
        reader.write_study("s", {}, 1)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optuna.create_study(storage=reader.storage, study_name="s")
    assert database.study_names() == []
    reader.close()


def test_a_database_of_plain_optuna_keeps_its_studies(url: str) -> None:
    plain = optuna.storages.RDBStorage(url)
    optuna.create_study(storage=plain, study_name="old")
    plain.remove_session()
    plain.engine.dispose()
    with pytest.raises(StorageError, match="no database at"):
        connect(url, read_only=True)
    database = connect(url)
    assert optuna.get_all_study_names(database.storage) == ["old"]
    assert database.study_names() == []
    database.close()


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    database.write_study("s", {}, 1)
    with pytest.raises(StorageError), database.transaction() as connection:
        connection.execute(sa.update(studies).values(trials=2))
        connection.execute(sa.text("SELECT nothing FROM nowhere"))
    stored = database.read_study("s")
    assert stored is not None and stored.trials == 1


def test_a_newer_schema_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(sa.update(schema).values(version=SCHEMA_VERSION + 1))
    with pytest.raises(StorageError, match=r"schema 4, this igkd-search reads schema 3"):
        connect(database.url)


def test_the_first_study_of_a_name_stays(database: Database) -> None:
    database.write_study("s", {"epochs": 3}, 5)
    database.write_study("s", {"epochs": 4}, 6)
    stored = database.read_study("s")
    assert stored is not None
    assert (stored.question, stored.trials, stored.facts) == ({"epochs": 3}, 5, {})


def test_names_are_exact(database: Database) -> None:
    for name in ("Digits", "digits", "dig%", "dig_ts "):
        database.write_study(name, {"name": name}, 1)
    assert database.study_names() == sorted(["Digits", "digits", "dig%", "dig_ts "])
    for name in database.study_names():
        stored = database.read_study(name)
        assert stored is not None and stored.question == {"name": name}
    assert database.read_study("DIGITS") is None
    assert database.read_study("dig_ts") is None


def test_facts_merge_whoever_writes_them(database: Database) -> None:
    database.write_study("s", {}, 1)
    databases = [connect(database.url) for _ in range(4)]

    def write(number: int) -> None:
        for key in range(5):
            databases[number].update_facts("s", **{f"{number}.{key}": "å" * number})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    for other in databases:
        other.close()
    database.update_facts("s", **{"0.0": None})
    stored = database.read_study("s")
    assert stored is not None
    expected = {f"{number}.{key}": "å" * number for number in range(4) for key in range(5)}
    assert stored.facts == {**expected, "0.0": None}


def test_a_question_is_replaced_and_nothing_else(database: Database) -> None:
    database.write_study("s", {"epochs": 3}, 5)
    database.write_study("t", {"epochs": 3}, 5)
    database.update_facts("s", accuracy=0.5)
    database.set_question("s", {"epochs": 4})
    stored, other = database.read_study("s"), database.read_study("t")
    assert stored is not None and other is not None
    assert (stored.question, stored.trials) == ({"epochs": 4}, 5)
    assert stored.facts == {"accuracy": 0.5}
    assert other.question == {"epochs": 3}


CONTENT = bytes(range(256)) * 40  # a little over ten parts of 1,000 bytes


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that a test's file has many, the last of them short."""
    monkeypatch.setattr("igkd_search.database.PART_BYTES", 1000)


@pytest.mark.usefixtures("small_parts")
def test_a_file_is_read_as_it_was_kept(database: Database) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert database.keep_file("s", "teacher", CONTENT) == digest
    assert database.keep_file("s", "empty", b"") == hashlib.sha256(b"").hexdigest()
    reader = connect(database.url, read_only=True)
    for opened in (database, reader):
        assert opened.read_file("s", "teacher") == CONTENT
        assert opened.read_file("s", "empty") == b""
        assert set(opened.file_digests("s")) == {"teacher", "empty"}
        assert opened.file_digests("s")["teacher"] == digest
    reader.close()
    with database.transaction() as connection:
        sizes = connection.scalars(sa.select(sa.func.length(file_parts.c.content)))
        assert sorted(sizes) == [240, *[1000] * 10]


def test_a_file_that_nobody_kept_is_none(database: Database) -> None:
    database.keep_file("s", "teacher", b"a")
    assert database.read_file("s", "other") is None
    assert database.read_file("S", "teacher") is None
    assert database.file_digests("t") == {}


@pytest.mark.usefixtures("small_parts")
def test_the_first_file_of_a_name_stays(database: Database) -> None:
    first = database.keep_file("s", "teacher", CONTENT)
    assert database.keep_file("s", "teacher", CONTENT[::-1]) == first
    assert database.keep_file("s", "teacher", CONTENT) == first
    assert database.read_file("s", "teacher") == CONTENT
    with database.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(file_parts)) == 11


@pytest.mark.usefixtures("small_parts")
def test_studies_with_the_same_file_share_its_parts(database: Database) -> None:
    for study in ("s", "t"):
        database.keep_file(study, "teacher", CONTENT)
    assert database.read_file("t", "teacher") == CONTENT
    with database.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(file_parts)) == 11


@pytest.mark.usefixtures("small_parts")
def test_of_many_that_keep_at_once_one_is_kept_whole(database: Database) -> None:
    databases = [connect(database.url) for _ in range(4)]
    contents = [bytes([number]) * 5000 for number in range(4)]

    def keep(number: int) -> str:
        return databases[number].keep_file("s", "teacher", contents[number])

    with ThreadPoolExecutor(4) as threads:
        digests = set(threads.map(keep, range(4)))
    for other in databases:
        other.close()
    kept = database.read_file("s", "teacher")
    assert kept in contents
    assert digests == {hashlib.sha256(kept).hexdigest()}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_found_out(database: Database, damage: str) -> None:
    database.keep_file("s", "teacher", CONTENT)
    last = file_parts.c.part == 10
    change = sa.update(file_parts).values(content=b"x") if damage == "changed" else None
    with database.transaction() as connection:
        connection.execute((sa.delete(file_parts) if change is None else change).where(last))
    with pytest.raises(StorageError, match=r"'teacher' of study 's' at .* is damaged: its sha256"):
        database.read_file("s", "teacher")


def test_a_file_that_cannot_be_kept_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igkd_search.database._INSERT_PART", sa.text("INSERT INTO nowhere"))
    with pytest.raises(StorageError):
        database.keep_file("s", "teacher", b"a")
    assert database.file_digests("s") == {}


def test_an_unknown_study_is_named(database: Database) -> None:
    with pytest.raises(StorageError, match=r"no study 'gone' at .* start it with 'igkd run STUDY'"):
        database.update_facts("gone", a=1)
    with pytest.raises(StorageError, match="no study 'gone'"):
        database.set_question("gone", {})


def test_postgres_is_called_by_name_and_sparingly(tmp_path: Path) -> None:
    database = connect(fresh_url("postgresql", tmp_path))
    with database.transaction() as connection:
        assert connection.scalar(sa.text("SHOW application_name")) == "igkd-search"
    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    with database.transaction() as connection:
        assert connection.scalar(count) == 1
    database.close()
    renamed = connect(f"{database.url}&application_name=mine")
    with renamed.transaction() as connection:
        assert connection.scalar(sa.text("SHOW application_name")) == "mine"
    renamed.close()


def test_postgres_ends_a_transaction_that_somebody_sleeps_through(tmp_path: Path) -> None:
    asked = sa.text("SHOW idle_in_transaction_session_timeout")
    url = fresh_url("postgresql", tmp_path)
    for typed, shown in ("", "1min"), ("&options=-cidle_in_transaction_session_timeout%3D7s", "7s"):
        database = connect(url + typed)
        for _ in range(2):
            with database.transaction() as connection:
                assert connection.scalar(asked) == shown
        database.close()


def test_a_dropped_connection_is_mended(tmp_path: Path) -> None:
    database = connect(fresh_url("postgresql", tmp_path))
    drop = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")
    lost = pytest.raises(StorageError, match="cannot use the database")
    with lost, database.transaction() as connection:
        connection.execute(drop)
    assert database.study_names() == []
    database.close()


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    connect(f"sqlite:///{tmp_path}/a/b/igkd.db").close()
    assert (tmp_path / "a" / "b" / "igkd.db").is_file()


def test_reading_a_missing_file_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^no database at .*a/igkd.db: start a search first"):
        connect(f"sqlite:///{tmp_path}/a/igkd.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_reading_an_empty_file_leaves_it_empty(sqlite_file: Path) -> None:
    sqlite_file.touch()
    with pytest.raises(StorageError, match="start a search first with 'igkd run STUDY'"):
        connect(f"sqlite:///{sqlite_file}", read_only=True)
    assert sqlite_file.read_bytes() == b""


def test_a_place_that_cannot_hold_a_database_is_named(tmp_path: Path, sqlite_file: Path) -> None:
    sqlite_file.write_text("no database, but a letter " * 100)
    faults = {
        f"sqlite:///{sqlite_file}": "file is not a database",
        f"sqlite:///{tmp_path}": "that is a folder, name a file in it",
        f"sqlite:///{sqlite_file}/igkd.db": "exists",
        "sqlite:////proc/nowhere/igkd.db": "nowhere",
    }
    for url, message in faults.items():
        with pytest.raises(StorageError) as caught:
            connect(url)
        assert url in str(caught.value)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sqlite_file.read_text().startswith("no database")


@pytest.mark.parametrize("start", ["postgres://", "postgresql://"])
def test_a_bare_postgres_url_is_answered_with_the_one_to_type(start: str) -> None:
    with pytest.raises(StorageError) as caught:
        connect(f"{start}ann:secret@host/db")
    assert "type postgresql+psycopg://ann:***@host/db instead" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://ann:secret@host/db",
        "postgresql+asyncpg://ann:secret@host/db",
        "postgresql+psycopg://ann:secret@host:port/db",
        "secret",
        "ann:secret@host",
        "",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_other_urls_are_answered_with_the_allowed_two(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        connect(url)
    assert "sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unreachable_server_is_one_line_without_the_password() -> None:
    with pytest.raises(StorageError) as caught:
        connect("postgresql+psycopg://ann:secret@127.0.0.1:1/db")
    assert "cannot use the database at postgresql+psycopg://ann:***@127.0.0.1:1/db" in str(
        caught.value
    )
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://ann:secret@host:1/db", "postgresql+psycopg://ann:***@host:1/db"),
        ("postgresql+psycopg://ann:s@cr/et@host/db", "postgresql+psycopg://ann:***@host/db"),
        ("postgresql+psycopg://:secret@/db?host=/s", "postgresql+psycopg://:***@/db?host=/s"),
        (
            "postgresql+psycopg://h/d?password=secret&a=1",
            "postgresql+psycopg://h/d?password=***&a=1",
        ),
        ("postgresql+psycopg://ann@host/db", "postgresql+psycopg://ann@host/db"),
        ("sqlite:////home/ann:b@c/igkd.db", "sqlite:////home/ann:b@c/igkd.db"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_the_password_is_not_in_the_repr(database: Database) -> None:
    assert database.url not in repr(database)


@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igkd_search.filesystems.kind_of", lambda path: "nfs4")


@pytest.mark.usefixtures("on_nfs")
def test_a_file_on_a_network_file_system_is_refused_with_the_line_to_type(
    sqlite_file: Path,
) -> None:
    with pytest.raises(StorageError, match="network file system") as refused:
        connect(f"sqlite:///{sqlite_file}")
    assert "(nfs4)" in str(refused.value)
    assert "--storage postgresql+psycopg://USER@HOST/igkd" in str(refused.value)
    assert not sqlite_file.exists()


def test_what_lies_on_a_network_file_system_can_be_read_and_so_be_copied(
    sqlite_file: Path, request: pytest.FixtureRequest
) -> None:
    connect(f"sqlite:///{sqlite_file}").close()
    request.getfixturevalue("on_nfs")
    reader = connect(f"sqlite:///{sqlite_file}", read_only=True)
    assert reader.study_names() == []
    reader.close()


def test_a_server_that_lets_nobody_in_is_not_waited_for(tmp_path: Path) -> None:
    slept: list[float] = []
    patience = Patience(60.0, sleep=slept.append)
    url = make_url(fresh_url("postgresql", tmp_path)).set(database="nowhere")
    with pytest.raises(StorageError, match='database "nowhere" does not exist') as raised:
        connect(url.render_as_string(hide_password=False), wait=True, patience=patience)
    assert not isinstance(raised.value, StorageLost) and slept == []


def test_an_at_sign_in_a_password_is_refused_before_it_shows() -> None:
    with pytest.raises(StorageError, match="write %40 in a password") as raised:
        connect("postgresql+psycopg://igkd:Secr3t@Tail99@127.0.0.1:1/igkd")
    assert "Secr3t" not in str(raised.value) and "Tail99" not in str(raised.value)


def test_a_file_is_no_database_of_several_hosts() -> None:
    check_shared("postgresql+psycopg://igkd@db/igkd", "the tasks of SLURM")
    with pytest.raises(StorageError, match="not the tasks of SLURM; type --storage postgresql"):
        check_shared("sqlite:////shared/igkd.db", "the tasks of SLURM")
