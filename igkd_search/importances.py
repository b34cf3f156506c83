"""How much each searched parameter matters for the accuracy: PED-ANOVA and fANOVA, by Optuna.

They ask different questions. fANOVA fits a forest to all complete trials and says which parameter
moves accuracy most over the whole space; PED-ANOVA says by which the best tenth differs from the
rest. Where both name the same one, it is worth a finer search.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna.importance import BaseImportanceEvaluator

METHODS = {"ped_anova": "PED-ANOVA", "fanova": "fANOVA"}
"""What people call them."""
LEAST = 4
"""Complete trials from which on something is said."""
FEW = 20
"""Complete trials below which what is said is hardly more than noise."""
MOST_FOR_FANOVA = 150
TREES = 16
"""fANOVA of 400 trials and Optuna's 64 trees takes longer than all the rest of a report."""
SEED = 0


def of_study(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """By method: `values` (parameter -> share, the largest first) and from how many `trials`.

    `values` is None where there is a `reason` for it. Accuracy is what is explained, of a Pareto
    study too.
    """
    complete = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE and trial.params and math.isfinite(trial.values[0])
    ]
    return {
        "ped_anova": _explained(complete, _ped_anova),
        "fanova": _explained(complete, _fanova, MOST_FOR_FANOVA) | {"trees": TREES},
    }


def _ped_anova() -> BaseImportanceEvaluator:
    # imported only where it is used: scipy and scikit-learn come with it, and take seconds
    from optuna.importance import PedAnovaImportanceEvaluator

    return PedAnovaImportanceEvaluator()


def _fanova() -> BaseImportanceEvaluator:
    from optuna.importance import FanovaImportanceEvaluator

    return FanovaImportanceEvaluator(n_trees=TREES, seed=SEED)


def _explained(
    complete: Sequence[FrozenTrial],
    evaluator: Callable[[], BaseImportanceEvaluator],
    most: int | None = None,
) -> dict[str, Any]:
    trials = list(complete)
    if most is not None and len(trials) > most:
        trials = random.Random(SEED).sample(trials, most)
    answer: dict[str, Any] = {"values": None, "trials": len(trials), "complete": len(complete)}
    if len(trials) < LEAST:
        return answer | {"reason": f"{len(trials)} complete trials are too few, {LEAST} the least"}
    if len({trial.values[0] for trial in trials}) == 1:
        return answer | {"reason": "all complete trials have the same accuracy"}
    try:
        with warnings.catch_warnings():
            # that the best are all there are, say: then the shares mean nothing
            warnings.simplefilter("error", UserWarning)
            return answer | {"values": _shares(trials, evaluator()), "reason": None}
    except (UserWarning, ValueError, RuntimeError, ZeroDivisionError) as error:
        return answer | {"reason": f"Optuna cannot tell: {error}"}


def _shares(trials: Sequence[FrozenTrial], evaluator: BaseImportanceEvaluator) -> dict[str, float]:
    """Importances that add up to 1, of a study in memory with accuracy as its one objective."""
    alone = optuna.create_study(direction="maximize")
    alone.add_trials(
        [
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.values[0]
            )
            for trial in trials
        ]
    )
    found = optuna.importance.get_param_importances(alone, evaluator=evaluator)
    shares = {name: float(share) for name, share in found.items()}
    return dict(sorted(shares.items(), key=lambda each: -each[1]))
