import logging
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from igkd_search import documents, outcomes
from igkd_search.errors import TrialError
from tests.test_worker import record

DESCRIBED = {"architecture": "tiny"}


def failure(error: Exception) -> outcomes.End:
    try:
        raise error
    except Exception as raised:
        return outcomes.End.of_failure(raised, DESCRIBED)


def test_a_trial_that_fails_by_its_own_fault_says_which() -> None:
    end = failure(TrialError("diverged", "training loss nan"))
    assert (end.state, end.values, end.outcome) == (TrialState.FAIL, None, "failed:diverged")
    assert end.attributes == {
        "architecture": "tiny",
        "cause": "diverged",
        "reason": "diverged: training loss nan",
    }


def test_a_bug_keeps_its_traceback() -> None:
    end = failure(ZeroDivisionError("division by zero"))
    assert end.outcome == "failed:bug"
    assert end.attributes["reason"] == "ZeroDivisionError('division by zero')"
    assert "in failure" in str(end.attributes["traceback"])


@pytest.mark.parametrize(
    ("state", "attributes", "word"),
    [
        (TrialState.COMPLETE, {}, "complete"),
        (TrialState.PRUNED, {}, "pruned"),
        (TrialState.FAIL, {"cause": "bug"}, "failed:bug"),
        (TrialState.FAIL, {}, "failed:told from outside"),
        # an attempt before may have left a cause to a trial that completed
        (TrialState.COMPLETE, {"cause": "bug"}, "complete"),
    ],
)
def test_the_word_for_a_trial_that_has_finished(
    state: TrialState, attributes: dict[str, Any], word: str
) -> None:
    value = 0.5 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, user_attrs=attributes)
    assert outcomes.of_finished(trial) == word


def test_of_the_epochs_curves_and_the_last_matrix_are_kept() -> None:
    found = outcomes.kept([record(1, 0.5), record(2, 0.75)])
    curves = documents.load(found["learning_curves"])
    assert curves["epoch"] == [1, 2] and curves["accuracy"] == [0.5, 0.75]
    assert curves["loss"] == [1.0, 0.5] and curves["validation_loss"] == [0.5, 0.5]
    matrix = documents.load(found["confusion_matrix"])
    assert matrix["confusion"] == [[2, 0, 0], [1, 2, 1], [0, 0, 0]]
    assert matrix["class_accuracy"] == [1.0, 0.5, None]
    assert outcomes.kept([]) == {}


def test_the_log_says_in_a_line_how_a_trial_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "igkd_search.outcomes")
    trial = optuna.create_study().ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    figures = outcomes.figures(record(2, 0.75))
    outcomes.log_end(trial, outcomes.End(TrialState.COMPLETE, [0.75], figures))
    outcomes.log_end(trial, outcomes.End(TrialState.PRUNED, None, figures))
    outcomes.log_end(trial, failure(TrialError("bug", "no")))
    lines = [line for line in caplog.messages if line.startswith("trial 0")]
    assert lines[0].startswith("trial 0 complete: 75.0% [x=")
    assert lines[1].startswith("trial 0 pruned after epoch 2: 75.0% [x=")
    assert lines[2].startswith("trial 0 failed: bug: no [x=")
