"""Workers that stand still past their lease, then wake: what they still hold is void."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from igkd_search import spec, worker
from tests.databases import prepared_url
from tests.faults.crew import Crew, Member, study_of

SHORT, LONG = 0.5, 3600.0
"""Seconds of a lease: the adopters' must pass, the late workers never take a slot back."""
VOID = "another worker owns it now; this one stops"


def history(crew: Crew, study: spec.Study) -> tuple[Any, ...]:
    """All that the database holds of a study's trials; the adopter's signs of life aside."""
    rows = [
        (row.slot, row.state, row.attempt, row.owner, row.trial_number, row.outcome)
        for row in crew.table(study).rows()
    ]
    attempts = crew.table(study).attempts()
    return rows, attempts, crew.trials(study), crew.reader.file_digests(study.name)


def stopped(member: Member) -> bool:
    return VOID in member.said()


def freeze(crew: Crew, study: spec.Study, point: str, turn: int = 1) -> Member:
    return crew.hire(study, plan={(point, turn): "freeze"}, lease=LONG, poll=0.5)


def elsewhere(crew: Crew) -> str | None:
    """Another host, of whose processes nothing is known; SQLite serves one host only."""
    return "elsewhere" if crew.kind == "postgresql" else None


def test_a_worker_that_wakes_after_its_lease_writes_nothing(crew: Crew) -> None:
    """Frozen at each place between two writes; another continues its trial and is in the middle."""
    studies = {point: crew.begin(study_of(point, epochs=2)) for point in worker.POINTS[:-1]}
    late = {point: freeze(crew, study, point) for point, study in studies.items()}
    for member in late.values():
        crew.until(member.frozen, "it stands still")
    adopters = {
        point: crew.hire(study, plan={("asked", 1): "wait"}, lease=SHORT, host=elsewhere(crew))
        for point, study in studies.items()
    }
    told = ("told", "cleaned")
    for point, adopter in adopters.items():
        # who finds a trial that has been told has only to close its slot
        assert adopter.ended() if point in told else adopter.at() == ("asked", 1)
    before = {point: history(crew, study) for point, study in studies.items()}
    for point, member in late.items():
        member.send(signal.SIGCONT)
        crew.until(partial(stopped, member), f"it woke at {point!r}")
        assert history(crew, studies[point]) == before[point], point
    for point in studies.keys() - set(told):
        adopters[point].go()
    for point, study in studies.items():
        adopters[point].ended()
        assert "ended: budget" in late[point].ended()
        crew.check_budget(study, 1, deaths=1)
        attempts = crew.table(study).attempts()
        assert [attempt.end for attempt in attempts] == ["died", "done"]


def test_a_write_that_froze_before_its_proof_is_taken_back(
    crew_on: Callable[[str], Crew], tmp_path: Path
) -> None:
    """The narrowest gap there is: within the transaction of a report, before it is proved.

    On SQLite nobody can take the slot over there: the transaction holds the file's only lock.
    """
    crew = crew_on(prepared_url("postgresql", tmp_path))
    study = crew.begin(study_of(epochs=2))
    late = freeze(crew, study, "write after epoch")
    crew.until(late.frozen, "it stands still")
    adopter = crew.hire(study, plan={("asked", 1): "wait"}, lease=SHORT, host="elsewhere")
    assert adopter.at() == ("asked", 1)
    before = history(crew, study)
    assert before[2][0].intermediate_values == {}
    late.send(signal.SIGCONT)
    crew.until(partial(stopped, late), "it woke")
    assert history(crew, study) == before
    adopter.go()
    adopter.ended()
    late.ended()
    crew.check_budget(study, 1, deaths=1)


def test_who_freezes_while_holding_a_lock_does_not_hold_the_search_up(
    crew_on: Callable[[str], Crew], tmp_path: Path
) -> None:
    """Postgres ends a transaction that its owner sleeps through; the lock is that of the trial."""
    asleep = "options=-c%20idle_in_transaction_session_timeout%3D3s"
    crew = crew_on(f"{prepared_url('postgresql', tmp_path)}&{asleep}")
    study = crew.begin(study_of())
    late = freeze(crew, study, "write after attached")
    crew.until(late.frozen, "it stands still")
    crew.hire(study, lease=SHORT, host="elsewhere").ended()
    before = history(crew, study)
    late.send(signal.SIGCONT)
    said = late.ended()
    assert "due to idle-in-transaction timeout" in said and VOID in said
    assert history(crew, study) == before
    crew.check_budget(study, 1, deaths=1)
