"""What a storage holds: a line for each study, quick, and in spite of one that is damaged.

Only counts are read, not every trial, so a storage of many large studies is shown at once.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from igkd_search import database, progress, results, schema, searches, slots, workers
from igkd_search.errors import IgkdError, reason_of
from igkd_search.identities import this_process

WORDS = {
    "running": "somebody is at work on it",
    "ended": "the budget is spent, or a limit of the search is reached",
    "stopped": "nobody is at work since igkd stop",
    "idle": "trials are left, and nobody is at work",
    "damaged": "it cannot be read",
}
"""State of a study -> what that means."""


def survey(base: database.Database) -> list[dict[str, Any]]:
    """All studies as plain JSON, those that began last first.

    `began` is ISO 8601 UTC, `seen` seconds since a worker's last sign of life, `best` a validation
    accuracy; null is what nobody knows. `state` is one of WORDS; of a damaged study `fault` says
    what is wrong.
    """
    with base.transaction() as connection:
        table = sa.select(schema.studies.c.study_name, schema.studies.c.created)
        began = {str(name): str(created) for name, created in connection.execute(table)}
    found = [_described(base, name, created) for name, created in began.items()]
    return sorted(found, key=lambda one: (one["began"], one["study"]), reverse=True)


def _described(base: database.Database, name: str, created: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("done", "trials", "best", "seen", "fault"))
    answer = {"study": name, "state": "damaged", **unknown, "workers": 0, "began": created}
    try:
        return answer | _read(base, name)
    except IgkdError as error:
        return answer | {"fault": str(error)}
    except Exception as error:  # whatever was written there, the others are shown
        return answer | {"fault": f"{type(error).__name__}: {reason_of(error)}"}


def _read(base: database.Database, name: str) -> dict[str, Any]:
    counts = slots.Slots(base, name).counts()
    register = workers.rows(base, name, this_process())
    alive = sum(row.alive for row in register)
    study = results.open_study(base, name)
    best = results.best(study)
    ended = counts.total > 0 and counts.done >= counts.total
    return {
        "state": "ended" if ended else "running" if alive else _at_rest(base, name),
        "done": counts.done,
        "trials": counts.total,
        "best": None if best is None else best.accuracy,
        "workers": alive,
        "seen": round(min(row.silent for row in register), 1) if register else None,
    }


def _at_rest(base: database.Database, name: str) -> str:
    """Why nobody is at work on a study that is not ended."""
    if progress.status(base, name)["ended"]:
        return "ended"
    return "stopped" if searches.read(base, name).stops > 0 else "idle"
