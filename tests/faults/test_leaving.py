"""Workers that are asked to leave: by a signal, by the word to stop, or by a full disk."""

import signal

import pytest

from igkd_search import searches
from tests.faults.crew import Crew, study_of

LEAVING = "leaving after this epoch: SIGTERM"


def test_asked_to_leave_a_worker_ends_its_epoch_and_nothing_is_repeated(crew: Crew) -> None:
    study = crew.begin(study_of(trials=2))
    member = crew.hire(study, plan={("train", 2): "wait"})
    assert member.at() == ("train", 2)
    member.send(signal.SIGTERM)
    crew.until(lambda: LEAVING in member.said(), "it has heard")
    member.go()
    assert "ended: SIGTERM: trial 0 stays at epoch 2" in member.ended(0)
    first, second = crew.table(study).rows()
    assert (first.state, first.owner, second.attempt) == ("open", None, 0)
    assert list(crew.trials(study)[0].intermediate_values) == [1, 2]
    assert "attempt 2 goes on from epoch-0002" in crew.hire(study).ended()
    crew.check_budget(study, 2)
    assert crew.repeated(study) == 0
    assert [attempt.end for attempt in crew.table(study).attempts()] == ["released", "done", "done"]


@pytest.mark.parametrize("second", [True, False], ids=["a second signal", "the grace time"])
def test_who_cannot_wait_for_the_epoch_loses_only_that(crew: Crew, second: bool) -> None:
    study = crew.begin(study_of())
    grace = 3600.0 if second else 0.01
    member = crew.hire(study, plan={("train", 2): "wait"}, grace=grace)
    assert member.at() == ("train", 2)
    member.send(signal.SIGTERM)
    if second:
        crew.until(lambda: LEAVING in member.said(), "it has heard")
        member.send(signal.SIGTERM)
        assert "KeyboardInterrupt" in member.ended(1)
    else:
        assert "ended: SIGTERM: the epoch did not end within 0.01 s" in member.ended(0)
    assert crew.table(study).rows()[0].state == "open", "given back all the same"
    assert "attempt 2 goes on from epoch-0001" in crew.hire(study).ended()
    crew.check_budget(study, 1)
    assert crew.repeated(study) == 1


def test_the_word_to_stop_reaches_all_hosts_and_nobody_who_comes_later(crew: Crew) -> None:
    study = crew.begin(study_of(trials=4))
    # a SQLite file serves the workers of one host
    hosts = [None] * 3 if crew.kind == "sqlite" else ["red", "green", "blue"]
    members = [crew.hire(study, plan={("train", 2): "wait"}, host=host, beat=0.0) for host in hosts]
    for member in members:
        assert member.at() == ("train", 2)
    searches.ask_to_stop(crew.base, study.name)
    for member in members:
        member.go()
    for member in members:
        assert "ended: igkd stop: trial" in member.ended(0)
    assert [row.state for row in crew.table(study).rows()] == ["open"] * 4
    assert "ended: budget" in crew.hire(study).ended()
    crew.check_budget(study, 4)
    assert crew.repeated(study) == 0


def test_a_full_disk_costs_no_trial(crew: Crew) -> None:
    study = crew.begin(study_of(trials=2))
    said = crew.hire(study, plan={("train", 2): "full"}).ended(1)
    assert "cannot be written (No space left on device); make room" in said
    first, second = crew.table(study).rows()
    assert (first.state, first.owner, second.attempt) == ("open", None, 0)
    assert crew.trials(study)[0].state.name == "RUNNING"
    assert "attempt 2 goes on from epoch-0001" in crew.hire(study).ended()
    crew.check_budget(study, 2)
    assert crew.repeated(study) == 1, "the epoch that could not be kept"
