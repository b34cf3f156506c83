import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search.database import Database, connect
from igkd_search.errors import LeaseLost, StorageError
from igkd_search.identities import Identity, this_process
from igkd_search.schema import attempts, metadata
from igkd_search.schema import slots as table
from igkd_search.slots import Claim, Counts, SlotRow, Slots
from tests.databases import KINDS, at_once, fresh_url, prepared_url


class Clock:
    """A monotonic clock that stands until the test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url(request.param, tmp_path))
    opened.write_study("s", {}, 1)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def one(database: Database) -> Slots:
    """A worker of this process, and a budget of one slot."""
    slots = Slots(database, "s")
    slots.set_budget(1)
    return slots


@pytest.fixture
def two(database: Database, clock: Clock) -> Slots:
    """Another worker of this process, with a lease of 60 s by the test's clock."""
    return Slots(database, "s", lease_seconds=60.0, monotonic=clock)


def claimed(slots: Slots) -> Claim:
    claim = slots.claim()
    assert claim is not None
    return claim


def row_of(slots: Slots, slot: int = 0) -> SlotRow:
    return slots.rows()[slot]


def on_another_host() -> Identity:
    return replace(this_process(), host="elsewhere", boot_id="another boot")


def work_off(url: str) -> list[int]:
    database = connect(url)
    database.write_study("s", {}, 40)
    slots = Slots(database, "s")
    slots.set_budget(40)

    def claim_all(_: int) -> list[int]:
        taken = []
        while claim := slots.claim():
            slots.finish(claim, "complete")
            taken.append(claim.slot)
        return taken

    with ThreadPoolExecutor(2) as threads:
        taken = [slot for slots_taken in threads.map(claim_all, range(2)) for slot in slots_taken]
    database.close()
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_no_slot_is_given_to_two_claimers(kind: str, tmp_path: Path) -> None:
    url = fresh_url("sqlite" if kind == "sqlite" else "postgresql", tmp_path)
    taken = at_once(4, work_off, url)
    assert sorted(slot for slots_taken in taken for slot in slots_taken) == list(range(40))
    database = connect(url)
    rows = Slots(database, "s").rows()
    database.close()
    assert {(row.state, row.attempt, row.outcome) for row in rows} == {("done", 1, "complete")}


def test_no_dead_owners_slot_is_given_to_two_claimers(database: Database) -> None:
    dead = Slots(database, "s", identity=replace(this_process(), process_started="1"))
    dead.set_budget(30)
    while claimed(dead).slot < 29:
        pass
    workers = [Slots(connect(database.url), "s") for _ in range(4)]

    def adopt_all(worker: Slots) -> list[Claim]:
        adopted = []
        while claim := worker.claim():
            adopted.append(claim)
        return adopted

    with ThreadPoolExecutor(4) as threads:
        claims = [claim for adopted in threads.map(adopt_all, workers) for claim in adopted]
    for worker in workers:
        worker.database.close()
    assert sorted(claim.slot for claim in claims) == list(range(30))
    assert {claim.attempt for claim in claims} == {2}


def test_a_claimer_passes_by_a_slot_that_another_is_taking(tmp_path: Path) -> None:
    url = prepared_url("postgresql", tmp_path)
    database, other = connect(f"{url}&options=-clock_timeout%3D2000"), connect(url)
    other.write_study("s", {}, 2)
    Slots(other, "s").set_budget(2)
    with other.transaction() as connection:
        connection.execute(sa.update(table).where(table.c.slot == 0).values(host="taking"))
        assert claimed(Slots(database, "s")).slot == 1
    database.close()
    other.close()


@pytest.mark.parametrize(
    ("budgets", "claims", "left"),
    [
        ([5], 0, [0, 1, 2, 3, 4]),
        ([3, 5], 2, [0, 1, 2, 3, 4]),
        ([5, 3], 0, [0, 1, 2]),
        ([5, 2], 4, [0, 1, 2, 3]),
        ([5, 0, 5], 0, [0, 1, 2, 3, 4]),
        ([4, 1, 6], 3, [0, 1, 2, 3, 4, 5]),
        ([4, 4], 4, [0, 1, 2, 3]),
    ],
)
def test_the_budget_is_exact_and_claimed_slots_stay(
    database: Database, budgets: list[int], claims: int, left: list[int]
) -> None:
    slots = Slots(database, "s")
    slots.set_budget(budgets[0])
    taken = [claimed(slots) for _ in range(claims)]
    for budget in budgets[1:]:
        slots.set_budget(budget)
    stored = database.read_study("s")
    assert stored is not None and stored.trials == budgets[-1]
    assert [row.slot for row in slots.rows()] == left
    assert [row.attempt for row in slots.rows()] == [int(slot < claims) for slot in left]
    for claim in taken:
        slots.finish(claim, "complete")
    done = len(taken)
    assert slots.counts() == Counts(len(left), len(left) - done, 0, done)


