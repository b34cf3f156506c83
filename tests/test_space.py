"""Ranges come back from Optuna as legal values; samplers and pruners are what their names say."""

from collections.abc import Callable, Iterator
from typing import Any, get_args

import optuna
import pytest
from optuna.trial import TrialState

from igkd_search import space, spec, study_file

ALL: dict[str, dict[str, Any]] = {
    "temperature": {"low": 1.0, "high": 10.0, "log": True},
    "kd_weight": {"low": 0.0, "high": 1.0},
    "overlay_probability": {"low": 0.0, "high": 0.5, "step": 0.125},
    "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    "removed_blocks": {"low": 3, "high": 11, "step": 4},
    "batch_size": {"low": 16, "high": 64, "log": True},
    "optimizer": {"choices": ["sgd", "adam"]},
    "width": {"choices": [0.5, 1.0]},
}
NUMBERS = {name: ALL[name] for name in ("temperature", "kd_weight", "learning_rate")}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def study_of(ranges: dict[str, dict[str, Any]], *, epochs: int = 8, **search: Any) -> spec.Study:
    plain = {"name": "s", "trial": {"epochs": epochs}, "search": {"space": ranges, **search}}
    return study_file.check(spec.Study, plain, "test")


def search_of(study: spec.Study) -> optuna.Study:
    return optuna.create_study(
        study_name=study.name, direction="maximize", pruner=space.pruner(study)
    )


def run_slot(
    study: spec.Study,
    search: optuna.Study,
    slot: int,
    accuracy: Callable[[spec.TrialConfig, int], float],
) -> tuple[spec.TrialConfig, bool]:
    """One trial as a worker runs it: the decided configuration, and whether the model decided."""
    search.sampler = space.sampler(study, slot, 1)
    trial = search.ask()
    config = space.suggest(trial, study)
    by_model = bool(trial.relative_params)
    for epoch in range(1, study.trial.epochs + 1):
        trial.report(accuracy(config, epoch), epoch)
        if epoch < study.trial.epochs and trial.should_prune():
            search.tell(trial, state=TrialState.PRUNED)
            return config, by_model
    search.tell(trial, accuracy(config, study.trial.epochs))
    return config, by_model


def fake_accuracy(config: spec.TrialConfig, epoch: int) -> float:
    """Best at KD weight 0.3 and temperature 4; better with every epoch."""
    return 1 - (config.kd_weight - 0.3) ** 2 - 0.01 * abs(config.temperature - 4) - 0.1 / epoch


def test_the_study_file_names_the_samplers_and_pruners_that_there_are() -> None:
    assert set(get_args(spec.Sampler)) == set(space.SAMPLERS)
    assert set(get_args(spec.Pruner)) == set(space.PRUNERS)


@pytest.mark.parametrize("sampler", space.SAMPLERS)
def test_every_sampler_proposes_within_the_ranges(sampler: str) -> None:
    study = study_of(ALL, sampler=sampler, pruner="none", trials=8, seed=5)
    search = search_of(study)
    decided = [run_slot(study, search, slot, fake_accuracy)[0] for slot in range(8)]
    for config in decided:
        again = spec.TrialConfig.model_validate(config.model_dump())  # legal values, legal types
        assert again == config
        for name, span in study.search.space.items():
            assert span.contains(getattr(config, name))
    for name in NUMBERS:
        assert len({getattr(config, name) for config in decided}) > 1
    fields = {name for name in spec.TrialConfig.model_fields if name not in ALL}
    assert all(
        getattr(config, name) == getattr(study.trial, name) for config in decided for name in fields
    )


@pytest.mark.parametrize("pruner", space.PRUNERS)
def test_every_pruner_judges_trials_and_no_trial_before_its_first_rung(pruner: str) -> None:
    study = study_of(NUMBERS, sampler="random", pruner=pruner, trials=24, epochs=12)
    search = search_of(study)

    def later_is_worse(config: spec.TrialConfig, epoch: int) -> float:
        return -float(len(search.trials))

    for slot in range(24):
        run_slot(study, search, slot, later_is_worse)
    steps = [trial.last_step for trial in search.trials if trial.state == TrialState.PRUNED]
    assert bool(steps) == (pruner != "none")
    assert all(step is not None and step >= space.first_rung(study) for step in steps)


def test_values_are_of_the_type_of_their_field() -> None:
    study = study_of(ALL, sampler="random", pruner="none")
    config = space.suggest(search_of(study).ask(), study)
    for name in ALL:
        expected = str if name == "optimizer" else spec.TrialConfig.model_fields[name].annotation
        assert type(getattr(config, name)) is expected


