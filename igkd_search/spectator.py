"""A search as seen from outside, by whoever started its workers and runs none itself.

All is read from the database, so it is the same search wherever its workers are.
"""

import time
from collections.abc import Callable
from contextlib import closing

from igkd_search import (
    connections,
    database,
    overview,
    progress,
    searches,
    spec,
    stages,
    stopping,
)
from igkd_search.errors import StorageLost

LOOK_SECONDS = 1.0


class Spectator:
    """Shows how far a search is on a stage; `stops` is how often it had been asked to stop before.

    The database may be away for a while: the workers wait for it, so this does too.
    """

    def __init__(
        self,
        url: str,
        study: spec.Study,
        stage: stages.Stage,
        stops: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = database.connect(url, read_only=True)
        self._study = study
        self._stage = stage
        self._stops = stops
        self._monotonic = monotonic
        self._last = float("-inf")
        self._reader = progress.Reader(self._base, study.name)
        self.finished = False

    def look(self) -> None:
        """Show how it stands, at most once a second; `finished`: whether the budget is spent."""
        if self._monotonic() - self._last < LOOK_SECONDS:
            return
        try:
            self._show()
        except StorageLost as error:
            self._stage.advance(0, str(error))
        self._last = self._monotonic()

    def ending(self) -> str:
        """Why the workers have left: "budget", or in words who or what had them end before."""
        try:
            self._show()
        except StorageLost as error:
            return str(error)
        if self.finished:
            return "budget"
        if searches.read(self._base, self._study.name).stops != self._stops:
            return "igkd stop"
        enough = stopping.reason(self._base, self._study, self._reader.study)
        return enough or "its workers have left; the same command goes on"

    def close(self) -> None:
        """Let go of the database."""
        self._base.close()

    def _show(self) -> None:
        found = self._reader.read()
        budget = found["budget"]
        self.finished = 0 < budget["trials"] <= budget["done"]
        self._stage.total = budget["trials"]
        stages.foresee(self._stage.name, found["seconds"]["left"])
        self._stage.advance(budget["done"] - self._stage.done, overview.note(found))


def check_room(url: str, workers: int) -> None:
    """StorageError when the database lacks the connections for so many more workers."""
    with closing(database.connect(url)) as base:
        connections.check_room(base, workers)


def stops_so_far(url: str, study: str) -> int:
    """How often a study has been asked to stop; 0 where there is no database yet."""
    base = database.connect_if_there(url)
    if base is None:
        return 0
    with closing(base):
        return searches.read(base, study).stops