def test_a_released_slot_outlives_a_smaller_budget(database: Database) -> None:
    slots = Slots(database, "s")
    slots.set_budget(2)
    first, second = claimed(slots), claimed(slots)
    slots.release(second)
    slots.set_budget(1)
    slots.finish(first, "complete")
    assert claimed(slots) == replace(second, attempt=2)


def test_workers_that_set_the_budget_together_agree(database: Database) -> None:
    databases = [connect(database.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda other: Slots(other, "s").set_budget(20), databases))
    for other in databases:
        other.close()
    assert Slots(database, "s").counts() == Counts(20, 20, 0, 0)


def test_the_budget_of_an_unknown_study_is_refused(database: Database) -> None:
    with pytest.raises(StorageError, match="no study 'S'"):
        Slots(database, "S").set_budget(3)
    assert Slots(database, "S").rows() == []


def test_studies_do_not_mix(database: Database) -> None:
    database.write_study("S", {}, 1)
    lower, upper = Slots(database, "s"), Slots(database, "S")
    lower.set_budget(2)
    upper.set_budget(1)
    claim = claimed(upper)
    assert upper.claim() is None
    upper.finish(claim, "pruned")
    assert upper.counts() == Counts(1, 0, 0, 1)
    assert lower.counts() == Counts(2, 2, 0, 0)


def test_the_lowest_open_slot_comes_first(database: Database) -> None:
    slots = Slots(database, "s")
    slots.set_budget(3)
    claims = [claimed(slots) for _ in range(3)]
    assert [claim.slot for claim in claims] == [0, 1, 2]
    slots.release(claims[2])
    slots.release(claims[1])
    assert [claimed(slots).slot, claimed(slots).slot] == [1, 2]
    assert slots.claim() is None


def claim_and_die(url: str) -> tuple[Claim | None, int]:
    database = connect(url)
    claim = Slots(database, "s").claim()
    database.close()
    return claim, os.getpid()


def test_a_dead_owner_on_this_host_is_followed_at_once(one: Slots, two: Slots) -> None:
    [(lost, pid)] = at_once(1, claim_and_die, one.database.url)
    assert (lost.slot, lost.attempt) == (0, 1)
    assert row_of(one).pid == pid != os.getpid()
    adopted = claimed(two)
    assert (adopted.slot, adopted.attempt) == (0, 2)
    assert adopted.owner == two.identity.owner != lost.owner
    assert row_of(one).pid == os.getpid()
    with pytest.raises(LeaseLost, match="attempt 1 is over"):
        one.finish(lost, "complete")
    assert one.claim() is None


def test_an_open_slot_comes_before_a_dead_owners(one: Slots, two: Slots) -> None:
    at_once(1, claim_and_die, one.database.url)
    one.set_budget(2)
    assert [claimed(two).slot, claimed(two).slot] == [1, 0]


def test_a_reused_pid_is_not_the_owner(one: Slots, two: Slots) -> None:
    one.identity = replace(one.identity, process_started="1")
    claimed(one)
    assert claimed(two).attempt == 2


def test_a_dead_pid_elsewhere_proves_nothing(one: Slots, two: Slots, clock: Clock) -> None:
    one.identity = replace(on_another_host(), pid=2**22 + 1)
    claimed(one)
    assert two.claim() is None
    clock.now += 60
    assert claimed(two).attempt == 2


def test_a_live_owner_has_a_full_lease(one: Slots, two: Slots, clock: Clock) -> None:
    claimed(one)
    clock.now += 1000
    assert two.claim() is None, "a counter seen for the first time"
    clock.now += 59.9
    assert two.claim() is None
    clock.now += 0.1
    assert claimed(two).attempt == 2


def test_a_renewing_owner_is_never_adopted(one: Slots, two: Slots, clock: Clock) -> None:
    claim = claimed(one)
    for _ in range(5):
        assert two.claim() is None
        clock.now += 1000
        one.renew(claim)
    assert two.claim() is None
    assert row_of(one).attempt == 1
    assert row_of(one).counter == 6


