"""`search.from`: the best of another study, as far as it lies in the space, queued once."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from igkd_search import queued, registry, slots, spec, study_file, warm_start
from igkd_search.database import Database, connect
from igkd_search.errors import StudyError
from tests.databases import prepared_url

SPACE = {"temperature": {"low": 1.0, "high": 10.0}, "kd_weight": {"low": 0.0, "high": 1.0}}


def study_of(
    name: str, space: dict[str, Any] | None = None, begin: str | None = None, from_trials: int = 3
) -> spec.Study:
    asked = {"trials": 6, "space": space or SPACE, "from": begin, "from_trials": from_trials}
    plain = {"name": name, "search": asked}
    return study_file.check(spec.Study, plain, "test")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Database]:
    """A database with a study `old`, the third of whose trials was the best."""
    opened = connect(prepared_url("sqlite", tmp_path))
    registry.register(opened, study_of("old"))
    study = optuna.load_study(study_name="old", storage=opened.storage)
    for temperature, accuracy in ((2.0, 0.5), (3.0, 0.7), (9.0, 0.9), (4.0, 0.8)):
        study.enqueue_trial({"temperature": temperature, "kd_weight": 0.5})
        trial = study.ask()
        trial.suggest_float("temperature", 1.0, 10.0)
        trial.suggest_float("kd_weight", 0.0, 1.0)
        study.tell(trial, accuracy)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    yield opened
    opened.close()


def test_the_best_configurations_wait_after_those_of_start(base: Database) -> None:
    new = study_of("new", begin="old", from_trials=2)
    registry.register(base, new)
    assert queued.waiting(base, "new") == [
        {"temperature": 9.0, "kd_weight": 0.5},
        {"temperature": 4.0, "kd_weight": 0.5},
    ]
    record = base.read_study("new")
    assert record is not None
    assert record.facts[warm_start.FACT] == {"study": "old", "points": 2}


def test_a_repeated_registration_queues_nothing_more(base: Database) -> None:
    new = study_of("new", begin="old")
    registry.register(base, new)
    table = slots.Slots(base, "new")
    claim = table.claim()
    assert claim is not None
    queued.take(base, "new", claim.slot)
    registry.register(base, new, trials=8)
    assert len(queued.waiting(base, "new")) == 2


def test_a_registration_killed_at_any_write_queues_once(
    base: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = study_of("new", begin="old")

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    places = ((optuna, "create_study"), (Database, "write_study"), (queued, "append_in"))
    for owner, name in (*places, (slots.Slots, "set_budget")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, die)
            with pytest.raises(KeyboardInterrupt):
                registry.register(base, new)
    registry.register(base, new)
    assert len(queued.waiting(base, "new")) == 3


def test_a_study_that_has_begun_takes_nothing_over(base: Database) -> None:
    registry.register(base, study_of("new"))
    later = study_of("new", begin="old")
    registry.register(base, later)  # no part of the question
    assert queued.waiting(base, "new") == []
    registry.register(base, study_of("new", begin="gone"))


def test_what_lies_outside_is_left_to_the_sampler_and_said(
    base: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    space = {"temperature": {"low": 1.0, "high": 5.0}, "label_smoothing": {"low": 0.0, "high": 0.2}}
    new = study_of("new", space, begin="old")
    # the source held label_smoothing at its default
    assert warm_start.points(base, new) == [
        {"label_smoothing": 0.0},
        {"temperature": 4.0, "label_smoothing": 0.0},
        {"temperature": 3.0, "label_smoothing": 0.0},
    ]
    assert "new begins with 3 configurations of old (not searched here: kd_weight; " in caplog.text
    assert "outside of the ranges here: temperature)" in caplog.text


def test_the_same_configuration_is_taken_once(base: Database) -> None:
    space = {"kd_weight": {"low": 0.0, "high": 1.0}}
    assert warm_start.points(base, study_of("new", space, begin="old")) == [{"kd_weight": 0.5}]


def test_a_source_that_is_not_there_or_has_found_nothing_is_refused(base: Database) -> None:
    registry.register(base, study_of("fresh"))
    with pytest.raises(StudyError, match=r"search.from = 'fresh': none of its trials.*igkd run"):
        warm_start.check(base, study_of("new", begin="fresh"))
    with pytest.raises(StudyError, match=r"no such study; did you mean 'old'\?"):
        registry.register(base, study_of("new", begin="olt"))
    with pytest.raises(StudyError, match="none yet"):
        warm_start.check(None, study_of("new", begin="old"))
    assert base.study_names() == ["fresh", "old"], "nothing has begun"
    warm_start.check(None, study_of("new"))
    assert warm_start.points(base, study_of("new")) == []
