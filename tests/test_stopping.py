from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from igkd_search import searches, slots, spec, stopping, study_file
from igkd_search.database import Database, connect
from igkd_search.schema import searches as table
from tests.databases import prepared_url

MAXIMIZE = ["maximize"]
SPACE = {"kd_weight": {"low": 0.0, "high": 1.0}}


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url("sqlite", tmp_path))
    yield opened
    opened.close()


def study_of(**search: Any) -> spec.Study:
    plain = {"name": "s", "search": {"space": SPACE, **search}}
    return study_file.check(spec.Study, plain, "test")


def trials_of(base: Database, values: list[Any], directions: Sequence[Any] = MAXIMIZE) -> Any:
    """Trials that finished in this order; None was pruned, "x" failed, "run" runs."""
    study = optuna.create_study(study_name="s", storage=base.storage, directions=directions)
    state = {None: TrialState.PRUNED, "x": TrialState.FAIL, "run": TrialState.RUNNING}
    noon = datetime(2025, 1, 1, 12)
    for place, value in enumerate(values):
        found = state.get(value, TrialState.COMPLETE) if not isinstance(value, list) else None
        complete = found is None or found == TrialState.COMPLETE
        trial = optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete or found is None else found,
            values=(value if isinstance(value, list) else [value]) if complete else None,
        )
        trial.datetime_start = noon
        running = value == "run"
        trial.datetime_complete = None if running else noon + timedelta(minutes=place)
        study.add_trial(trial)
    return study


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ([], 0),
        ([None, "x"], 0),
        ([0.5], 0),
        ([0.5, 0.4, 0.3], 2),
        ([0.5, 0.4, 0.6], 0),
        ([0.5, None, "x", 0.5], 3),
        ([0.5, 0.4, "run"], 1),
    ],
)
def test_trials_since_the_last_gain(base: Database, values: list[Any], idle: int) -> None:
    assert stopping.trials_without_gain(trials_of(base, values)) == idle


def test_with_two_objectives_a_gain_is_a_trial_that_no_other_beats(base: Database) -> None:
    values = [[0.9, 3.0], [0.8, 2.0], [0.7, 2.5], [0.9, 3.5]]
    study = trials_of(base, values, ["maximize", "minimize"])
    assert stopping.trials_without_gain(study) == 2


def test_patience_ends_when_it_is_spent_and_says_what_to_type(base: Database) -> None:
    trials = trials_of(base, [0.5, 0.4, 0.3])
    assert stopping.reason(base, study_of(), trials) is None
    assert stopping.reason(base, study_of(patience=3), trials) is None
    reason = stopping.reason(base, study_of(patience=2), trials)
    assert reason is not None
    assert "the last 2 trials brought none that is better; raise it in the study file" in reason


def test_hours_are_those_of_searching(base: Database) -> None:
    trials = trials_of(base, [])
    with base.transaction() as connection:
        searches.tick(connection, base, "s")
        connection.execute(sa.update(table).values(seconds=1800.0))
    assert stopping.reason(base, study_of(hours=0.6), trials) is None
    reason = stopping.reason(base, study_of(hours=0.5), trials)
    assert reason == "search.hours = 0.5 are spent; raise them in the study file to go on"


def test_a_search_has_ended_once_nothing_that_has_begun_is_left(base: Database) -> None:
    study = study_of(patience=2, trials=9)
    assert stopping.ended(base, study) is None, "it has not even begun"
    trials_of(base, [0.5, 0.4, 0.3])
    base.write_study("s", {}, 9)
    table = slots.Slots(base, "s")
    table.set_budget(9)
    reason = stopping.ended(base, study)
    assert reason is not None and reason.startswith("search.patience = 2")
    claim = table.claim()
    assert claim is not None and stopping.ended(base, study) is None
    table.release(claim)
    assert stopping.ended(base, study) is None, "somebody still has to finish it"
    again = table.claim()
    assert again is not None
    table.finish(again, "complete")
    assert stopping.ended(base, study) == reason
    assert stopping.ended(base, study_of(patience=3, trials=9)) is None