def test_each_claimer_must_see_for_itself(one: Slots, two: Slots, clock: Clock) -> None:
    claimed(one)
    assert two.claim() is None
    clock.now += 60
    third = Slots(one.database, "s", monotonic=clock)
    assert third.claim() is None
    assert claimed(two).attempt == 2


def test_an_adopted_slot_has_a_new_lease(one: Slots, two: Slots, clock: Clock) -> None:
    third = Slots(one.database, "s", monotonic=clock)
    claimed(one)
    assert two.claim() is third.claim() is None
    clock.now += 60
    assert claimed(two).attempt == 2
    assert third.claim() is two.claim() is None
    clock.now += 59
    assert third.claim() is two.claim() is None


def test_the_time_of_reading_does_not_count(one: Slots, database: Database) -> None:
    looks = [(0.0, 50.0), (100.0, 109.0), (110.0, 111.0)]
    # each asks for the time before its transaction, in it, and on both sides of the reading
    times = iter([time for before, after in looks for time in (before, before, before, after)])
    slow = Slots(database, "s", lease_seconds=60.0, monotonic=lambda: next(times))
    claimed(one)
    assert slow.claim() is None  # read between 0 and 50
    assert slow.claim() is None  # between 100 and 109: perhaps only 50 s later
    assert claimed(slow).attempt == 2


def test_what_was_seen_before_an_outage_is_forgotten(one: Slots, two: Slots, clock: Clock) -> None:
    claimed(one)
    assert two.claim() is None
    clock.now += 60
    two.forget_observations()
    assert two.claim() is None
    clock.now += 60
    assert claimed(two).attempt == 2


def test_an_outage_that_the_pool_mends_is_noticed(tmp_path: Path, clock: Clock) -> None:
    url = prepared_url("postgresql", tmp_path)
    database, other = connect(url), connect(url)
    database.write_study("s", {}, 1)
    one, two = Slots(other, "s"), Slots(database, "s", monotonic=clock)
    one.set_budget(1)
    claimed(one)
    assert two.claim() is None
    with other.transaction() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    clock.now += 60
    assert two.claim() is None
    clock.now += 60
    assert claimed(two).attempt == 2
    database.close()
    other.close()


