"""Looking on while a search goes: on a screen, as lines of text, or as lines of JSON.

A search of days outlives its database now and then. Who looks on keeps what was seen last, says
that the database is away, and goes on when it is back.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from igkd_search import console, overview
from igkd_search.errors import StorageLost
from igkd_search.patience import asked_seconds

Found = dict[str, Any]
Show = Callable[[Found, str], None]
"""(what was seen last, why it may be old or "") -> None."""


def watch(
    read: Callable[[], Found],
    show: Show,
    interval: float = 2.0,
    patience: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Found:
    """Read and show every `interval` seconds until the search has ended; the last that was read.

    While the database is away the last is shown again. StorageLost when it stays away for longer
    than `patience` seconds (by default IGKD_STORAGE_WAIT, else 15 minutes), or was away at first.
    """
    patience = asked_seconds() if patience is None else patience
    found, there = None, monotonic()
    while True:
        try:
            found, there = read(), monotonic()
        except StorageLost as error:
            if found is None or monotonic() - there >= patience:
                raise
            show(found, f"{error}; waiting for it, what is shown is older")
        else:
            show(found, "")
            if found["ended"]:
                return found
        sleep(interval)


@contextmanager
def on_screen() -> Iterator[Show]:
    """Draw on the whole terminal; what was drawn last is printed when it has been given back."""
    last: list[Found] = []
    try:
        with console.screen() as draw:

            def show(found: Found, note: str) -> None:
                last[:] = [found]
                size = console.terminal("stdout").size
                draw(overview.view(found, size.width, size.height, note))

            yield show
    finally:
        for found in last:
            overview.print_status(found)


@contextmanager
def as_lines(now: Callable[[], datetime] = datetime.now) -> Iterator[Show]:
    """Print a line of text for every change of what counts, and when the database goes or comes."""
    before: list[Any] = []

    def show(found: Found, note: str) -> None:
        state = [bool(note), overview.outline(found)]
        if state != before:
            before[:] = state
            console.print_line(f"{now():%Y-%m-%d %H:%M:%S} {note or overview.line(found)}")

    yield show


@contextmanager
def as_json() -> Iterator[Show]:
    """Print a document a line for every change; the database's absence is said on standard error.

    What grows by itself, as times do, is no change.
    """
    before: Found | None = None
    away = False

    def show(found: Found, note: str) -> None:
        nonlocal before, away
        if note and not away:
            console.print_note(note, logging.WARNING)
        state, away = _without_clocks(found), bool(note)
        if state != before:
            before = state
            console.print_json_line(found)

    yield show


def _without_clocks(found: Found) -> Found:
    workers = [{**worker, "silent": None} for worker in found["workers"]]
    return {**found, "workers": workers, "seconds": None, "rate": None}
