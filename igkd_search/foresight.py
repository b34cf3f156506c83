"""When a search that this process runs will have ended, for the display of its stages.

Nothing within a worker knows that: it takes all workers and the whole budget. So it is read from
the database as `igkd status` reads it, beside the training and seldom enough to cost it nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from igkd_search import database, progress, stages

log = logging.getLogger(__name__)

_EVERY_SECONDS = 5.0
_SHARE = 100
"""A reading is followed by so many times as long without one."""


@contextmanager
def foreseeing(url: str, study: str) -> Iterator[None]:
    """Within, the stage of the trials shows how long the search has to go."""
    done = threading.Event()

    def look() -> None:
        with ExitStack() as opened:
            readers: list[progress.Reader] = []

            def read() -> dict[str, Any]:
                if not readers:
                    # a connection of its own: nothing is shared with the worker, which may hold a
                    # lock; the study is registered once its materials are there
                    base = opened.enter_context(closing(database.connect(url, read_only=True)))
                    readers.append(progress.Reader(base, study))
                return readers[0].read()

            follow(read, done.wait)

    thread = threading.Thread(target=look, name="foresight", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        stages.foresee("trials", None)


def follow(
    read: Callable[[], dict[str, Any]],
    wait: Callable[[float], bool],
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Say after each reading how long the search has to go, until `wait(seconds)` says it is done.

    A database that is away leaves what was said last.
    """
    cost = 0.0
    while not wait(max(_EVERY_SECONDS, _SHARE * cost)):
        began = monotonic()
        try:
            found = read()
        except Exception as error:  # whatever it is, the search is not to hear of it
            log.debug("the time left is not known: %s", error)
        else:
            tell(found)
        cost = monotonic() - began


def tell(found: dict[str, Any]) -> None:
    """Show what a reading says of the time left."""
    stages.foresee("trials", found["seconds"]["left"])