def test_a_failed_look_is_an_outage(
    one: Slots, two: Slots, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(one)
    assert two.claim() is None
    clock.now += 60
    with monkeypatch.context() as patched:
        patched.setattr(two, "_adopt", lambda connection: connection.execute(sa.text("SELECT no")))
        with pytest.raises(StorageError):
            two.claim()
    assert two.claim() is None


def test_the_late_owner_writes_nothing(one: Slots, two: Slots, clock: Clock) -> None:
    late = claimed(one)
    assert two.claim() is None
    clock.now += 60
    claimed(two)
    before = one.rows()
    with pytest.raises(LeaseLost):
        one.renew(late)
    with pytest.raises(LeaseLost):
        one.record_trial(late, 7)
    with pytest.raises(LeaseLost):
        one.finish(late, "complete")
    one.release(late)
    assert one.rows() == before


def test_an_earlier_attempt_of_the_same_worker_is_late_too(one: Slots) -> None:
    late = claimed(one)
    one.release(late)
    again = claimed(one)
    assert again == replace(late, attempt=2)
    with pytest.raises(LeaseLost):
        one.renew(late)
    one.renew(again)


def test_a_released_slot_is_free_for_anyone(one: Slots, two: Slots) -> None:
    claim = claimed(one)
    one.record_trial(claim, 4)
    one.release(claim)
    row = row_of(one)
    assert (row.state, row.attempt, row.owner, row.trial_number) == ("open", 1, None, 4)
    with pytest.raises(LeaseLost):
        one.finish(claim, "complete")
    assert claimed(two) == Claim("s", 0, 2, two.identity.owner)


def test_a_finished_slot_stays_finished(one: Slots, two: Slots, clock: Clock) -> None:
    claim = claimed(one)
    one.finish(claim, "failed:diverged")
    one.finish(claim, "failed:diverged")  # the first answer was lost with the connection
    with pytest.raises(LeaseLost):
        one.finish(claim, "complete")
    with pytest.raises(LeaseLost):
        one.renew(claim)
    one.release(claim)
    clock.now += 1000
    assert two.claim() is None
    assert row_of(one).outcome == "failed:diverged"
    assert one.counts() == Counts(1, 0, 0, 1)


def test_rows_tell_who_works_on_what(one: Slots) -> None:
    one.set_budget(2)
    claim = claimed(one)
    one.record_trial(claim, 3)
    me = one.identity
    assert one.rows() == [
        SlotRow(0, "leased", 1, me.owner, me.host, os.getpid(), 1, 3, None),
        SlotRow(1, "open", 0, None, None, None, 0, None, None),
    ]
    assert one.counts() == Counts(2, 1, 1, 0)


def test_a_process_that_only_the_kernel_shows_is_not_gone(
    one: Slots, two: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.identity = replace(one.identity, pid=2**22 + 1)
    claimed(one)

    def forbid(pid: int, signal: int) -> None:
        raise PermissionError(pid, signal)

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", forbid)
        assert two.claim() is None
    assert claimed(two).attempt == 2


def test_every_attempt_is_recorded_with_its_end(one: Slots, two: Slots) -> None:
    one.set_budget(2)
    first, second = claimed(one), claimed(one)
    one.release(first)
    again = claimed(two)
    two.finish(again, "complete")
    found = [(row.slot, row.attempt, row.worker, row.end) for row in one.attempts()]
    assert found == [
        (0, 1, one.identity.owner, "released"),
        (0, 2, two.identity.owner, "done"),
        (1, 1, one.identity.owner, None),
    ]
    released, done, lasting = one.attempts()
    assert released.ended is not None and released.started <= released.ended <= done.started
    assert (lasting.ended, lasting.host, lasting.pid) == (None, one.identity.host, os.getpid())
    assert second.deaths == again.deaths == 0, "to be released is not to die"


def test_deaths_are_counted_until_they_are_forgiven(one: Slots, two: Slots) -> None:
    for attempt in (1, 2, 3):
        one.identity = replace(this_process(), process_started="1")
        claim = claimed(one)
        assert (claim.attempt, claim.deaths) == (attempt, attempt - 1)
    last = claimed(two)
    assert (last.attempt, last.deaths) == (4, 3)
    assert not two.reopen(0), "it is not done"
    two.finish(last, "failed:lost")
    assert two.reopen(0)
    row = row_of(two)
    assert (row.state, row.outcome, row.trial_number, row.owner) == ("open", None, None, None)
    assert (claimed(two).deaths, row.attempt) == (0, 4)
    ends = ["forgiven", "forgiven", "forgiven", "done", None]
    assert [row.end for row in two.attempts()] == ends


def test_the_end_of_a_late_owner_changes_no_attempt(one: Slots, two: Slots, clock: Clock) -> None:
    one.identity = on_another_host()
    late = claimed(one)
    two.claim()
    clock.now += 60
    claimed(two)
    one.release(late)
    with pytest.raises(LeaseLost):
        one.finish(late, "complete")
    assert [row.end for row in one.attempts()] == ["died", None]


def test_a_claim_of_what_has_begun_passes_fresh_slots_by(one: Slots, two: Slots) -> None:
    one.set_budget(3)
    claimed(one)
    assert two.claim(fresh=False) is None
    released = claimed(one)
    one.release(released)
    again = two.claim(fresh=False)
    assert again is not None and (again.slot, again.attempt) == (released.slot, 2)
    two.identity = replace(this_process(), process_started="1")
    two.release(again)
    assert two.claim(fresh=False) is not None
    adopted = one.claim(fresh=False)
    assert adopted is not None and (adopted.slot, adopted.attempt) == (1, 4)
    assert one.counts().open == 1, "the fresh one is left"


def test_an_older_database_that_is_only_read_has_no_attempts(one: Slots) -> None:
    claimed(one)
    with one.database.transaction() as connection:
        metadata.drop_all(connection, [attempts])
    assert one.attempts() == []


def test_to_look_whether_a_slot_can_be_claimed_is_to_observe(
    one: Slots, two: Slots, clock: Clock
) -> None:
    assert one.claimable() and not one.claimable(fresh=False)
    claimed(one)
    before = one.rows()
    assert not two.claimable()
    clock.now += 60
    assert two.claimable(), "it was seen to stand still"
    assert one.rows() == before, "and nothing is taken"
    assert claimed(two).attempt == 2
    two.release(Claim("s", 0, 2, two.identity.owner))
    assert one.claimable(fresh=False)


def test_a_database_that_kept_a_claimer_waiting_proves_no_death(
    one: Slots, two: Slots, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.identity = on_another_host()
    claimed(one)
    assert two.claim() is None
    transaction = Database.transaction

    def slow(database: Database) -> object:
        clock.now += 61  # the pooler holds everybody, the owner's renewal too
        return transaction(database)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "transaction", slow)
        assert two.claim() is None
    assert two.claim() is None
    clock.now += 60
    assert claimed(two).attempt == 2
