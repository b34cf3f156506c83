"""A database looked at from outside, as findings: is it there, of which version, whose else.

Nothing is made or changed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from igkd_search import filesystems, registry, server_health, slots, workers
from igkd_search.database import bare_engine, connect_if_there, masked, schema_version
from igkd_search.errors import IgkdError
from igkd_search.findings import Finding, fault, guarded, ok, warning
from igkd_search.identities import this_process
from igkd_search.patience import said_by
from igkd_search.schema import ADDED_TO, SCHEMA_VERSION
from igkd_search.server_health import AGAIN, MANUAL

_BROKEN = (IgkdError, sa.exc.SQLAlchemyError, OSError)
_MLFLOW = {"experiments", "runs", "latest_metrics"}


def examine(url: str, typed: bool = False) -> Iterator[Finding]:
    """Whether the database answers and, if so, everything about it that a search relies on.

    `typed` says that the URL stood in the command line.
    """
    try:
        engine = bare_engine(url)
    except IgkdError as error:
        yield fault("database", str(error), "--storage, or IGKD_STORAGE, with such a URL")
        return
    if typed and (engine.url.password or engine.url.query.get("password")):
        elsewhere = f"IGKD_STORAGE, --storage-file or PGPASSFILE in its place ({MANUAL})"
        yield warning("password", "in the command line, where ps shows it to everyone", elsewhere)
    if engine.dialect.name == "sqlite":
        yield from _file(engine, Path(str(engine.url.database)))
    else:
        yield from _server(engine, masked(url))


def examine_study(url: str, study: str) -> list[Finding]:
    """How far a study is, whether its images are here, and who works on it."""
    names = "a study file, a shipped study, or one in the storage"
    return guarded("study", lambda: _study(url, study), _BROKEN, names)


def _file(engine: sa.Engine, file: Path) -> Iterator[Finding]:
    yield _place(file)
    if not file.exists():
        yield ok("database", f"{file} is not there yet; the first igkd run makes it")
        return
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=1")
            version = connection.exec_driver_sql("SELECT sqlite_version()").scalar()
            yield from _neighbours(connection)
        yield from _tables(engine)
        yield ok("database", f"SQLite {version}, {file}, {file.stat().st_size / 1e6:.1f} MB")
    except _BROKEN as error:
        yield fault("database", f"{file}: {said_by(error)}", f"ls -l {file}*   says whose it is")


def _place(file: Path) -> Finding:
    """Whether SQLite can write where its file lies, or will."""
    kind, near = filesystems.kind_of(file), filesystems.standing(file.parent)
    if filesystems.is_network(kind):
        return fault(
            "writing",
            f"{file} lies on a network file system ({kind}), where SQLite's locks do not hold",
            "--storage postgresql+psycopg://USER@HOST/igkd; or, for workers on one host, "
            f"sqlite:////DISK/igkd.db on a disk of it ({MANUAL})",
        )
    # beside the file SQLite makes two more, so its folder counts as well
    for path in [near, file] if file.exists() else [near]:
        why = filesystems.refusal(path) if path == file or near.is_dir() else "it is no folder"
        if why:
            advice = f"ls -ld {path}   says whose it is; or another --storage"
            return fault("writing", f"{path} cannot be written ({why})", advice)
    return ok("writing", f"{near} can be written, and locks hold there ({kind})")


def _server(engine: sa.Engine, shown: str) -> Iterator[Finding]:
    try:
        connection = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
    except _BROKEN as error:
        reason = said_by(error)
        yield fault("database", f"{shown}: {reason}", _way_in(engine.url, reason))
        return
    with connection:
        version = ".".join(map(str, connection.dialect.server_version_info or ()))
        role = connection.scalar(sa.text("SELECT current_user"))
        yield ok("database", f"Postgres {version}, {shown}, as {role}")
        yield from guarded("tables", lambda: _tables(engine), _BROKEN, AGAIN)
        yield from guarded("neighbours", lambda: _neighbours(connection), _BROKEN, AGAIN)
        yield from server_health.examine(connection)


def _way_in(url: sa.URL, reason: str) -> str:
    """What to type when a server does not let one in, by what it says."""
    if "password" in reason or "pg_hba" in reason:
        return f"the right password in IGKD_STORAGE, --storage-file or PGPASSFILE ({MANUAL})"
    if "does not exist" in reason:
        return f"psql -v database={url.database} -f storage/roles.sql   makes it, and the roles"
    host = f" -h {url.host}" if url.host else ""
    port = f" -p {url.port}" if url.port else ""
    return f"pg_isready{host}{port}   says whether a server is there; storage/README.md starts one"


def _tables(engine: sa.Engine) -> Iterator[Finding]:
    version = schema_version(engine)
    if version is None:
        yield ok("tables", "none yet; the first igkd run makes them")
    elif version == SCHEMA_VERSION:
        yield ok("tables", f"of version {version}, which is this igkd-search's own")
    elif version in ADDED_TO:
        newer = f"the next igkd run brings them to {SCHEMA_VERSION}"
        yield ok("tables", f"of version {version}; {newer}")
    else:
        found = f"of version {version}, and this igkd-search knows {SCHEMA_VERSION}"
        yield fault("tables", found, "pip install --upgrade igkd-search   or another --storage")


def _neighbours(connection: sa.Connection) -> Iterator[Finding]:
    if set(sa.inspect(connection).get_table_names()) >= _MLFLOW:
        found = "MLflow has its tables here too, and both keep their version in alembic_version"
        yield fault("neighbours", found, f"--storage with a database for igkd alone ({MANUAL})")


def _study(url: str, study: str) -> Iterator[Finding]:
    base = connect_if_there(url)
    question = registry.find(study, base)
    if question.data.source in ("arrays", "folder"):
        yield _images(Path(os.environ.get("IGKD_DATA") or str(question.data.path)))
    record = base.read_study(question.name) if base is not None else None
    if base is None or record is None:
        yield ok("study", f"{question.name} has not begun; igkd run {study} begins it")
        return
    counts = slots.Slots(base, question.name).counts()
    register = workers.rows(base, question.name, this_process())
    base.close()
    working = [row for row in register if row.alive]
    done = f"{counts.done} of {counts.total} trials done"
    yield ok("study", f"{question.name}: {done}, {len(working)} workers at work")
    silent = [f"{row.host} (pid {row.pid})" for row in register if row.state != "left"]
    if counts.leased and silent and not working:
        found = f"{counts.leased} trials wait for workers that are silent: {', '.join(silent)}"
        yield warning("workers", found, f"igkd run {study}   goes on with them")


def _images(path: Path) -> Finding:
    if path.is_dir():
        return ok("images", str(path))
    return fault("images", f"{path}: no such folder", "--data FOLDER, or IGKD_DATA, says where")
