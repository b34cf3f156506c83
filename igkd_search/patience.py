"""How long to wait for a database that went away: what is worth a retry, and for how long.

A server restarts, a connection drops, a file is locked: such errors pass, and a search that runs
for days must outlive them. What a wrong password or a missing table says does not pass.
"""

import functools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import psycopg
import sqlalchemy as sa
import tenacity
from optuna.exceptions import StorageInternalError

from igkd_search.errors import StorageError, StorageLost, reason_of

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

VARIABLE = "IGKD_STORAGE_WAIT"
DEFAULT_SECONDS = 15 * 60.0
_PASSES = {"08", "40", "53", "55", "57"}
"""Classes of SQLSTATE: connection, rollback, resources, locks, the operator's intervention."""
_SLEPT = "25P03"
"""SQLSTATE of a transaction that its owner slept through, so that the server ended it."""
_CUT_OFF = "8s2b"
"""SQLAlchemy's code for a transaction that was used on after its connection had dropped."""
_MAY_PASS = (psycopg.OperationalError, psycopg.InterfaceError)
_REFUSED = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
    "no such user",
    "no such database",
)
"""What a server, or a pooler, says to who may not come in: waiting does not help."""
_SQLITE_PASSES = ("locked", "busy", "disk is full", "disk full")


class Patience:
    """Repeats an action until the database is back; `give_up` ends the waiting early."""

    def __init__(
        self,
        seconds: float | None = None,
        give_up: threading.Event | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.seconds = asked_seconds() if seconds is None else seconds
        self.give_up = give_up or threading.Event()
        self._sleep = sleep
        self._hurried = threading.local()

    def __call__(self, action: Callable[[], T]) -> T:
        """What `action` returns; its StorageLost is raised only after all waiting was in vain."""
        try:
            return action()
        except StorageLost as error:
            if getattr(self._hurried, "depth", 0) or self.seconds <= 0:
                raise
            log.warning("%s; waiting for it, %g minutes at most", error, self.seconds / 60)
        began = time.monotonic()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StorageLost),
            # with chance, or all workers would come back at the same moment
            wait=tenacity.wait_exponential(multiplier=0.25, max=10.0)
            + tenacity.wait_random(0, 0.25),
            stop=tenacity.stop_after_delay(self.seconds)
            | tenacity.stop_when_event_set(self.give_up),
            sleep=self._sleep or tenacity.sleep_using_event(self.give_up),
            reraise=True,
        )
        answer = retrying(action)
        log.info("the database is back after %.0f s", time.monotonic() - began)
        return answer

    @contextmanager
    def once(self) -> Iterator[None]:
        """Within, and in this thread, everything is tried once: who trains has no time to wait."""
        depth = getattr(self._hurried, "depth", 0)
        self._hurried.depth = depth + 1
        try:
            yield
        finally:
            self._hurried.depth = depth


class _Patient(Protocol):
    @property
    def patience(self) -> Patience: ...


S = TypeVar("S", bound=_Patient)


def patient(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that is repeated with its object's patience; it must be safe to repeat."""

    def repeated(self: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        return self.patience(lambda: method(self, *arguments, **options))

    functools.update_wrapper(repeated, method)
    return repeated


def asked_seconds() -> float:
    """Seconds of IGKD_STORAGE_WAIT, or 15 minutes; StorageError when it is no such number."""
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return DEFAULT_SECONDS
    try:
        seconds = float(asked)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise StorageError(f"{VARIABLE} = {asked}: must be a number of seconds, 0 or more")
    return seconds


def driver_error(error: BaseException | None) -> Any:
    """What the database's driver raised, in whatever Optuna and SQLAlchemy wrapped it; or that."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return getattr(cause, "orig", None) or cause


def said_by(error: BaseException) -> str:
    """The first line of what the database said."""
    return reason_of(driver_error(error))


def passes(error: BaseException | None) -> bool:
    """Whether the database may work again by itself, whatever the error is wrapped in."""
    while error is not None:
        if isinstance(error, (sa.exc.TimeoutError, StorageLost)):
            return True
        if isinstance(error, sa.exc.DBAPIError):
            return error.connection_invalidated or _driver_says_it_passes(error.orig)
        if isinstance(error, sa.exc.PendingRollbackError):
            return error.code == _CUT_OFF
        error = error.__cause__
    return False


def _driver_says_it_passes(error: Any) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return any(word in str(error) for word in _SQLITE_PASSES)
    if isinstance(error, psycopg.Error):
        state = error.sqlstate
        if state is None:  # there was no session to give one: no server, or it let nobody in
            refused = any(word in str(error) for word in _REFUSED)
            return not refused and isinstance(error, _MAY_PASS)
        return state[:2] in _PASSES or state == _SLEPT
    return False
