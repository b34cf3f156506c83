"""Ranges come back from Optuna as legal values; samplers and pruners are what their names say."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from igkd_search import space, spec, strategies, study_file
from igkd_search.errors import StudyError
from tests.optunas import OPTUNAS

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
    names = {*space.SAMPLERS, *space.PLANS}
    assert set(get_args(spec.Sampler)) == names == set(strategies.SAMPLERS)
    assert set(get_args(spec.Pruner)) == set(space.PRUNERS) == set(strategies.PRUNERS)


GIVEN: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 5, "n_ei_candidates": 7, "group": True, "constant_liar": False},
    "gp": {"n_startup_trials": 6, "deterministic_objective": True},
    "cmaes": {"n_startup_trials": 4, "popsize": 5, "with_margin": True},
    "nsga2": {"population_size": 6, "mutation_prob": 0.5, "swapping_prob": 0.25},
    "qmc": {"qmc_type": "halton", "scramble": False},
    "hyperband": {"min_resource": 2, "reduction_factor": 2, "bootstrap_count": 1},
    "asha": {"min_resource": 1, "reduction_factor": 4, "min_early_stopping_rate": 1},
    "median": {"n_startup_trials": 1, "n_warmup_steps": 0, "interval_steps": 2, "n_min_trials": 3},
    "percentile": {"percentile": 40.0, "n_warmup_steps": 5},
    "threshold": {"lower": 0.25, "upper": 0.75, "interval_steps": 3},
    "patient": {"patience": 2, "min_delta": 0.125},
}


@pytest.mark.parametrize("name", GIVEN)
def test_options_reach_optuna(name: str) -> None:
    kind = "sampler" if name in strategies.SAMPLERS else "pruner"
    search: dict[str, Any] = {kind: name, f"{kind}_options": GIVEN[name]}
    study = study_of(NUMBERS, **search)
    made: Any = space.sampler(study, 0, 1) if kind == "sampler" else space.pruner(study)
    assert isinstance(made, OPTUNAS[name])
    kept = {**vars(made), **vars(getattr(made, "_child_generation_strategy", made))}
    elsewhere = {"deterministic_objective": "_deterministic"}
    for option, value in GIVEN[name].items():
        assert kept[elsewhere.get(option, f"_{option}")] == value


def test_a_patient_pruner_asks_the_wrapped_one_with_its_own_options() -> None:
    options = {"patience": 1, "wrapped_pruner": "percentile"}
    inner = {"percentile": 10.0, "n_startup_trials": 7}
    made: Any = space.pruner(
        study_of(
            NUMBERS, pruner="patient", pruner_options={**options, "wrapped_pruner_options": inner}
        )
    )
    wrapped = made._wrapped_pruner
    assert isinstance(wrapped, optuna.pruners.PercentilePruner)
    assert (wrapped._percentile, wrapped._n_startup_trials) == (10.0, 7)
    alone: Any = space.pruner(study_of(NUMBERS, pruner="patient", pruner_options={"patience": 1}))
    assert alone._wrapped_pruner is None


GRID: dict[str, dict[str, Any]] = {
    "kd_weight": {"low": 0.0, "high": 0.5, "step": 0.5},
    "batch_size": {"choices": [16, 32]},
    "removed_blocks": {"low": 3, "high": 5, "step": 2},
}
EIGHT = [
    {"kd_weight": kd_weight, "batch_size": batch_size, "removed_blocks": removed_blocks}
    for kd_weight in (0.0, 0.5)
    for batch_size in (16, 32)
    for removed_blocks in (3, 5)
]
NEEDED: dict[str, dict[str, Any]] = {
    "patient": {"patience": 1},
    "percentile": {"percentile": 50.0},
    "threshold": {"lower": -0.0},
}
"""What cannot be left out."""


@pytest.mark.parametrize("sampler", sorted({*space.SAMPLERS, "qmc"}))
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
    options = NEEDED.get(pruner, {})
    study = study_of(
        NUMBERS, sampler="random", pruner=pruner, pruner_options=options, trials=24, epochs=12
    )
    search = search_of(study)

    def later_is_worse(config: spec.TrialConfig, epoch: int) -> float:
        # and no epoch is better than the one before
        return -float(len(search.trials)) - 0.01 * epoch

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


@pytest.mark.parametrize("sampler", sorted(space.SAMPLERS))
def test_each_claim_has_a_seed_of_its_own(sampler: str) -> None:
    seen = [
        first_proposal(sampler, *claim) for claim in [(0, 1), (1, 1), (0, 2), (1, 2), (0, 1, 7)]
    ]
    assert len({tuple(proposal.values()) for proposal in seen}) == len(seen)
    assert first_proposal(sampler, 1, 2) == seen[3]


class Workers:
    """Workers of one storage, each with an Optuna study of its own, as `worker` claims slots."""

    def __init__(self, study: spec.Study, count: int = 4) -> None:
        storage = optuna.storages.InMemoryStorage()
        optuna.create_study(study_name="s", storage=storage, directions=space.directions(study))
        self.study, self.storage = study, storage
        pruner = space.pruner(study)
        self.studies = [
            optuna.load_study(study_name="s", storage=storage, pruner=pruner) for _ in range(count)
        ]

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.studies[0].get_trials()

    def claim(self, slot: int, attempt: int = 1) -> optuna.Trial:
        """The trial of a slot, new or adopted, in the hands of one of the workers."""
        study = self.studies[(slot + attempt) % len(self.studies)]
        found = next((t for t in self.trials if t.user_attrs["slot"] == slot), None)
        if found is None:
            start = self.study.search.start
            point = space.fixed(self.study, start[slot]) if slot < len(start) else {}
            study.enqueue_trial(point, user_attrs={"slot": slot})
            found = self.trials[-1]
        study.sampler = space.sampler(self.study, slot, attempt)
        if found.state == TrialState.WAITING:
            self.storage.set_trial_state_values(found._trial_id, TrialState.RUNNING)
        return optuna.Trial(study, found._trial_id)

    def finish(self, trial: optuna.Trial, config: spec.TrialConfig) -> None:
        accuracy = fake_accuracy(config, config.epochs)
        attributes = {"latency_ms": 0.1 * (20 - config.removed_blocks)}
        trial.study.tell(trial, space.values(self.study, accuracy, attributes))

    def fail(self, trial: optuna.Trial, config: spec.TrialConfig) -> None:
        trial.set_user_attr("cause", "diverged")
        trial.study.tell(trial, state=TrialState.FAIL)

    def interleave(self, slots: int) -> list[spec.TrialConfig]:
        """Four slots at a time: all are asked before any is told, the last of them first."""
        decided = {}
        for first in range(0, slots, 4):
            batch = [(slot, self.claim(slot)) for slot in range(first, min(first + 4, slots))]
            for slot, trial in batch:
                decided[slot] = space.suggest(trial, self.study)
            for slot, trial in reversed(batch):
                self.finish(trial, decided[slot])
        return [decided[slot] for slot in range(slots)]


def as_points(configs: Iterable[spec.TrialConfig]) -> list[dict[str, Any]]:
    return [{name: getattr(config, name) for name in GRID} for config in configs]


def in_order(points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(points, key=lambda point: sorted(point.items()))


@pytest.mark.parametrize("seed", range(3))
def test_four_workers_visit_each_of_eight_points_once(seed: int) -> None:
    study = study_of(GRID, sampler="grid", pruner="none", trials=8, seed=seed)
    points = as_points(Workers(study).interleave(8))
    assert in_order(points) == in_order(EIGHT)
    assert points != as_points(
        Workers(study_of(GRID, sampler="grid", trials=8, seed=seed + 1)).interleave(8)
    )


@pytest.mark.parametrize("place", [0, 5])
def test_a_start_point_of_a_grid_comes_first_and_is_not_visited_again(place: int) -> None:
    start = [EIGHT[place], EIGHT[3]]
    study = study_of(GRID, sampler="grid", pruner="none", trials=8, start=start)
    points = as_points(Workers(study).interleave(8))
    assert points[:2] == start
    assert in_order(points) == in_order(EIGHT)


def test_a_grid_goes_on_where_it_was_whoever_takes_a_slot_up() -> None:
    study = study_of(GRID, sampler="grid", pruner="none", trials=3)
    workers, alone = Workers(study), space.grid(study)
    for slot in range(3):
        workers.claim(slot)  # dies before it has asked
        trial = workers.claim(slot, attempt=2)
        trial.suggest_categorical("batch_size", [16, 32])  # dies in between
        config = space.suggest(workers.claim(slot, attempt=3), study)
        assert as_points([config]) == [alone[slot]]
    assert len(workers.trials) == 3


def test_a_grid_has_its_points_in_the_same_order_for_ever() -> None:
    # slots of a running study depend on it
    study = study_of({"batch_size": {"choices": [16, 32, 48, 64]}}, sampler="grid", trials=4)
    assert [point["batch_size"] for point in space.grid(study)] == [64, 48, 16, 32]
    reordered = study_of({"batch_size": {"choices": [64, 16, 48, 32]}}, sampler="grid", trials=4)
    assert space.grid(reordered) == space.grid(study)


def test_a_slot_beyond_the_grid_is_refused() -> None:
    study = study_of(GRID, sampler="grid", trials=8)
    with pytest.raises(StudyError, match="the grid has 8 points, trials = 9"):
        space.sampler(study, 8, 1)


@pytest.mark.parametrize("sampler", sorted({*space.SAMPLERS, *space.PLANS}))
def test_interrupted_three_times_no_start_up_point_repeats(sampler: str) -> None:
    ranges = GRID if sampler == "grid" else NUMBERS
    options: dict[str, Any] = {}
    if "n_startup_trials" in strategies.SAMPLERS[sampler].model_fields:
        options = {"n_startup_trials": 8}
    if sampler == "nsga2":
        options = {"population_size": 8}
    study = study_of(ranges, sampler=sampler, sampler_options=options, pruner="none", trials=8)
    workers, decided = Workers(study), []
    for slot in range(8):
        attempt = 1
        if slot in (1, 3, 6):  # a worker dies, once before it asks and else after one answer
            trial = workers.claim(slot)
            if slot > 1:
                name, to = next(iter(space.asked(study).items()))
                space._suggest(trial, name, to)
            attempt = 2
        trial = workers.claim(slot, attempt)
        config = space.suggest(trial, study)
        assert space.proposer(study, trial) == ("plan" if sampler in space.PLANS else "chance")
        workers.finish(trial, config)
        decided.append(tuple(getattr(config, name) for name in ranges))
    assert len(set(decided)) == 8
    assert len(workers.trials) == 8
    if sampler != "grid":
        for column in zip(*decided, strict=True):
            assert len(set(column)) == 8, "nor any value"


@pytest.mark.parametrize("options", [{}, {"qmc_type": "halton"}])
def test_all_workers_share_the_one_sequence_of_qmc(options: dict[str, Any]) -> None:
    study = study_of(NUMBERS, sampler="qmc", sampler_options=options, pruner="none", trials=8)
    points = Workers(study).interleave(8)
    alone = Workers(study, 1)
    for slot in reversed(range(8)):
        assert space.suggest(alone.claim(slot), study) == points[slot]
    if not options:
        # the eight intervals of a balanced sequence hold a point each
        assert {int(point.kd_weight * 8) for point in points} == set(range(8))
    assert first_proposal("qmc", 0, 1, seed=3) != first_proposal("qmc", 0, 1, seed=4)


@pytest.mark.parametrize(
    ("epochs", "rung"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (12, 3), (100, 25)]
)
def test_the_first_rung_is_a_quarter_of_the_epochs(epochs: int, rung: int) -> None:
    assert space.first_rung(study_of(NUMBERS, epochs=epochs)) == rung


@pytest.mark.parametrize(
    ("trials", "pruner", "expected"),
    [(4, "none", 3), (20, "none", 5), (20, "hyperband", 5), (100, "median", 10)],
)
def test_trials_by_chance(trials: int, pruner: str, expected: int) -> None:
    study = study_of(NUMBERS, trials=trials, pruner=pruner)
    assert space.startup_trials(study) == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_model_proposes_15_of_20_trials_under_hyperband(seed: int) -> None:
    study = study_of(NUMBERS, trials=20, seed=seed)
    search = search_of(study)
    by_model = [run_slot(study, search, slot, fake_accuracy)[1] for slot in range(20)]
    assert by_model == [False] * 5 + [True] * 15


BOTH: dict[str, Any] = {"objectives": ["accuracy", "latency_ms"]}
SHAPED: dict[str, dict[str, Any]] = {
    "removed_blocks": {"low": 3, "high": 11, "step": 4},
    "width": {"choices": [0.5, 1.0]},
}


@pytest.mark.parametrize("sampler", sorted({*space.SAMPLERS, *space.PLANS} - {"cmaes", "grid"}))
def test_two_objectives_are_sought_without_pruning(sampler: str) -> None:
    study = study_of({**NUMBERS, **SHAPED}, sampler=sampler, trials=16, **BOTH)
    assert space.is_pareto(study) and not space.is_pareto(study_of(NUMBERS))
    assert space.directions(study) == ["maximize", "minimize"]
    assert isinstance(space.pruner(study), optuna.pruners.NopPruner)
    workers = Workers(study)
    workers.interleave(12)
    assert [len(trial.values) for trial in workers.trials] == [2] * 12
    failing = workers.claim(12)
    workers.fail(failing, space.suggest(failing, study))
    trial = workers.claim(13)
    space.suggest(trial, study)
    by = "model" if sampler in space.MODELS else "plan" if sampler == "qmc" else "chance"
    assert space.proposer(study, trial) == by


def test_a_trial_is_told_with_what_its_study_seeks() -> None:
    attributes = {"latency_ms": 1.5, "accuracy": 0.1}
    assert space.values(study_of(NUMBERS), 0.75, attributes) == [0.75]
    assert space.directions(study_of(NUMBERS)) == ["maximize"]
    assert space.values(study_of(SHAPED, **BOTH), 0.75, attributes) == [0.75, 1.5]


def test_the_latency_budget_is_a_constraint_for_those_who_look() -> None:
    attributes = {"latency_ms": 1.5}
    study = study_of(NUMBERS, latency_budget_ms=2)
    assert space.constraints(study, attributes) == {"latency_ms": -0.5}
    assert space.constraints(study_of(NUMBERS), attributes) == {}
    assert space.constraints(study_of(NUMBERS, latency_budget_ms=2, sampler="cmaes"), {}) == {}
    faster = study_of(NUMBERS, latency_budget_ms=2, min_speedup=10)
    assert space.constraints(faster, {"latency_ms": 2.5, "speedup": 12.0}) == {
        "latency_ms": 0.5,
        "speedup": -2.0,
    }


@pytest.mark.parametrize("sampler", sorted({*space.SAMPLERS, *space.PLANS}))
def test_a_constraint_that_is_met_disturbs_no_sampler(sampler: str) -> None:
    ranges = GRID if sampler == "grid" else NUMBERS
    study = study_of(ranges, sampler=sampler, pruner="none", trials=8, latency_budget_ms=2)
    workers = Workers(study)
    for slot in range(6):
        trial = workers.claim(slot)
        config = space.suggest(trial, study)
        for name, value in space.constraints(study, {"latency_ms": 1.5}).items():
            trial.set_constraint(name, value)
        (workers.fail if slot == 4 else workers.finish)(trial, config)
    assert workers.studies[0].best_trial.state == TrialState.COMPLETE


@pytest.mark.parametrize(
    ("options", "failing", "proposed"),
    [
        ({"multivariate": False}, [1], ["chance"] * 3 + ["model"] * 2),
        # before there is a result fields are modelled one by one even so
        ({}, [0, 1, 2, 3, 5], ["chance"] * 3 + ["model"] * 3),
    ],
)
def test_fields_that_are_modelled_one_by_one_are_the_models_too(
    options: dict[str, bool], failing: list[int], proposed: list[str]
) -> None:
    study = study_of(NUMBERS, sampler_options={"n_startup_trials": 3, **options}, pruner="none")
    workers, by = Workers(study), []
    for slot in range(len(proposed)):
        trial = workers.claim(slot)
        by.append(space.proposer(study, trial))
        config = space.suggest(trial, study)
        (workers.fail if slot in failing else workers.finish)(trial, config)
    assert by == proposed


NAMES = ["mobilenet_v2-3-x0.5", "mobilenet_v2-7", "mobilenet_v2-11"]


def test_students_are_asked_for_by_name_where_they_are_listed() -> None:
    study = study_of({**SHAPED, **NUMBERS}, sampler="random", students=NAMES[::-1], trials=30)
    assert list(space.asked(study)) == ["student", *NUMBERS]
    assert space.asked(study)["student"] == optuna.distributions.CategoricalDistribution(NAMES)
    workers = Workers(study)
    configs = workers.interleave(12)
    seen = {spec.Architecture.of(config, "mobilenet_v2").name for config in configs}
    assert seen == set(NAMES)
    for trial, config in zip(workers.trials, configs, strict=True):
        assert space.decide(study, trial.params) == config
        assert set(space.fields(study, trial.params)) == {*SHAPED, *NUMBERS}
        assert config.architecture is None, "it does not vary"


def test_a_start_point_names_its_student_as_optuna_is_asked() -> None:
    start = [
        {"removed_blocks": 3, "width": 0.5, "kd_weight": 0.25},
        {"width": 1, "kd_weight": 0.5},
        {"kd_weight": 0.75},
    ]
    study = study_of({**SHAPED, **NUMBERS}, students=NAMES, start=start)
    points = [space.fixed(study, point) for point in start]
    assert points == [
        {"student": NAMES[0], "kd_weight": 0.25},
        {"student": NAMES[1], "kd_weight": 0.5},
        {"kd_weight": 0.75},
    ]
    config = space.suggest(Workers(study).claim(0), study)
    assert (config.removed_blocks, config.width, config.kd_weight) == (3, 0.5, 0.25)
    plain = study_of({**SHAPED, **NUMBERS}, start=start)
    assert [space.fixed(plain, point) for point in start] == start


def test_a_grid_of_listed_students_visits_each_with_each_other_value() -> None:
    ranges = {**SHAPED, "batch_size": {"choices": [16, 32]}}
    start = [{"removed_blocks": 7, "width": 1.0, "batch_size": 32}]
    study = study_of(ranges, sampler="grid", students=NAMES, trials=6, start=start)
    configs = Workers(study).interleave(6)
    seen = [(spec.Architecture.of(each, "mobilenet_v2").name, each.batch_size) for each in configs]
    assert seen[0] == (NAMES[1], 32)
    assert sorted(seen) == sorted((name, size) for name in NAMES for size in (16, 32))


def refused(study: spec.Study, point: dict[str, Any]) -> list[str]:
    with pytest.raises(StudyError) as caught:
        space.check_point(study, point)
    where, _, said = str(caught.value).partition(": ")
    assert where == "study 's'"
    return [line.strip() for line in said.splitlines()]


def test_a_point_that_the_search_could_not_try_is_refused_with_every_reason() -> None:
    study = study_of({**SHAPED, **NUMBERS})
    space.check_point(study, {"temperature": 2.5, "removed_blocks": 7})
    assert refused(study, {"temperature": 40.0}) == ["temperature = 40.0 is outside of [1, 10]"]
    assert refused(study, {"temprature": 4.0, "removed_blocks": 5}) == [
        "2 faults",
        "temprature: not a name of search.space; did you mean 'temperature'?",
        "removed_blocks = 5 is outside of [3, 11] in steps of 4",
    ]
    assert refused(study, {}) == [
        "give at least one NAME=VALUE of removed_blocks, width, temperature, kd_weight, "
        "learning_rate"
    ]
    assert refused(study_of(GRID, sampler="grid", trials=8), EIGHT[0]) == [
        "a grid visits each of its points once, so nothing can be added"
    ]
    listed = study_of({**SHAPED, **NUMBERS}, students=NAMES)
    space.check_point(listed, {"removed_blocks": 3, "kd_weight": 0.5})
    assert refused(listed, {"removed_blocks": 3, "width": 1.0}) == [
        "no student of the search has removed_blocks = 3, width = 1.0; see search.students"
    ]


def test_a_trial_of_another_study_is_a_point_as_far_as_it_lies_in_this_space() -> None:
    other = study_of(
        {"temperature": {"low": 1.0, "high": 40.0}, **SHAPED}, students=NAMES, sampler="random"
    )
    parameters = {"temperature": 20.0, "student": NAMES[0]}
    ours = study_of({**NUMBERS, **SHAPED})
    # what the other held fixed counts; its temperature is outside of this space
    expected = {"kd_weight": 0.5, "learning_rate": 0.05, "removed_blocks": 3, "width": 0.5}
    assert space.point_of(ours, other, parameters) == expected
    space.check_point(ours, expected)
    fewer = study_of({**NUMBERS, **SHAPED}, students=NAMES[1:])
    assert space.point_of(fewer, other, parameters) == {"kd_weight": 0.5, "learning_rate": 0.05}
    networks = {"architecture": {"choices": ["mobilenet_v2", "resnet18"]}, **SHAPED}
    assert space.point_of(study_of(networks), other, parameters) == {
        "architecture": "mobilenet_v2",
        "removed_blocks": 3,
        "width": 0.5,
    }
