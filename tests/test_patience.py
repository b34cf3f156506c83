import logging
import sqlite3
import threading

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors as pg

from igkd_search.errors import LeaseLost, StorageError, StorageLost
from igkd_search.patience import DEFAULT_SECONDS, Patience, asked_seconds, passes, patient


class Away:
    """A database that is away for so many calls."""

    def __init__(self, calls: int) -> None:
        self.calls, self.slept = calls, list[float]()
        self.patience = Patience(60.0, sleep=self.slept.append)
        self.made = 0

    @patient
    def ask(self, answer: str, *, loud: bool = False) -> str:
        """Answer, once the database is back."""
        self.made += 1
        if self.made <= self.calls:
            raise StorageLost("no route to host")
        return answer.upper() if loud else answer


def test_what_passes_is_repeated_until_it_has_passed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away = Away(4)
    assert away.ask("yes", loud=True) == "YES"
    assert len(away.slept) == 3 and away.slept == sorted(away.slept), "longer and longer"
    assert "no route to host; waiting for it, 1 minutes at most" in caplog.text
    assert "the database is back" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_without_an_outage_nothing_is_said_or_slept(caplog: pytest.LogCaptureFixture) -> None:
    away = Away(0)
    assert (away.ask("yes"), away.slept, caplog.text) == ("yes", [], "")
    assert Away.ask.__doc__ == "Answer, once the database is back."


def test_all_waiting_in_vain_raises_what_happened() -> None:
    away = Away(10**6)
    away.patience = Patience(0.0)
    with pytest.raises(StorageLost, match="no route"):
        away.ask("yes")
    assert away.made == 1, "no waiting was asked for"


def test_what_does_not_pass_is_raised_at_once() -> None:
    patience, calls = Patience(60.0, sleep=lambda _: None), list[int]()
    for error in (LeaseLost("another's"), StorageError("no such table"), KeyError("a bug")):

        def fail(error: Exception = error) -> None:
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            patience(fail)
    assert len(calls) == 3


def test_who_has_no_time_tries_once_and_only_in_its_own_thread() -> None:
    away = Away(2)
    with away.patience.once():
        with away.patience.once(), pytest.raises(StorageLost):
            away.ask("yes")
        with pytest.raises(StorageLost):
            away.ask("yes")
        other, answers = Away(2), list[str]()
        other.patience = away.patience
        thread = threading.Thread(target=lambda: answers.append(other.ask("yes")))
        thread.start()
        thread.join(30)
        assert answers == ["yes"]
    again = Away(1)
    again.patience = away.patience
    assert again.ask("yes") == "yes", "outside, it waits again"


def test_the_waiting_ends_when_somebody_gives_up() -> None:
    give_up = threading.Event()
    patience = Patience(3600.0, give_up)
    waiting = threading.Event()

    def away() -> None:
        waiting.set()
        raise StorageLost("away")

    raised: list[BaseException] = []

    def wait() -> None:
        try:
            patience(away)
        except StorageLost as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(30)
    give_up.set()
    thread.join(30)
    assert len(raised) == 1


def wrapped(error: BaseException, invalidated: bool = False) -> sa.exc.DBAPIError:
    return sa.exc.DBAPIError("SELECT 1", {}, error, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (wrapped(sqlite3.OperationalError("database is locked")), True),
        (wrapped(sqlite3.OperationalError("database or disk is full")), True),
        (wrapped(sqlite3.OperationalError("no such table: trials")), False),
        (wrapped(psycopg.OperationalError("connection refused")), True),
        (wrapped(psycopg.InterfaceError("the connection is closed")), True),
        (wrapped(pg.AdminShutdown("terminating connection")), True),
        (wrapped(pg.CannotConnectNow("starting up")), True),
        (wrapped(pg.TooManyConnections("sorry")), True),
        (wrapped(pg.DeadlockDetected("deadlock")), True),
        (wrapped(pg.SerializationFailure("conflict")), True),
        (wrapped(pg.UndefinedTable("trials")), False),
        (wrapped(pg.UniqueViolation("twice")), False),
        (wrapped(pg.ReadOnlySqlTransaction("read-only")), False),
        (
            wrapped(
                pg.IdleInTransactionSessionTimeout("slept"),
            ),
            True,
        ),
        (wrapped(ValueError("anything"), invalidated=True), True),
        (sa.exc.PendingRollbackError("its connection dropped", code="8s2b"), True),
        (sa.exc.PendingRollbackError("a flush failed before", code="7s2a"), False),
        (sa.exc.TimeoutError("the pool is empty"), True),
        (StorageLost("away"), True),
        (StorageError("wrong URL"), False),
        (ValueError("a bug"), False),
        (None, False),
    ],
)
def test_what_passes_by_itself(error: BaseException | None, expected: bool) -> None:
    assert passes(error) is expected
    if error is not None:
        outer = RuntimeError("wrapped again")
        outer.__cause__ = error
        assert passes(outer) is expected


def test_the_time_is_a_quarter_of_an_hour_or_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IGKD_STORAGE_WAIT", raising=False)
    assert asked_seconds() == DEFAULT_SECONDS == 900.0
    monkeypatch.setenv("IGKD_STORAGE_WAIT", "2.5")
    assert Patience().seconds == 2.5
    for wrong in ("soon", "-1", "inf", "nan"):
        monkeypatch.setenv("IGKD_STORAGE_WAIT", wrong)
        with pytest.raises(StorageError, match=f"IGKD_STORAGE_WAIT = {wrong}: must be a number"):
            asked_seconds()


@pytest.mark.parametrize(
    "said",
    [
        'connection failed: FATAL:  password authentication failed for user "igkd"',
        'connection failed: FATAL:  database "igkd" does not exist',
        "connection failed: FATAL:  no pg_hba.conf entry for host",
        "fe_sendauth: no password supplied",
    ],
)
def test_who_is_not_let_in_does_not_wait(said: str) -> None:
    assert passes(wrapped(psycopg.OperationalError(said))) is False
