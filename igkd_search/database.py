"""URL -> one tuned SQLAlchemy engine that Optuna and igkd share; the schema is made under a lock.

Untuned, workers of one study run queued trials twice on SQLite (a reader becomes a writer too
late), die creating the same tables, and exhaust Postgres' connections. All engines come from here.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event

from igkd_search import filesystems
from igkd_search.errors import StorageError, StorageLost
from igkd_search.fenced import FencedStorage
from igkd_search.patience import Patience, driver_error, passes, patient, said_by
from igkd_search.schema import (
    ADDED_TO,
    PART_BYTES,
    SCHEMA_VERSION,
    file_parts,
    files,
    metadata,
    schema,
    studies,
)

CONNECTIONS = 2
"""How many connections to Postgres a worker has at times: its own, and its lease renewal's."""
_LOCK_KEY = 0x69676B64
_MAY_NOT = "42501"  # SQLSTATE of a role that lacks the right
_ASLEEP_SECONDS = 60
_END_SLEEPERS = (
    f"SELECT set_config('idle_in_transaction_session_timeout', '{_ASLEEP_SECONDS}s', false)"
    " WHERE current_setting('idle_in_transaction_session_timeout') = '0'"
)
"""A process that is frozen within a transaction must not hold others up by its locks for ever."""
_ALLOWED = "sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
_INSERT_STUDY = sa.text(
    "INSERT INTO igkd_studies (study_name, question, trials, facts, created)"
    " VALUES (:name, :question, :trials, '{}', :created) ON CONFLICT DO NOTHING"
)
_INSERT_FILE = sa.text(
    "INSERT INTO igkd_files (study_name, name, sha256, bytes)"
    " VALUES (:study, :name, :sha256, :bytes) ON CONFLICT DO NOTHING"
)
_REPLACE_FILE = sa.text(
    "INSERT INTO igkd_files (study_name, name, sha256, bytes)"
    " VALUES (:study, :name, :sha256, :bytes) ON CONFLICT (study_name, name)"
    " DO UPDATE SET sha256 = excluded.sha256, bytes = excluded.bytes"
)
_INSERT_PART = sa.text(
    "INSERT INTO igkd_file_parts (sha256, part, content)"
    " VALUES (:sha256, :part, :content) ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True)
class StudyRow:
    """One study as stored: its question, its budget, and what has been found out about it."""

    name: str
    question: dict[str, Any]
    trials: int
    facts: dict[str, Any]
    created: str


@dataclass(frozen=True)
class Database:
    """An open database; `storage` is for Optuna, `engine` is that same storage's engine."""

    url: str = field(repr=False)
    storage: FencedStorage = field(repr=False)

    @property
    def engine(self) -> sa.Engine:
        return self.storage.engine

    @property
    def patience(self) -> Patience:
        """How long everything here waits while the database is away."""
        return self.storage.patience

    @property
    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the clock of the database, the one that all workers share."""
        if self.engine.dialect.name == "sqlite":
            return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Float)
        return sa.literal_column(
            "CAST(extract(epoch FROM clock_timestamp()) AS double precision)", sa.Float
        )

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing; StorageError in one line, StorageLost when it may pass."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise _unreachable(self.url, error) from error

    def close(self) -> None:
        """Give the connections back; a closed database opens new ones when used again."""
        self.storage.remove_session()
        self.engine.dispose()

    @patient
    def write_study(self, name: str, question: dict[str, Any], trials: int) -> None:
        """Insert the study; an existing study of this name stays as it is."""
        created = datetime.now(UTC).isoformat()
        row = {"name": name, "question": json.dumps(question), "trials": trials, "created": created}
        with self.transaction() as connection:
            connection.execute(_INSERT_STUDY, row)

    @patient
    def read_study(self, name: str) -> StudyRow | None:
        """The study of exactly this name (case counts), or None."""
        with self.transaction() as connection:
            row = connection.execute(sa.select(studies).where(studies.c.study_name == name)).first()
        if row is None:
            return None
        question, facts = json.loads(row.question), json.loads(row.facts)
        return StudyRow(row.study_name, question, row.trials, facts, row.created)

    def update_facts(self, name: str, **facts: Any) -> None:
        """Merge facts into the study's JSON; raises StorageError for an unknown study."""
        self.settle_facts(name, lambda stored: stored | facts)

    @patient
    def settle_facts(
        self, name: str, settle: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Replace the study's facts by `settle(facts)` and return them, in one transaction.

        What `settle` raises leaves them as they were; StorageError for an unknown study.
        """
        with self.transaction() as connection:
            return self.settle_facts_in(connection, name, settle)

    def settle_facts_in(
        self,
        connection: sa.Connection,
        name: str,
        settle: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> dict[str, Any]:
        """The same as part of a transaction."""
        mine = studies.c.study_name == name
        stored = connection.scalar(sa.select(studies.c.facts).where(mine).with_for_update())
        if stored is None:
            raise unknown_study(self.url, name)
        settled = settle(json.loads(stored))
        connection.execute(sa.update(studies).where(mine).values(facts=json.dumps(settled)))
        return settled

    @patient
    def set_question(self, name: str, question: dict[str, Any]) -> None:
        """Replace the study's question; raises StorageError for an unknown study."""
        change = sa.update(studies).where(studies.c.study_name == name)
        with self.transaction() as connection:
            if connection.execute(change.values(question=json.dumps(question))).rowcount != 1:
                raise unknown_study(self.url, name)

    @patient
    def study_names(self) -> list[str]:
        """Names of all studies, sorted."""
        with self.transaction() as connection:
            return sorted(connection.scalars(sa.select(studies.c.study_name)))

    @patient
    def keep_file(self, study: str, name: str, content: bytes) -> str:
        """Keep a file of a study, unless one of this name is kept; the sha256 of the kept one.

        The study need not be there yet.
        """
        with self.transaction() as connection:
            # on Postgres this waits for another that keeps the same name, then does nothing
            _keep(connection, _INSERT_FILE, study, name, content)
            mine = (files.c.study_name == study) & (files.c.name == name)
            return str(connection.scalar(sa.select(files.c.sha256).where(mine)))

    @patient
    def replace_files(
        self,
        study: str,
        contents: Mapping[str, bytes],
        prove: Callable[[sa.Connection], None] = lambda connection: None,
    ) -> None:
        """Keep files of a study, in one transaction and in place of those of the same names.

        `prove` raises, within that transaction, unless the caller may write.
        """
        mine = (files.c.study_name == study) & files.c.name.in_(contents)
        with self.transaction() as connection:
            prove(connection)
            replaced = connection.scalar(sa.select(sa.func.count()).where(mine))
            if replaced:
                _keep_others_out(connection)
            for name, content in sorted(contents.items()):
                _keep(connection, _REPLACE_FILE, study, name, content)
            if replaced:
                forget_unnamed(connection)

    @patient
    def read_file(self, study: str, name: str) -> bytes | None:
        """A file that was kept, or None; StorageError when it is damaged."""
        mine = (files.c.study_name == study) & (files.c.name == name)
        with self.transaction() as connection:
            if not has(connection, files):
                return None
            digest = connection.scalar(sa.select(files.c.sha256).where(mine))
            if digest is None:
                return None
            parts = sa.select(file_parts.c.content).where(file_parts.c.sha256 == digest)
            content = b"".join(connection.scalars(parts.order_by(file_parts.c.part)))
        if hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(
                f"the file '{name}' of study '{study}' at {masked(self.url)} is damaged: its sha256"
                f" is not {digest[:12]}...; restore the database from a copy, or give the study"
                " another name"
            )
        return content

    @patient
    def file_digests(self, study: str) -> dict[str, str]:
        """Name -> sha256 of every file that is kept for a study."""
        with self.transaction() as connection:
            if not has(connection, files):
                return {}
            found = sa.select(files.c.name, files.c.sha256).where(files.c.study_name == study)
            return {row.name: row.sha256 for row in connection.execute(found)}


def connect(
    url: str,
    *,
    read_only: bool = False,
    wait: bool = False,
    patience: Patience | None = None,
) -> Database:
    """Open the database at `url`, creating folder, file and tables unless `read_only`.

    A read-only database never waits for a writer and cannot write. One that an older igkd-search
    made is brought up to date, unless `read_only`. `wait` has a server that does not answer waited
    for, with the `patience` that all later operations have too. Raises StorageError for a URL of
    another kind, a place that cannot be used, a missing database (read-only) or another schema.
    """
    patience = patience or Patience(0 if read_only else None)
    if wait:
        return patience(lambda: _connect(url, read_only, patience))
    return _connect(url, read_only, patience)


def _connect(url: str, read_only: bool, patience: Patience) -> Database:
    file, options = _file(url), _engine_options(url)
    try:
        if file is not None and not read_only:
            _refuse_network(file)
            file.parent.mkdir(parents=True, exist_ok=True)
        if file is not None and read_only and not file.exists():
            raise _no_database(str(file))
        setup = bare_engine(url)
        version = schema_version(setup)
        if version is None and read_only:
            raise _no_database(masked(url))
        if (version is None or version in ADDED_TO) and not read_only:
            version = _bring_up_to_date(setup, url, file)
        if version != SCHEMA_VERSION and version not in ADDED_TO:
            raise StorageError(
                f"the database at {masked(url)} has igkd schema {version}, this igkd-search reads"
                f" schema {SCHEMA_VERSION}: use the igkd-search that wrote it, or another --storage"
            )
        with patience.once():
            storage = FencedStorage(
                url, engine_kwargs=options, skip_table_creation=True, patience=patience
            )
    except (
        sa.exc.SQLAlchemyError,
        StorageInternalError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise _unreachable(url, error) from error
    _tune(storage.engine, read_only)
    return Database(url, storage)


def bare_engine(url: str) -> sa.Engine:
    """An engine that keeps no connection and makes nothing, to look at a database as it is.

    StorageError for a URL of another kind.
    """
    _file(url)
    return sa.create_engine(
        url, poolclass=sa.NullPool, connect_args=_engine_options(url)["connect_args"]
    )


def connect_if_there(url: str) -> Database | None:
    """Open the database at `url` to read it only; None when nobody has made it yet."""
    try:
        return connect(url, read_only=True)
    except _NoDatabase:
        return None


class _NoDatabase(StorageError):
    """Nothing is wrong with the place, but no search has begun there."""


def _keep(
    connection: sa.Connection, statement: sa.TextClause, study: str, name: str, content: bytes
) -> None:
    """Name a file by this statement, and write its content where that has named anything."""
    digest = hashlib.sha256(content).hexdigest()
    row = {"study": study, "name": name, "sha256": digest, "bytes": len(content)}
    if connection.execute(statement, row).rowcount != 1:
        return
    for part, start in enumerate(range(0, len(content), PART_BYTES)):
        piece = content[start : start + PART_BYTES]
        connection.execute(_INSERT_PART, {"sha256": digest, "part": part, "content": piece})


def forget_unnamed(connection: sa.Connection) -> None:
    """Remove the content of all files that no study names any more."""
    _keep_others_out(connection)
    unnamed = file_parts.c.sha256.not_in(sa.select(files.c.sha256))
    connection.execute(sa.delete(file_parts).where(unnamed))


def _keep_others_out(connection: sa.Connection) -> None:
    """Have whoever else would name a file wait until this transaction has ended."""
    if connection.dialect.name == "postgresql":
        # who keeps a file just now names it before it looks whether its content is there already
        connection.execute(sa.text("LOCK TABLE igkd_files IN SHARE ROW EXCLUSIVE MODE"))


def masked(url: str) -> str:
    """The URL with its passwords as ***; works on URLs that cannot be parsed as well."""
    hidden = re.sub(r"(://[^:/?#@]*:).*@", r"\1***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)


def check_shared(url: str, users: str) -> None:
    """StorageError when a database cannot serve several hosts, with the line to type instead."""
    if url.startswith("sqlite"):
        raise StorageError(
            f"{masked(url)}: a SQLite file serves the workers of one host, not {users}; type "
            "--storage postgresql+psycopg://USER@HOST/igkd (storage/README.md brings one up)"
        )


def unknown_study(url: str, name: str) -> StorageError:
    """The error for a study that the database does not hold."""
    return StorageError(f"no study {name!r} at {masked(url)}: start it with 'igkd run STUDY'")


def _no_database(place: str) -> StorageError:
    return _NoDatabase(f"no database at {place}: start a search first with 'igkd run STUDY'")


def _unreachable(url: str, error: BaseException) -> StorageError:
    reason = said_by(error)
    if getattr(driver_error(error), "sqlstate", None) == _MAY_NOT:
        reason += " (igkd_owner makes tables, igkd_worker works: storage/README.md)"
    kind = StorageLost if passes(error) else StorageError
    return kind(f"cannot use the database at {masked(url)}: {reason}")


def _file(url: str) -> Path | None:
    """The SQLite file, or None for Postgres; raises StorageError for everything else."""
    bare = re.match(r"postgres(?:ql)?://", url)
    if bare:
        typed = "postgresql+psycopg://" + masked(url)[bare.end() :]
        raise StorageError(f"storage URL {masked(url)}: type {typed} instead")
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        # Without a scheme nothing tells which part is a password, so the text is not repeated.
        raise StorageError(f"the storage URL cannot be read: must be {_ALLOWED}") from error
    if address.drivername == "postgresql+psycopg":
        if "@" in (address.host or ""):
            # the rest of the password would be taken, and shown, as a part of the host's name
            raise StorageError(
                f"the storage URL {masked(url)} holds two @: write %40 in a password"
            )
        return None
    if address.drivername != "sqlite":
        found = address.drivername
        raise StorageError(f"storage URL {masked(url)}: {found!r} found, must be {_ALLOWED}")
    if not address.database or address.database.startswith((":memory:", "file:")):
        raise StorageError(f"storage URL {url}: no file that workers can share, type {_ALLOWED}")
    if Path(address.database).is_dir():
        raise StorageError(f"storage URL {url}: that is a folder, name a file in it")
    return Path(address.database)


def _refuse_network(file: Path) -> None:
    """StorageError for a file on a network file system: SQLite's locks do not hold there."""
    kind = filesystems.kind_of(file)
    if filesystems.is_network(kind):
        raise StorageError(
            f"{file} lies on a network file system ({kind}), where SQLite's locks do not hold and "
            "workers would damage it; for workers on one host type --storage sqlite:////DISK/igkd.db"
            " with a disk of this host, for several --storage postgresql+psycopg://USER@HOST/igkd "
            "with the password in PGPASSFILE or a --storage-file (docs/storage.md)"
        )


def _engine_options(url: str) -> dict[str, Any]:
    typed = sa.make_url(url).query
    if url.startswith("sqlite"):
        patient = {} if "timeout" in typed else {"timeout": 60}
        # Without a driver-level isolation the driver opens no transactions of its own: _tune does.
        return {"connect_args": {**patient, "isolation_level": None}}
    wanted = {
        "application_name": "igkd-search",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,  # ms; keepalives say nothing while an answer is outstanding
        "prepare_threshold": None,  # a pooler hands the next transaction to another session
    }
    arguments = {key: value for key, value in wanted.items() if key not in typed}
    # A worker and its lease renewal need two connections at times, and Postgres has few to give.
    pool = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 2}
    return {**pool, "connect_args": arguments}


def _tune(engine: sa.Engine, read_only: bool) -> None:
    """Attach transactions and pragmas; after Optuna's own opening, which nests two connections."""
    on_sqlite = engine.dialect.name == "sqlite"
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
    if not on_sqlite:
        begin = "SET TRANSACTION READ ONLY" if read_only else ""

    def set_pragmas(driver_connection: Any, _record: Any) -> None:
        driver_connection.execute("PRAGMA synchronous=NORMAL")
        driver_connection.execute(f"PRAGMA query_only={int(read_only)}")

    def set_timeout(driver_connection: Any, _record: Any) -> None:
        driver_connection.execute(_END_SLEEPERS)
        driver_connection.commit()

    def open_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", set_pragmas if on_sqlite else set_timeout)
    if begin:
        event.listen(engine, "begin", open_transaction)
    engine.dispose()  # connections opened before the events would never see them


def has(connection: sa.Connection, table: sa.Table) -> bool:
    """Whether a table is there; a later one is not in an older database that is only read."""
    return sa.inspect(connection).has_table(table.name)


def schema_version(engine: sa.Engine) -> int | None:
    """The version of igkd's tables, or None when they are not there."""
    with engine.connect() as connection:
        if not has(connection, schema):
            return None
        return connection.scalar(sa.select(schema.c.version))


def _bring_up_to_date(setup: sa.Engine, url: str, file: Path | None) -> int:
    """Make Optuna's tables, then ours, the version last: its presence says that all is there."""
    with _creation_lock(setup, file):
        version = schema_version(setup)
        if version is not None and version not in ADDED_TO:
            return version  # another process did it, or a newer igkd-search
        if version is None:
            arguments = _engine_options(url)["connect_args"]
            RDBStorage(url, engine_kwargs={"poolclass": sa.NullPool, "connect_args": arguments})
        with setup.begin() as connection:
            metadata.create_all(connection)
            change = sa.insert(schema) if version is None else sa.update(schema)
            connection.execute(change.values(version=SCHEMA_VERSION))
    return SCHEMA_VERSION


@contextmanager
def _creation_lock(setup: sa.Engine, file: Path | None) -> Iterator[None]:
    if file is not None:
        with FileLock(f"{file}.lock", timeout=120), setup.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            yield
        return
    # Held by a transaction: a session's lock would be lost or leaked behind a pooler.
    with setup.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        yield
