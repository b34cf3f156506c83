"""A model learns from trials without a result, and leaves where nothing completes."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from igkd_search import imputation

UNIT = FloatDistribution(0.0, 1.0)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.logging.get_logger("optuna"), "level", optuna.logging.ERROR)


def trial_of(state: TrialState, x: float = 0.5, **fields: Any) -> FrozenTrial:
    return create_trial(state=state, params={"x": x}, distributions={"x": UNIT}, **fields)


def complete(*values: float, **fields: Any) -> FrozenTrial:
    return trial_of(TrialState.COMPLETE, values=values, **fields)


def pruned(*reports: float) -> FrozenTrial:
    return trial_of(TrialState.PRUNED, intermediate_values=dict(enumerate(reports, 1)))


def failed(cause: str | None, x: float = 0.5, **fields: Any) -> FrozenTrial:
    attributes = {} if cause is None else {"cause": cause}
    return trial_of(TrialState.FAIL, x, user_attrs=attributes, **fields)


def study_of(
    *trials: FrozenTrial, directions: Sequence[Literal["maximize", "minimize"]] = ("maximize",)
) -> optuna.Study:
    study = optuna.create_study(directions=directions)
    study.add_trials(trials)
    return study


def completed(study: optuna.Study) -> list[list[float] | None]:
    """The values of what is seen as complete; None for all else."""
    seen = imputation.as_complete(study.trials, study.directions)
    return [trial.values if trial.state == TrialState.COMPLETE else None for trial in seen]


def test_a_pruned_trial_has_its_last_report_or_the_worst_result_where_that_is_better() -> None:
    study = study_of(complete(0.9), complete(0.6), pruned(0.95, 0.7), pruned(0.2), pruned())
    assert completed(study) == [[0.9], [0.6], [0.7], [0.6], [0.6]]


@pytest.mark.parametrize(
    ("cause", "seen"),
    [("diverged", [0.6]), ("out_of_memory", [0.6]), ("bug", None), ("lost", None), (None, None)],
)
def test_a_configuration_that_fails_has_the_worst_result(
    cause: str | None, seen: list[float] | None
) -> None:
    # whatever it had reported before: it would have ended without a result again
    last = failed(cause, intermediate_values={1: 0.99})
    assert completed(study_of(complete(0.9), complete(0.6), last))[-1] == seen
    state = imputation.as_pruned([last])[0]
    assert (state.state == TrialState.PRUNED) == (seen is not None)
    assert not state.intermediate_values or seen is None


def test_of_two_objectives_each_has_its_own_worst() -> None:
    both = (complete(0.9, 3.0), complete(0.6, 1.0), failed("diverged"))
    study = study_of(*both, directions=("maximize", "minimize"))
    assert completed(study)[-1] == [0.6, 3.0]


def test_nothing_is_imputed_before_a_result_or_without_the_constraints_of_those_that_have_one() -> (
    None
):
    assert completed(study_of(pruned(0.4), failed("diverged"))) == [None, None]
    bounded = complete(0.9)
    bounded.set_constraint("latency", -1.0)
    late = failed("diverged")
    late.set_constraint("latency", 2.0)
    assert completed(study_of(bounded, failed("diverged"), late)) == [[0.9], None, [0.9]]


@pytest.mark.parametrize(
    ("second", "seen"),
    [(complete(0.8), [[0.9], None, [0.8]]), (failed("diverged"), [[0.9], None, [0.9]])],
)
def test_of_a_trial_that_is_tried_again_the_second_try_counts_alone(
    second: FrozenTrial, seen: list[list[float] | None]
) -> None:
    first = failed("diverged")
    second = copy.deepcopy(second)
    second.set_user_attr("retry_of", 1)
    study = study_of(complete(0.9), first, second)
    assert completed(study) == seen
    states = [trial.state for trial in imputation.as_pruned(study.trials)]
    assert states[1] == TrialState.FAIL and states[2] != TrialState.FAIL


def test_a_trial_without_the_fields_that_are_modelled_teaches_nothing() -> None:
    study = study_of(complete(0.9), failed("diverged"))
    names = {"x": frozenset({"x"}), "y": frozenset({"x", "y"})}
    seen = {
        key: imputation.as_complete(study.trials, study.directions, names[key])[1] for key in names
    }
    assert (seen["x"].state, seen["y"].state) == (TrialState.COMPLETE, TrialState.FAIL)


def test_what_is_kept_stays_as_it_was() -> None:
    study = study_of(complete(0.9), pruned(0.4), failed("diverged", intermediate_values={1: 0.3}))
    shared = study.get_trials(deepcopy=False)
    imputation.as_complete(shared, study.directions)
    imputation.as_pruned(shared)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in shared] == states
    assert shared[1].values is None and shared[2].intermediate_values == {1: 0.3}


def failures(sampler: BaseSampler, trials: int) -> int:
    """Trials that fail where accuracy rises up to x = 0.6, and beyond nothing completes."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
        if x > 0.6:
            trial.set_user_attr("cause", "diverged")
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, x + 0.1 * y)
    return sum(trial.state == TrialState.FAIL for trial in study.trials)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("own", "optunas", "options"),
    [
        (imputation.GpSampler, GPSampler, {}),
        (imputation.TpeSampler, TPESampler, {"multivariate": True}),
        (imputation.TpeSampler, TPESampler, {"multivariate": False}),
    ],
)
def test_where_nothing_completes_is_left(
    own: Any, optunas: Any, options: dict[str, Any], seed: int
) -> None:
    options = {"n_startup_trials": 4, "seed": seed, **options}
    ours, theirs = (failures(each(**options), 20) for each in (own, optunas))
    assert ours + 5 < theirs, (ours, theirs)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", [imputation.TpeSampler, imputation.GpSampler])
def test_under_hyperband_the_trials_of_all_brackets_are_learnt_from(kind: Any) -> None:
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    multivariate = {"multivariate": True} if kind is imputation.TpeSampler else {}
    by_model = []
    for number in range(8):
        study.sampler = kind(n_startup_trials=4, seed=number, **multivariate)
        trial = study.ask({"x": UNIT})
        by_model.append(bool(trial.relative_params))
        trial.report(trial.params["x"], 1)
        trial.should_prune()  # hyperband settles its brackets
        study.tell(trial, trial.params["x"])
    assert by_model == [False] * 4 + [True] * 4
