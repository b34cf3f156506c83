"""What the workers of a study share besides its slots: the word to stop, and the time searched.

Time is that of the database's clock during which at least one worker was at work, so neither hosts'
clocks nor a week's pause nor the number of workers count.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from igkd_search.database import Database, has
from igkd_search.schema import searches

LONGEST_GAP = 60.0
"""Seconds between two signs of life that still count as work."""


@dataclass(frozen=True)
class Search:
    """stops: how often it was asked to stop; seconds: how long workers have been at work."""

    stops: int = 0
    seconds: float = 0.0


def read(base: Database, study: str) -> Search:
    """What is known of a study's search; zeros before its first worker."""

    def ask() -> Search:
        mine = searches.c.study_name == study
        with base.transaction() as connection:
            if not has(connection, searches):
                return Search()
            query = sa.select(searches.c.stops, searches.c.seconds).where(mine)
            row = connection.execute(query).first()
        return Search() if row is None else Search(*row)

    return base.patience(ask)


def ask_to_stop(base: Database, study: str) -> int:
    """Have every worker that is at work now leave after its epoch; how often that was asked."""

    def ask() -> int:
        with base.transaction() as connection:
            _ensure(connection, study)
            change = sa.update(searches).where(searches.c.study_name == study)
            connection.execute(change.values(stops=searches.c.stops + 1))
            return _stops(connection, study)

    return base.patience(ask)


def tick(connection: sa.Connection, base: Database, study: str) -> int:
    """Add the time since the last sign of life of any worker; how often a stop was asked."""
    _ensure(connection, study)
    gap = base.now - searches.c.ticked
    worked = sa.case((gap.between(0.0, LONGEST_GAP), gap), else_=0.0)
    # who finds another one ticking leaves it to that one: a sign of life waits for nobody
    mine = sa.select(searches.c.study_name).where(searches.c.study_name == study)
    change = sa.update(searches).where(
        searches.c.study_name.in_(mine.with_for_update(skip_locked=True))
    )
    connection.execute(change.values(seconds=searches.c.seconds + worked, ticked=base.now))
    return _stops(connection, study)


def _stops(connection: sa.Connection, study: str) -> int:
    found = connection.scalar(sa.select(searches.c.stops).where(searches.c.study_name == study))
    assert found is not None
    return int(found)


def _ensure(connection: sa.Connection, study: str) -> None:
    insert = "INSERT INTO igkd_searches (study_name) VALUES (:study) ON CONFLICT DO NOTHING"
    connection.execute(sa.text(insert), {"study": study})
