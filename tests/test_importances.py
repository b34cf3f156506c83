"""Importances find the parameter that matters, the same each time, or say why they say nothing."""

import random
from typing import Any

import optuna
import pytest

from igkd_search import importances

FLOAT = optuna.distributions.FloatDistribution(0.0, 1.0)
CHOICE = optuna.distributions.CategoricalDistribution(["none", "dim"])


def study(count: int, flat: bool = False, pareto: bool = False) -> optuna.Study:
    """Complete trials whose accuracy follows one of two parameters, and a failed one."""
    chance = random.Random(3)
    made = optuna.create_study(directions=["maximize", "minimize"] if pareto else ["maximize"])
    for _ in range(count):
        weight = chance.random()
        values = [0.5 if flat else 0.9 - (weight - 0.4) ** 2, chance.random()]
        made.add_trial(
            optuna.trial.create_trial(
                params={"weight": weight, "control": chance.choice(["none", "dim"])},
                distributions={"weight": FLOAT, "control": CHOICE},
                values=values if pareto else values[:1],
            )
        )
    made.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    return made


@pytest.mark.parametrize("pareto", [False, True])
def test_both_name_the_parameter_that_accuracy_follows(pareto: bool) -> None:
    found = importances.of_study(study(40, pareto=pareto))
    for method in ("ped_anova", "fanova"):
        values = found[method]["values"]
        assert next(iter(values)) == "weight"
        assert sum(values.values()) == pytest.approx(1)
        assert (found[method]["reason"], found[method]["trials"]) == (None, 40)


def test_they_are_the_same_each_time_and_of_few_of_many_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importances, "MOST_FOR_FANOVA", 15)
    found = importances.of_study(study(30))
    assert found == importances.of_study(study(30))
    assert (found["fanova"]["trials"], found["fanova"]["complete"]) == (15, 30)
    assert found["ped_anova"]["trials"] == 30


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"count": 0}, "0 complete trials are too few"),
        ({"count": importances.LEAST - 1}, "too few"),
        ({"count": 12, "flat": True}, "same accuracy"),
    ],
)
def test_where_nothing_can_be_said_the_reason_is(made: dict[str, Any], reason: str) -> None:
    for found in importances.of_study(study(**made)).values():
        assert found["values"] is None
        assert reason in found["reason"]


def test_of_few_trials_something_is_said_or_the_reason_why_not() -> None:
    found = importances.of_study(study(importances.LEAST))
    for method in ("ped_anova", "fanova"):
        values, reason = found[method]["values"], found[method]["reason"]
        assert (values is None) == (reason is not None)
    assert found["fanova"]["values"] is not None