def test_ranges_become_the_distributions_they_describe() -> None:
    study = study_of(ALL, sampler="random", pruner="none")
    trial = search_of(study).ask()
    space.suggest(trial, study)
    assert trial.distributions == {
        "temperature": optuna.distributions.FloatDistribution(1.0, 10.0, log=True),
        "kd_weight": optuna.distributions.FloatDistribution(0.0, 1.0),
        "overlay_probability": optuna.distributions.FloatDistribution(0.0, 0.5, step=0.125),
        "learning_rate": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
        "removed_blocks": optuna.distributions.IntDistribution(3, 11, step=4),
        "batch_size": optuna.distributions.IntDistribution(16, 64, log=True),
        "optimizer": optuna.distributions.CategoricalDistribution(["sgd", "adam"]),
        "width": optuna.distributions.CategoricalDistribution([0.5, 1.0]),
    }


def test_a_start_point_is_taken_as_it_is() -> None:
    study = study_of(NUMBERS, sampler="tpe")
    search = search_of(study)
    point = {"temperature": 2.5, "kd_weight": 0.01, "learning_rate": 0.03}
    search.enqueue_trial(point)
    config = space.suggest(search.ask(), study)
    assert {name: getattr(config, name) for name in point} == point


def first_proposal(sampler: str, slot: int, attempt: int, seed: int = 0) -> dict[str, Any]:
    study = study_of(NUMBERS, sampler=sampler, pruner="none", seed=seed)
    search = search_of(study)
    search.sampler = space.sampler(study, slot, attempt)
    trial = search.ask()
    space.suggest(trial, study)
    return trial.params


@pytest.mark.parametrize("sampler", sorted(set(space.SAMPLERS) - {"qmc"}))
def test_each_claim_has_a_seed_of_its_own(sampler: str) -> None:
    seen = [
        first_proposal(sampler, *claim) for claim in [(0, 1), (1, 1), (0, 2), (1, 2), (0, 1, 7)]
    ]
    assert len({tuple(proposal.values()) for proposal in seen}) == len(seen)
    assert first_proposal(sampler, 1, 2) == seen[3]


def test_all_workers_share_the_one_sequence_of_qmc() -> None:
    ours = study_of(NUMBERS, sampler="qmc", pruner="none", trials=8)
    search = search_of(ours)
    points = [run_slot(ours, search, slot, fake_accuracy)[0] for slot in range(8)]
    alone = search_of(ours)
    alone.sampler = space.sampler(ours, 0, 1)
    for point in points:
        trial = alone.ask()
        assert space.suggest(trial, ours) == point
        alone.tell(trial, 0.0)
    # the eight intervals of a balanced sequence hold a point each; the first point is independent
    eighths = {int(point.kd_weight * 8) for point in points[1:]}
    assert len(eighths) == 7
    assert first_proposal("qmc", 0, 1, seed=3) != first_proposal("qmc", 0, 1, seed=4)


@pytest.mark.parametrize(
    ("epochs", "rung"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (12, 3), (100, 25)]
)
def test_the_first_rung_is_a_quarter_of_the_epochs(epochs: int, rung: int) -> None:
    assert space.first_rung(study_of(NUMBERS, epochs=epochs)) == rung


@pytest.mark.parametrize("epochs", [*range(1, 41), 100, 300])
def test_brackets_are_counted_as_optuna_counts_them(epochs: int) -> None:
    study = study_of(NUMBERS, epochs=epochs)
    pruner = space.pruner(study)
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    search = optuna.create_study(direction="maximize", pruner=pruner)
    trial = search.ask()
    trial.report(0.5, 1)
    trial.should_prune()
    assert space._brackets(study) == pruner._n_brackets


@pytest.mark.parametrize(
    ("trials", "pruner", "epochs", "expected"),
    [
        (20, "hyperband", 8, 3),  # two brackets: max(3, 20 // 8)
        (20, "none", 8, 5),
        (100, "hyperband", 100, 12),
        (100, "median", 100, 25),
        (4, "none", 8, 3),
        (20, "hyperband", 1, 5),  # one bracket
    ],
)
def test_trials_by_chance(trials: int, pruner: str, epochs: int, expected: int) -> None:
    study = study_of(NUMBERS, trials=trials, pruner=pruner, epochs=epochs)
    assert space.startup_trials(study) == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_model_proposes_at_least_12_of_20_trials_under_hyperband(seed: int) -> None:
    study = study_of(NUMBERS, trials=20, seed=seed)
    search = search_of(study)
    by_model = [run_slot(study, search, slot, fake_accuracy)[1] for slot in range(20)]
    assert sum(by_model) >= 12
    assert not any(by_model[:3])
