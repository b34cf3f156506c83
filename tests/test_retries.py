"""`igkd retry`: the same configuration on the same slot, the budget exact, crashes healed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from igkd_search import database, progress, results, retries, slots
from igkd_search.errors import StorageError, StudyError, TrialError
from tests.databases import prepared_url
from tests.test_worker import FakeTraining, Search, study_of


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    """A search of four trials, of which 1 has diverged and 2 found no memory."""
    base = database.connect(prepared_url("sqlite", tmp_path))
    found = Search(base, tmp_path / "checkpoints", study_of()).begin(study_of())
    causes: dict[tuple[int, int], BaseException] = {
        (2, 1): TrialError("diverged", "loss nan"),
        (3, 1): TrialError("out_of_memory", "16 GiB asked"),
    }
    found.run(FakeTraining(causes))
    yield found
    base.close()


def states(search: Search) -> list[str]:
    return [row.state for row in results.rows(results.open_study(search.base, "s"))]


def test_a_failed_trial_is_tried_again_within_the_budget(search: Search) -> None:
    before = search.trials
    assert retries.retry(search.base, "s", 1) == retries.Retry(1, "diverged", 1, 4)
    assert search.table.counts() == slots.Counts(4, 1, 0, 3)
    training = FakeTraining()
    search.run(training)
    assert len(training.calls) == 1
    again = search.trials[4]
    assert again.state == TrialState.COMPLETE and again.params == before[1].params
    kept = {"slot": 1, "retry_of": 1, "proposed_by": before[1].user_attrs["proposed_by"]}
    assert again.user_attrs.items() >= kept.items()
    assert again.user_attrs["seed"] == before[1].user_attrs["seed"]
    assert search.trials[:4] == before, "what has happened stays"
    assert search.table.counts() == slots.Counts(4, 0, 0, 4)
    assert [row.trial_number for row in search.table.rows()] == [0, 4, 2, 3]


def test_a_trial_that_was_tried_again_counts_no_more(search: Search) -> None:
    assert states(search) == ["complete", "failed", "failed", "complete"]
    retries.retry(search.base, "s", 1)
    search.run(FakeTraining())
    assert states(search) == ["complete", "retried", "failed", "complete", "complete"]
    found = results.summary(search.base, "s")
    assert found["trials"] == {"budget": 4, "complete": 3, "pruned": 0, "failed": 1, "retried": 1}
    assert found["failures"] == {"out_of_memory": 1}
    assert sum(found["proposed_by"].values()) == 4
    assert sum(progress.status(search.base, "s")["proposed_by"].values()) == 4


def test_all_failed_trials_are_tried_again_or_those_of_a_cause(search: Search) -> None:
    with pytest.raises(StudyError, match=r"by 'bug'; causes: diverged \(1\), out_of_memory \(1\)"):
        retries.retry_failed(search.base, "s", "bug")
    found = retries.retry_failed(search.base, "s", "out_of_memory")
    assert found == [retries.Retry(2, "out_of_memory", 2, 4)]
    found += retries.retry_failed(search.base, "s")
    assert [each.trial for each in found] == [2, 1], "the first is on its way already"
    search.run(FakeTraining())
    assert retries.retry_failed(search.base, "s") == []
    assert states(search).count("complete") == 4


def test_a_retry_that_fails_is_tried_again_in_its_turn(search: Search) -> None:
    retries.retry(search.base, "s", 1)
    search.run(FakeTraining({(1, 1): TrialError("diverged", "again")}))
    with pytest.raises(StudyError, match="failed too; type igkd retry s --trial 4"):
        retries.retry(search.base, "s", 1)
    assert retries.retry(search.base, "s", 4).again == 5
    search.run(FakeTraining())
    assert states(search) == ["complete", "retried", "failed", "complete", "retried", "complete"]
    with pytest.raises(StudyError, match="trial 5 has its slot and is complete"):
        retries.retry(search.base, "s", 1)


def test_only_what_failed_is_tried_again_and_the_error_says_what_to_type(search: Search) -> None:
    with pytest.raises(StudyError, match=r"is complete.*igkd add s \S+=\S+ \S+=\S+$"):
        retries.retry(search.base, "s", 0)
    for number in (-1, 4):
        with pytest.raises(StudyError, match=f"has no trial {number}; igkd trials s lists them"):
            retries.retry(search.base, "s", number)
    foreign = optuna.load_study(study_name="s", storage=search.base.storage).ask()
    with pytest.raises(StudyError, match="trial 4 of study 's' is running"):
        retries.retry(search.base, "s", foreign.number)
    foreign.study.tell(foreign, state=TrialState.FAIL)
    with pytest.raises(StudyError, match="is none of its budget"):
        retries.retry(search.base, "s", foreign.number)
    with pytest.raises(StorageError, match="no study 't'"):
        retries.retry(search.base, "t", 0)
    assert search.table.counts() == slots.Counts(4, 0, 0, 4)


def test_what_is_on_its_way_already_is_not_doubled(search: Search) -> None:
    retries.retry(search.base, "s", 1)
    with pytest.raises(StudyError, match="is tried again already; see igkd status s"):
        retries.retry(search.base, "s", 1)
    assert len(search.trials) == 5


def test_a_trial_whose_slot_is_just_being_closed_must_wait(search: Search) -> None:
    search.table.reopen(1)  # as if its worker had told the trial, and not yet closed the slot
    with pytest.raises(StudyError, match="is being closed; see igkd status s, or igkd repair s"):
        retries.retry(search.base, "s", 1)
    assert len(search.trials) == 4


@pytest.mark.parametrize("everything", [False, True])
def test_a_kill_between_trial_and_slot_heals_when_typed_again(
    search: Search, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    def die(*_: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(slots.Slots, "reopen", die)
        with pytest.raises(KeyboardInterrupt):
            retries.retry(search.base, "s", 1)
    assert search.table.counts() == slots.Counts(4, 0, 0, 4)
    if everything:
        found = retries.retry_failed(search.base, "s", "diverged")
    else:
        found = [retries.retry(search.base, "s", 1)]
    assert found == [retries.Retry(1, "diverged", 1, 4)]
    assert len(search.trials) == 5
    search.run(FakeTraining())
    assert search.trials[4].state == TrialState.COMPLETE


def test_deaths_of_before_are_forgiven(search: Search) -> None:
    retries.retry(search.base, "s", 1)
    claim = search.table.claim(fresh=False)
    assert claim is not None and (claim.slot, claim.attempt, claim.deaths) == (1, 2, 0)
