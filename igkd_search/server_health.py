"""A Postgres server asked how it is, as findings: rights, distance, clock, connections left.

All of it holds without any of igkd's tables, so an empty database can be looked at before the first
search.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import sqlalchemy as sa

from igkd_search import connections
from igkd_search.findings import Finding, fault, guarded, ok, warning
from igkd_search.schema import metadata

MANUAL = "docs/storage.md"
AGAIN = f"igkd doctor   once more; if it stays, {MANUAL} has what a database needs"
_ROUND_TRIPS = 5
_SLOW_SECONDS = 0.1  # each epoch takes several, and waits for some of them
_OFF_SECONDS = 5.0  # clocks that are set by the network differ by far less
_STATE = sa.text(
    "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',"
    " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),"
    " to_regclass('igkd_schema') IS NOT NULL"
)
_MISSING = sa.text(
    "SELECT right_.name || ' ' || table_.name"
    " FROM unnest(CAST(:tables AS text[])) AS table_(name),"
    " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_(name)"
    # of a table that is not there yet the answer is NULL
    " WHERE NOT has_table_privilege(to_regclass(table_.name), right_.name)"
)
_NOW = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)")


def examine(connection: sa.Connection) -> Iterator[Finding]:
    """What the server says over a connection on which each statement stands by itself."""
    checks: dict[str, Callable[[sa.Connection], Iterator[Finding]]] = {
        "writing": _rights,
        "round trip": _round_trip,
        "clock": _clock,
        "connections": _room,
    }
    for name, check in checks.items():
        yield from guarded(name, partial(check, connection), (sa.exc.SQLAlchemyError,), AGAIN)


def _rights(connection: sa.Connection) -> Iterator[Finding]:
    replica, reads_only, may_create, there = connection.execute(_STATE).one()
    missing = connection.scalars(_MISSING, {"tables": [*metadata.tables, "trials"]}).all()
    unread = [right for right in missing if right.startswith("SELECT")]
    roles = f"psql -f storage/roles.sql   gives the roles their rights ({MANUAL})"
    if replica:
        yield fault("writing", "the server is a replica, which only reads", "its primary's address")
    elif unread:
        yield fault("writing", f"this role lacks the right to {unread[0]}", roles)
    elif reads_only or missing:
        worker = f"a URL of igkd_worker, for workers and igkd run ({MANUAL})"
        yield warning("writing", "this role only reads, as dashboards do", worker)
    elif not there and not may_create:
        owner = f"igkd prepare STUDY   once, with a URL of igkd_owner ({MANUAL})"
        yield fault("writing", "there are no tables, and this role may not make them", owner)
    else:
        tables = "makes tables as well" if may_create else "makes and drops no table"
        yield ok("writing", f"this role reads and writes rows, and {tables}")


def _round_trip(connection: sa.Connection) -> Iterator[Finding]:
    times = []
    for _ in range(_ROUND_TRIPS):
        began = time.perf_counter()
        connection.scalar(sa.text("SELECT 1"))
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    found = f"{median * 1000:.1f} ms, the median of {_ROUND_TRIPS}"
    if median < _SLOW_SECONDS:
        yield ok("round trip", found)
    else:
        yield warning("round trip", found, "a server nearer to the workers; each epoch takes some")


def _clock(connection: sa.Connection) -> Iterator[Finding]:
    before = time.time()
    there = connection.execute(_NOW).scalar_one()
    ahead = there - (before + time.time()) / 2
    order = "ahead of" if ahead > 0 else "behind"
    found = f"the server's is {abs(ahead):.1f} s {order} this host's"
    if abs(ahead) < _OFF_SECONDS:
        yield ok("clock", found)
    else:
        off = f"{found}; leases do not mind, but times in logs and lists are off"
        yield warning("clock", off, "timedatectl set-ntp true   on the host that is wrong")


def _room(connection: sa.Connection) -> Iterator[Finding]:
    room = connections.room(connection)
    if room is None:
        yield ok("connections", "through a pooler, which shares out what the server has")
        return
    found = f"{room.free} of {room.limit} free, enough for {room.workers} more workers"
    if room.workers:
        yield ok("connections", found)
    else:
        more = f"raise max_connections, or put PgBouncer before the server ({MANUAL})"
        yield warning("connections", found, more)
