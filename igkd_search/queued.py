"""Configurations that somebody wants to be tried next: each waits for the next fresh slot."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from igkd_search.database import Database, has
from igkd_search.schema import queue


def add(base: Database, study: str, points: Sequence[Mapping[str, Any]]) -> list[int]:
    """Append configurations, whole or in part; their positions.

    It is not repeated while the database is away: what was answered too late would stand twice.
    """
    with base.transaction() as connection:
        return append_in(connection, study, points)


def append_in(
    connection: sa.Connection, study: str, points: Sequence[Mapping[str, Any]]
) -> list[int]:
    """The same as part of a transaction."""
    _lock(connection)
    mine = queue.c.study_name == study
    last = connection.scalar(sa.select(sa.func.max(queue.c.position)).where(mine))
    first = 0 if last is None else last + 1
    positions = list(range(first, first + len(points)))
    rows = [
        {"study_name": study, "position": position, "parameters": json.dumps(dict(point))}
        for position, point in zip(positions, points, strict=True)
    ]
    if rows:
        connection.execute(sa.insert(queue), rows)
    return positions


def take(
    base: Database,
    study: str,
    slot: int,
    prove: Callable[[sa.Connection], None] = lambda connection: None,
) -> dict[str, Any] | None:
    """The configuration that this slot has, or takes now, from the head of the queue; or None.

    `prove` raises, within the transaction, unless the caller holds the slot.
    """

    def ask() -> dict[str, Any] | None:
        mine = queue.c.study_name == study
        with base.transaction() as connection:
            row = connection.execute(sa.select(queue).where(mine, queue.c.slot == slot)).first()
            if row is None:
                head = sa.select(queue).where(mine, queue.c.slot.is_(None))
                head = head.order_by(queue.c.position).limit(1).with_for_update(skip_locked=True)
                row = connection.execute(head).first()
                if row is None:
                    return None
                prove(connection)
                change = sa.update(queue).where(mine, queue.c.position == row.position)
                connection.execute(change.values(slot=slot))
        found: dict[str, Any] = json.loads(row.parameters)
        return found

    return base.patience(ask)


def waiting(base: Database, study: str) -> list[dict[str, Any]]:
    """The configurations that no slot has taken yet, in order."""

    def ask() -> list[dict[str, Any]]:
        untaken = (queue.c.study_name == study) & queue.c.slot.is_(None)
        with base.transaction() as connection:
            if not has(connection, queue):
                return []
            query = sa.select(queue.c.parameters).where(untaken).order_by(queue.c.position)
            return [json.loads(text) for text in connection.scalars(query)]

    return base.patience(ask)


def _lock(connection: sa.Connection) -> None:
    """Two that append at once must not count the same position; SQLite is locked already."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE igkd_queue IN SHARE ROW EXCLUSIVE MODE"))
