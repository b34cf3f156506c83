"""The budget as a table, one row a trial: claimed by one worker at a time, adopted when it dies.

A lease is a counter that its owner increments. A claimer takes a slot over when it has itself seen
the counter stand still for a full lease, or at once when the owner's process on this host is gone.
Wall clocks are never compared. Every write of an owner names its attempt, so a late one changes
nothing (fencing).
"""

import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from sqlalchemy import event

from igkd_search.database import Database, unknown_study
from igkd_search.errors import LeaseLost, StorageError
from igkd_search.schema import slots, studies

_HIDDEN = "hidden"
_NOBODY = dict.fromkeys(("owner", "host", "pid", "process_started", "boot_id"))


@dataclass(frozen=True)
class Identity:
    """Who claims: a worker (`owner`, unique) and its process, told apart from reused pids."""

    host: str
    pid: int
    process_started: str
    boot_id: str
    owner: str


@dataclass(frozen=True)
class Claim:
    """The right to work on one slot, until another worker's attempt replaces it."""

    study_name: str
    slot: int
    attempt: int
    owner: str


@dataclass(frozen=True)
class Counts:
    """How many slots there are, and how many in each state."""

    total: int
    open: int
    leased: int
    done: int


@dataclass(frozen=True)
class SlotRow:
    """One slot as stored; owner, host and pid are None when nobody holds it."""

    slot: int
    state: str
    attempt: int
    owner: str | None
    host: str | None
    pid: int | None
    counter: int
    trial_number: int | None
    outcome: str | None


