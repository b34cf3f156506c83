"""The budget as a table, one row a trial: claimed by one worker at a time, adopted when it dies.

A lease is a counter that its owner increments. A claimer takes a slot over when it has itself seen
the counter stand still for a full lease, or at once when the owner's process on this host is gone.
Wall clocks are never compared. Every write of an owner names its attempt, so a late one changes
nothing (fencing).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from igkd_search.database import Database, has, unknown_study
from igkd_search.errors import LeaseLost, StorageError
from igkd_search.identities import Identity, this_process
from igkd_search.patience import Patience, patient
from igkd_search.schema import attempts, slots, studies

_NOBODY = dict.fromkeys(("owner", "host", "pid", "process_started", "boot_id"))


@dataclass(frozen=True)
class Claim:
    """The right to work on one slot, until another worker's attempt replaces it."""

    study_name: str
    slot: int
    attempt: int
    owner: str
    deaths: int = 0
    """How many attempts before ended with their worker's death; releases do not count."""


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


@dataclass(frozen=True)
class AttemptRow:
    """One attempt as stored; times are seconds since 1970 by the database's clock.

    end is None while it lasts, then done, released, died, or forgiven: a death before a retry.
    """

    slot: int
    attempt: int
    worker: str
    host: str
    pid: int
    started: float
    ended: float | None
    end: str | None


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
        self._watching = False

    @property
    def patience(self) -> Patience:
        """How long all of this waits while the database is away."""
        return self.database.patience

    @patient
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

    @patient
    def claim(self, fresh: bool = True) -> Claim | None:
        """The lowest open slot, else one whose owner is dead, else None (all done or all alive).

        Without `fresh` only what has begun already is claimed.
        """
        with self._looking() as connection:
            return self._claim_open(connection, fresh) or self._adopt(connection)

    @patient
    def claimable(self, fresh: bool = True) -> bool:
        """Whether `claim` would give a slot just now; to look is to observe, as in claiming."""
        with self._looking() as connection:
            lowest = connection.execute(self._lowest_open(fresh)).first()
            return lowest is not None or any(True for _ in self._orphans(connection))

    def forget_observations(self) -> None:
        """Start all observing anew: an outage stopped the counters of healthy owners too."""
        self._seen = {}

    def proof(self, claim: Claim) -> Callable[[sa.Connection], None]:
        """What proves and renews a claim within another transaction, or raises LeaseLost there."""

        def prove(connection: sa.Connection) -> None:
            change = self._change(claim).values(counter=slots.c.counter + 1)
            if connection.execute(change).rowcount != 1:
                raise _lost(claim)

        return prove

    @contextmanager
    def fenced(self, claim: Claim) -> Iterator[None]:
        """Within, Optuna's writes of this thread are committed only while the lease holds.

        Each proves and renews it in its own transaction; LeaseLost comes out of the one that fails.
        """
        prove = self.proof(claim)
        with self.database.storage.guarded(lambda session: prove(session.connection())):
            yield

    @patient
    def renew(self, claim: Claim) -> None:
        """Show that the owner lives; raises LeaseLost when another worker has the slot."""
        self._write(claim, counter=slots.c.counter + 1)

    @patient
    def record_trial(self, claim: Claim, trial_number: int) -> None:
        """Note which Optuna trial works this slot off; raises LeaseLost."""
        self._write(claim, trial_number=trial_number)

    @patient
    def finish(self, claim: Claim, outcome: str) -> None:
        """Close the slot: 'complete', 'pruned' or 'failed:<cause>'; raises LeaseLost.

        Saying the same twice is fine: the first answer may have been lost with the connection.
        """
        assert outcome in ("complete", "pruned") or outcome.startswith("failed:"), outcome
        said = sa.and_(slots.c.state == "done", slots.c.outcome == outcome)
        self._write(claim, said, "done", state="done", outcome=outcome)

    @patient
    def release(self, claim: Claim) -> None:
        """Give the slot back for anyone to continue; silent when it is another's already."""
        with suppress(LeaseLost):
            self._write(claim, None, "released", state="open", **_NOBODY)

    @patient
    def reopen(self, slot: int) -> bool:
        """Have a finished slot worked off again, its deaths forgiven; False when it is not done."""
        mine = (self._mine, slots.c.slot == slot)
        reopened = {"state": "open", "outcome": None, "trial_number": None, **_NOBODY}
        deaths = sa.update(attempts).where(*self._attempts_of(slot), attempts.c.end == "died")
        with self.database.transaction() as connection:
            change = sa.update(slots).where(*mine, slots.c.state == "done").values(**reopened)
            if connection.execute(change).rowcount != 1:
                return False
            connection.execute(deaths.values(end="forgiven"))
            return True

    @patient
    def counts(self) -> Counts:
        """The size of the budget and its progress."""
        query = sa.select(slots.c.state, sa.func.count()).where(self._mine)
        with self.database.transaction() as connection:
            rows = connection.execute(query.group_by(slots.c.state)).all()
        found: dict[str, int] = {row[0]: row[1] for row in rows}
        open_, leased, done = (found.get(state, 0) for state in ("open", "leased", "done"))
        return Counts(open_ + leased + done, open_, leased, done)

    @patient
    def rows(self) -> list[SlotRow]:
        """All slots of the study in order."""
        columns = [slots.c[name] for name in SlotRow.__dataclass_fields__]
        with self.database.transaction() as connection:
            query = sa.select(*columns).where(self._mine).order_by(slots.c.slot)
            return [SlotRow(*row) for row in connection.execute(query)]

    @patient
    def attempts(self) -> list[AttemptRow]:
        """Every attempt at every slot, in order; none of a study that an older igkd-search ran."""
        columns = [attempts.c[name] for name in AttemptRow.__dataclass_fields__]
        query = sa.select(*columns).where(attempts.c.study_name == self.study_name)
        query = query.order_by(attempts.c.slot, attempts.c.attempt)
        with self.database.transaction() as connection:
            if not has(connection, attempts):
                return []
            return [AttemptRow(*row) for row in connection.execute(query)]

    def _claim_open(self, connection: sa.Connection, fresh: bool) -> Claim | None:
        lowest = self._lowest_open(fresh).with_for_update(skip_locked=True)
        row = connection.execute(lowest).first()
        return self._take(connection, row) if row else None

    def _lowest_open(self, fresh: bool) -> Any:
        lowest = sa.select(slots).where(self._mine, slots.c.state == "open")
        if not fresh:
            lowest = lowest.where(slots.c.attempt > 0)
        return lowest.order_by(slots.c.slot).limit(1)

    def _adopt(self, connection: sa.Connection) -> Claim | None:
        claims = (self._take(connection, row) for row in self._orphans(connection))
        return next((claim for claim in claims if claim), None)

    def _orphans(self, connection: sa.Connection) -> Iterator[Any]:
        """The leased slots whose owners are dead, by all that has been observed until now."""
        if not self._watching:
            # The pool mends a broken connection silently; what was seen before it proves nothing.
            event.listen(self.database.engine, "invalidate", lambda *_: self.forget_observations())
            self._watching = True
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
                yield row

    def _take(self, connection: sa.Connection, row: Any) -> Claim | None:
        """Become the owner, unless the row changed since it was read."""
        unchanged = (slots.c.state == row.state, slots.c.counter == row.counter)
        change = sa.update(slots).where(self._mine, slots.c.slot == row.slot, *unchanged)
        owned = asdict(self.identity) | {"state": "leased"}
        change = change.values(attempt=row.attempt + 1, counter=row.counter + 1, **owned)
        if connection.execute(change).rowcount != 1:
            return None
        of_slot, now = self._attempts_of(row.slot), self.database.now
        last = sa.update(attempts).where(*of_slot, attempts.c.end.is_(None))
        connection.execute(last.values(ended=now, end="died"))
        begun = sa.insert(attempts).values(
            study_name=self.study_name,
            slot=row.slot,
            attempt=row.attempt + 1,
            worker=self.identity.owner,
            host=self.identity.host,
            pid=self.identity.pid,
            started=now,
        )
        connection.execute(begun)
        died = sa.select(sa.func.count()).where(*of_slot, attempts.c.end == "died")
        deaths = connection.scalar(died)
        return Claim(self.study_name, row.slot, row.attempt + 1, self.identity.owner, deaths or 0)

    def _attempts_of(self, slot: int) -> tuple[Any, Any]:
        return attempts.c.study_name == self.study_name, attempts.c.slot == slot

    def _died_here(self, row: Any) -> bool:
        return self.identity.died_here(row.host, row.boot_id, row.pid, row.process_started)

    def _change(self, claim: Claim, otherwise: Any = None) -> sa.Update:
        """An update of the slot for as long as the claim is good, or `otherwise` holds."""
        allowed = slots.c.state == "leased"
        if otherwise is not None:
            allowed = sa.or_(allowed, otherwise)
        return sa.update(slots).where(
            self._mine,
            slots.c.slot == claim.slot,
            slots.c.owner == claim.owner,
            slots.c.attempt == claim.attempt,
            allowed,
        )

    @contextmanager
    def _observed(self) -> Iterator[sa.Connection]:
        """A transaction; where it fails, owners could not renew their leases either."""
        try:
            with self.database.transaction() as connection:
                yield connection
        except LeaseLost:
            raise
        except StorageError:
            self.forget_observations()
            raise

    @contextmanager
    def _looking(self) -> Iterator[sa.Connection]:
        """A transaction that observes leases; one that had to wait kept owners waiting, too."""
        asked = self._monotonic()
        with self._observed() as connection:
            if self._monotonic() - asked > self.lease_seconds / 4:
                self.forget_observations()
            yield connection

    def _write(
        self, claim: Claim, otherwise: Any = None, end: str | None = None, **values: Any
    ) -> None:
        with self._observed() as connection:
            if connection.execute(self._change(claim, otherwise).values(**values)).rowcount != 1:
                raise _lost(claim)
            if end is not None:
                mine = (*self._attempts_of(claim.slot), attempts.c.attempt == claim.attempt)
                ended = sa.update(attempts).where(*mine, attempts.c.end.is_(None))
                connection.execute(ended.values(ended=self.database.now, end=end))


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(
        f"slot {claim.slot} of study {claim.study_name!r}: attempt {claim.attempt} is over, another"
        " worker continues it or has finished it; this one writes no more"
    )
