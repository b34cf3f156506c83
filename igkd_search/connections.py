"""How many connections a Postgres server has left, and whether a search's workers fit into them.

Stock Postgres serves 100 at once; workers beyond that would die as they start, or starve others.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from igkd_search.database import CONNECTIONS, Database, masked
from igkd_search.errors import StorageError

_ASK = sa.text(
    "SELECT current_setting('max_connections')::int,"
    " current_setting('superuser_reserved_connections')::int"
    # since Postgres 16
    " + coalesce(current_setting('reserved_connections', true)::int, 0),"
    # of other roles' sessions little more than the database is shown; servers' own have none
    " (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL)"
)


@dataclass(frozen=True)
class Room:
    """Connections of a server: how many there are, kept for administrators, and in use."""

    limit: int
    reserved: int
    used: int

    @property
    def free(self) -> int:
        """How many more it would give to an ordinary role."""
        return max(0, self.limit - self.reserved - self.used)

    @property
    def workers(self) -> int:
        """How many more workers they are enough for."""
        return self.free // CONNECTIONS


def room(connection: sa.Connection) -> Room | None:
    """What is left at the server; None where nothing is counted: SQLite, or behind a pooler."""
    if connection.dialect.name != "postgresql" or is_pooled(connection):
        return None
    return Room(*connection.execute(_ASK).one())


def is_pooled(connection: sa.Connection) -> bool:
    """Whether a pooler stands before Postgres: it gives its clients process ids of its own."""
    driver: Any = connection.connection.driver_connection
    serving = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    return bool(driver.info.backend_pid != serving)


def check_room(base: Database, workers: int) -> None:
    """StorageError when a Postgres server lacks the connections for so many more workers."""

    def ask() -> Room | None:
        if base.engine.dialect.name != "postgresql":
            return None
        with base.transaction() as connection:
            return room(connection)

    found = base.patience(ask)
    if found is None or found.workers >= workers:
        return
    fewer = f"start {found.workers} at most (--workers), " if found.workers else ""
    raise StorageError(
        f"the database at {masked(base.url)} has {found.free} connections free ({found.limit} in "
        f"all, {found.reserved} kept for administrators, {found.used} in use), and "
        f"{workers} {'worker needs' if workers == 1 else 'workers need'} {workers * CONNECTIONS}: "
        f"{fewer}raise max_connections there, or go through PgBouncer (storage/README.md)"
    )
