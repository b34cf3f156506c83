from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from igkd_search import births, queued, registry, slots, spec
from igkd_search.database import Database, connect
from igkd_search.errors import StorageLost
from igkd_search.patience import Patience
from tests.databases import prepared_url
from tests.test_worker import START, study_of


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Database]:
    patience = Patience(60.0, sleep=lambda _: None)
    opened = connect(prepared_url("sqlite", tmp_path), patience=patience)
    registry.register(opened, study_of())
    yield opened
    opened.close()


@pytest.fixture
def study(base: Database) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=base.storage)


def retried(study: optuna.Study, number: int) -> int:
    """Make a retry of a trial, as `igkd retry` does; its number."""
    slot = study.trials[number].user_attrs["slot"]
    study.enqueue_trial({}, user_attrs={"slot": slot, "retry_of": number})
    return len(study.trials) - 1


def number_of(study: optuna.Study, slot: int) -> int | None:
    found = births.find(study, slot)
    return None if found is None else found.number


def test_a_trial_carries_its_slot_from_birth(base: Database, study: optuna.Study) -> None:
    assert births.find(study, 1) is None
    made = births.make(study, study_of(), base, 1)
    assert made.user_attrs["slot"] == 1 and made.state == optuna.trial.TrialState.WAITING
    assert number_of(study, 1) == made.number
    assert births.find(study, 0) is None


def test_of_two_trials_of_a_slot_the_first_counts(base: Database, study: optuna.Study) -> None:
    first = births.make(study, study_of(), base, 1)
    study.enqueue_trial({}, user_attrs={"slot": 1})
    assert number_of(study, 1) == first.number


def test_a_trial_whose_making_was_not_confirmed_is_made_once(
    base: Database, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, calls = optuna.Study.enqueue_trial, list[int]()

    def unconfirmed(*arguments: Any, **options: Any) -> None:
        enqueue(*arguments, **options)
        calls.append(1)
        raise StorageLost("the connection dropped")

    monkeypatch.setattr(optuna.Study, "enqueue_trial", unconfirmed)
    made = births.make(study, study_of(), base, 1)
    assert [trial.number for trial in study.trials] == [made.number]
    assert len(calls) == 1


def test_a_retry_takes_the_place_of_its_trial(base: Database, study: optuna.Study) -> None:
    births.make(study, study_of(), base, 1)
    again = retried(study, 0)
    assert number_of(study, 1) == again
    third = retried(study, again)
    retried(study, 0)  # typed twice at once: the first one counts
    assert number_of(study, 1) == third


def test_a_stray_trial_with_a_word_of_retrying_is_not_followed(
    base: Database, study: optuna.Study
) -> None:
    births.make(study, study_of(), base, 1)
    study.enqueue_trial({}, user_attrs={"slot": 1, "retry_of": 99})
    assert number_of(study, 1) == 0


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_who_proposed_it_is_told_at_birth(base: Database, study: optuna.Study, slot: int) -> None:
    queued.add(base, "s", [{"kd_weight": 0.5}])
    if slot == 2:
        queued.take(base, "s", 1)
    made = births.make(study, study_of(), base, slot)
    fixed = made.system_attrs["fixed_params"]
    expected = [(START, "start"), ({"kd_weight": 0.5}, "queue"), ({}, None)][slot]
    assert (fixed, made.user_attrs.get("proposed_by")) == expected


def test_seed_and_attempts_are_noted(base: Database, study: optuna.Study) -> None:
    made = births.make(study, study_of(), base, 2)
    trial = optuna.Trial(study, made._trial_id)
    config = births.configure(trial, study_of(), slots.Claim("s", 2, 1, "me"))
    noted = trial.user_attrs
    assert noted["seed"] == spec.trial_seed(7, 2)
    assert (noted["attempts"], noted["proposed_by"]) == (1, "chance")
    again = optuna.Trial(study, made._trial_id)
    assert births.configure(again, study_of(), slots.Claim("s", 2, 3, "you")) == config
    assert again.user_attrs["attempts"] == 3