class Slots:
    """One worker's hold on the budget of one study; several claims at once are fine.

    `lease_seconds` is how long a counter must stand still before its slot is adopted; owners renew
    several times in it. All methods raise StorageError when the database is lost.
    """

    def __init__(
        self,
        database: Database,
        study_name: str,
        lease_seconds: float = 60.0,
        identity: Identity | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.study_name = study_name
        self.lease_seconds = lease_seconds
        self.identity = identity or this_process()
        self._monotonic = monotonic
        self._seen: dict[int, tuple[int, float]] = {}  # slot -> counter, and since when it stands
        self._mine = slots.c.study_name == study_name
        # The pool mends a broken connection silently; what was seen before it proves nothing.
        event.listen(database.engine, "invalidate", lambda *_: self.forget_observations())

    def set_budget(self, trials: int) -> None:
        """Have rows 0..trials-1; rows beyond that which were never claimed are taken away."""
        assert trials >= 0, trials
        study = sa.update(studies).where(studies.c.study_name == self.study_name)
        surplus = sa.delete(slots).where(
            self._mine, slots.c.slot >= trials, slots.c.state == "open", slots.c.attempt == 0
        )
        with self.database.transaction() as connection:
            # This update is also the lock that keeps two budgets from mixing.
            if connection.execute(study.values(trials=trials)).rowcount != 1:
                raise unknown_study(self.database.url, self.study_name)
            connection.execute(surplus)
            present = set(connection.scalars(sa.select(slots.c.slot).where(self._mine)))
            missing = [{"study_name": self.study_name, "slot": i} for i in range(trials)]
            missing = [row for row in missing if row["slot"] not in present]
            if missing:
                connection.execute(sa.insert(slots), missing)

    def claim(self) -> Claim | None:
        """The lowest open slot, else one whose owner is dead, else None (all done or all alive)."""
        try:
            with self.database.transaction() as connection:
                return self._claim_open(connection) or self._adopt(connection)
        except StorageError:
            self.forget_observations()
            raise

    def forget_observations(self) -> None:
        """Start all observing anew: an outage stopped the counters of healthy owners too."""
        self._seen = {}

    def renew(self, claim: Claim) -> None:
        """Show that the owner lives; raises LeaseLost when another worker has the slot."""
        self._write(claim, counter=slots.c.counter + 1)

    def record_trial(self, claim: Claim, trial_number: int) -> None:
        """Note which Optuna trial works this slot off; raises LeaseLost."""
        self._write(claim, trial_number=trial_number)

    def finish(self, claim: Claim, outcome: str) -> None:
        """Close the slot: 'complete', 'pruned' or 'failed:<cause>'; raises LeaseLost.

        Saying the same twice is fine: the first answer may have been lost with the connection.
        """
        assert outcome in ("complete", "pruned") or outcome.startswith("failed:"), outcome
        said = sa.and_(slots.c.state == "done", slots.c.outcome == outcome)
        self._write(claim, said, state="done", outcome=outcome)

    def release(self, claim: Claim) -> None:
        """Give the slot back for anyone to continue; silent when it is another's already."""
        with suppress(LeaseLost):
            self._write(claim, state="open", **_NOBODY)

    def counts(self) -> Counts:
        """The size of the budget and its progress."""
        query = sa.select(slots.c.state, sa.func.count()).where(self._mine)
        with self.database.transaction() as connection:
            rows = connection.execute(query.group_by(slots.c.state)).all()
        found: dict[str, int] = {row[0]: row[1] for row in rows}
        open_, leased, done = (found.get(state, 0) for state in ("open", "leased", "done"))
        return Counts(open_ + leased + done, open_, leased, done)

    def rows(self) -> list[SlotRow]:
        """All slots of the study in order."""
        columns = [slots.c[name] for name in SlotRow.__dataclass_fields__]
        with self.database.transaction() as connection:
            query = sa.select(*columns).where(self._mine).order_by(slots.c.slot)
            return [SlotRow(*row) for row in connection.execute(query)]

    def _claim_open(self, connection: sa.Connection) -> Claim | None:
        lowest = sa.select(slots).where(self._mine, slots.c.state == "open")
        lowest = lowest.order_by(slots.c.slot).limit(1).with_for_update(skip_locked=True)
        row = connection.execute(lowest).first()
        return self._take(connection, row) if row else None

    def _adopt(self, connection: sa.Connection) -> Claim | None:
        seen, before = self._seen, self._monotonic()
        leased = sa.select(slots).where(self._mine, slots.c.state == "leased")
        rows = connection.execute(leased.order_by(slots.c.slot)).all()
        after = self._monotonic()
        for slot in seen.keys() - {row.slot for row in rows}:
            del seen[slot]
        for row in rows:
            counter, since = seen.get(row.slot, (None, after))
            if counter != row.counter:
                # Reading took time: count it against adoption at both ends.
                seen[row.slot], since = (row.counter, after), after
            if before - since >= self.lease_seconds or self._died_here(row):
                claim = self._take(connection, row)
                if claim:
                    return claim
        return None

    def _take(self, connection: sa.Connection, row: Any) -> Claim | None:
        """Become the owner, unless the row changed since it was read."""
        unchanged = (slots.c.state == row.state, slots.c.counter == row.counter)
        change = sa.update(slots).where(self._mine, slots.c.slot == row.slot, *unchanged)
        owned = asdict(self.identity) | {"state": "leased"}
        change = change.values(attempt=row.attempt + 1, counter=row.counter + 1, **owned)
        if connection.execute(change).rowcount != 1:
            return None
        return Claim(self.study_name, row.slot, row.attempt + 1, self.identity.owner)

    def _died_here(self, row: Any) -> bool:
        if (row.host, row.boot_id) != (self.identity.host, self.identity.boot_id):
            return False
        return process_start(row.pid) not in (row.process_started, _HIDDEN)

    def _write(self, claim: Claim, otherwise: Any = None, **values: Any) -> None:
        allowed = slots.c.state == "leased"
        if otherwise is not None:
            allowed = sa.or_(allowed, otherwise)
        change = sa.update(slots).where(
            self._mine,
            slots.c.slot == claim.slot,
            slots.c.owner == claim.owner,
            slots.c.attempt == claim.attempt,
            allowed,
        )
        with self.database.transaction() as connection:
            if connection.execute(change.values(**values)).rowcount != 1:
                raise LeaseLost(
                    f"slot {claim.slot} of study {claim.study_name!r}: attempt {claim.attempt} is"
                    " over, another worker continues it or has finished it; this one writes no more"
                )


def this_process() -> Identity:
    """A new worker in this process."""
    started = process_start(os.getpid())
    assert started is not None
    return Identity(socket.gethostname(), os.getpid(), started, _boot_id(), uuid.uuid4().hex)


def process_start(pid: int) -> str | None:
    """When this process started, for comparison only; None when no such process is at work."""
    try:
        if not psutil.LINUX:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        # Ticks since boot: psutil's start time moves when the wall clock is set.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return _HIDDEN
    except (FileNotFoundError, ProcessLookupError):
        return _HIDDEN if _answers(pid) else None


def _answers(pid: int) -> bool:
    """Whether the kernel knows the process; on shared hosts /proc may hide other users' ones."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


@cache
def _boot_id() -> str:
    """This boot of this kernel and, in containers, whose pids are meant."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return repr(psutil.boot_time())
