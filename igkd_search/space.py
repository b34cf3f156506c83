"""The search space in Optuna's terms: ranges -> suggestions, names -> samplers and pruners.

Grid and QMC are plans: slot i of the budget has point i. Optuna's own count by trial numbers, or by
a counter that two workers may read at once, and give some points twice and others never.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from igkd_search import imputation, spec, strategies
from igkd_search.errors import StudyError

_LEARNT = (TrialState.COMPLETE, TrialState.PRUNED)  # what TPE takes for a trial to learn from


def suggest(trial: optuna.Trial, study: spec.Study) -> spec.TrialConfig:
    """Ask Optuna for every field of the space; the other fields are the study's [trial]."""
    return decide(study, {name: _suggest(trial, name, to) for name, to in asked(study).items()})


def _suggest(trial: optuna.Trial, name: str, to: BaseDistribution) -> Any:
    if isinstance(to, CategoricalDistribution):
        return trial.suggest_categorical(name, to.choices)
    if isinstance(to, IntDistribution):
        return trial.suggest_int(name, to.low, to.high, step=to.step, log=to.log)
    assert isinstance(to, FloatDistribution)
    return trial.suggest_float(name, to.low, to.high, step=to.step, log=to.log)


def asked(study: spec.Study) -> dict[str, BaseDistribution]:
    """What Optuna is asked for, in order: the fields of the space, or a student by name."""
    found: dict[str, BaseDistribution] = {}
    for name, values in study.axes().items():
        if name == spec.STUDENT:
            found[name] = CategoricalDistribution(values or ())
        else:
            found[name] = _distribution(name, study.search.space[name])
    return found


def _distribution(name: str, span: spec.Range) -> BaseDistribution:
    if span.choices is not None:
        return CategoricalDistribution(span.choices)
    assert span.low is not None and span.high is not None
    if spec.is_whole(name):
        step = int(span.step or 1)
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=step)
    return FloatDistribution(span.low, span.high, log=span.log, step=span.step)


def fields(study: spec.Study, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of [trial] that a trial's parameters decide, by name."""
    found = dict(parameters)
    if spec.STUDENT in found:
        student = _by_name(study, found.pop(spec.STUDENT))
        found |= {n: v for n, v in student.as_fields().items() if n in study.search.space}
    return found


def decide(study: spec.Study, parameters: Mapping[str, Any]) -> spec.TrialConfig:
    """The whole configuration of a trial with these parameters of Optuna's."""
    return study.trial.model_copy(update=fields(study, parameters))


def _by_name(study: spec.Study, name: str) -> spec.Architecture:
    # a space that was narrowed holds it as well as the one it was narrowed from
    return next(each for each in study.students() if each.name == name)


def fixed(study: spec.Study, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna is to be given it (enqueue_trial): a student by name where it asks so.

    Of the students that are as the point says, that is the first.
    """
    if study.search.students is None or not set(point) & set(spec.SHAPE):
        return dict(point)
    others = {name: value for name, value in point.items() if name not in spec.SHAPE}
    agreeing = study.agreeing(point)
    assert agreeing, f"{point} was not checked"
    return {spec.STUDENT: agreeing[0].name, **others}


def check_point(study: spec.Study, point: Mapping[str, Any]) -> None:
    """StudyError with every reason why the search of this study could not try these values.

    `study` is the one whose space holds only what keeps the bounds on latency (`feasible.within`).
    """
    faults = study.faults_of_point(point)
    if not point:
        faults.append(f"give at least one NAME=VALUE of {', '.join(study.search.space)}")
    elif study.search.sampler == "grid":
        faults.append("a grid visits each of its points once, so nothing can be added")
    elif not faults and not study.agreeing(point):
        shown = ", ".join(f"{name} = {point[name]}" for name in spec.SHAPE if name in point)
        faults.append(f"no student of the search has {shown}; see search.students")
    if len(faults) == 1:
        raise StudyError(f"study '{study.name}': {faults[0]}")
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise StudyError(f"study '{study.name}': {len(faults)} faults{listed}")


def point_of(study: spec.Study, other: spec.Study, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial of another study was, as a point of this one's space.

    Fields that `other` held fixed count too; what lies outside of this space is left to the
    sampler.
    """
    config = decide(other, parameters)
    theirs = (
        config.model_dump() | spec.Architecture.of(config, other.teacher.architecture).as_fields()
    )
    spans = study.search.space.items()
    point = {name: theirs[name] for name, span in spans if span.contains(theirs[name])}
    if study.agreeing(point):
        return point
    return {name: value for name, value in point.items() if name not in spec.SHAPE}


def directions(study: spec.Study) -> list[Literal["maximize", "minimize"]]:
    """Which way each objective is sought, for `optuna.create_study`."""
    return ["maximize" if name == "accuracy" else "minimize" for name in study.search.objectives]


def is_pareto(study: spec.Study) -> bool:
    """Whether the study has two objectives: no report, no pruning, no single best trial."""
    return study.search.is_pareto


def values(study: spec.Study, accuracy: float, attributes: Mapping[str, Any]) -> list[float]:
    """What a complete trial is told with: its accuracy, and in a Pareto study its latency."""
    of = {"accuracy": accuracy, **attributes}
    return [accuracy, *(float(of[name]) for name in study.search.objectives[1:])]


def constraints(study: spec.Study, attributes: Mapping[str, Any]) -> dict[str, float]:
    """What to pass to `trial.set_constraint`, name by name, before a trial is told; <= 0 is met."""
    # Optuna's CMA-ES warns that it does not use them
    if study.search.sampler == "cmaes":
        return {}
    known = (float(attributes.get(name, math.nan)) for name in ("latency_ms", "speedup"))
    return study.search.excess(*known)


def proposer(study: spec.Study, trial: optuna.Trial) -> str:
    """Who proposed a trial that was given nothing: model, plan (a grid, a sequence) or chance."""
    name, options = study.search.sampler, study.search.sampler_options
    if name in PLANS:
        return "plan"
    if name in MODELS and trial.relative_params:
        return "model"
    if not isinstance(options, strategies.Tpe):
        return "chance"
    # fields that are modelled one by one do not show in relative_params; so all are where they are
    # asked to be, or while each trial has failed
    trials = trial.study.get_trials(deepcopy=False)
    if options.multivariate and any(each.state in _LEARNT for each in trials):
        return "chance"
    learnt = sum(each.state in _LEARNT for each in imputation.as_pruned(trials))
    return "model" if learnt >= startup_trials(study) else "chance"


def sampler(study: spec.Study, slot: int, attempt: int) -> BaseSampler:
    """The study's sampler, seeded for one claim.

    A seed shared by workers, or kept over restarts, repeats start-up points; so the seed is of
    study seed, slot and attempt. A plan needs one order: all workers share the study seed.
    """
    search = study.search
    seed = spec.trial_seed(search.seed, slot, f"sampler:{attempt}") % 2**32
    with warnings.catch_warnings():
        # the study file says what is experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        if search.sampler in PLANS:
            return PLANS[search.sampler](study, slot)
        return SAMPLERS[search.sampler](study, seed)


def pruner(study: spec.Study) -> BasePruner:
    """The study's pruner; steps are completed epochs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[study.search.pruner](study)


def first_rung(study: spec.Study) -> int:
    """Epochs every trial gets before it can be pruned: a quarter, since early epochs mislead."""
    return max(1, round(0.25 * study.trial.epochs))


def startup_trials(study: spec.Study) -> int:
    """Trials by chance before the model proposes: Optuna's own 10, fewer of a small budget.

    Under hyperband too: its brackets are judged apart, and the model learns from all of them.
    """
    given: int | None = getattr(study.search.sampler_options, "n_startup_trials", None)
    return given or max(3, min(10, study.search.trials // 4))


def _given(options: strategies.Options, **otherwise: Any) -> dict[str, Any]:
    """The options by name; those that were not given as `otherwise` says."""
    return {**otherwise, **options.model_dump(exclude_none=True)}


def _tpe(study: spec.Study, seed: int) -> BaseSampler:
    options = _given(study.search.sampler_options, n_startup_trials=startup_trials(study))
    return imputation.TpeSampler(**options, seed=seed)


def _gp(study: spec.Study, seed: int) -> BaseSampler:
    options = _given(study.search.sampler_options, n_startup_trials=startup_trials(study))
    return imputation.GpSampler(**options, seed=seed, warn_independent_sampling=False)


def _cmaes(study: spec.Study, seed: int) -> BaseSampler:
    options = _given(study.search.sampler_options, n_startup_trials=startup_trials(study))
    # that choices are drawn by chance is said in docs/search.md, once
    return optuna.samplers.CmaEsSampler(**options, seed=seed, warn_independent_sampling=False)


def _nsga2(study: spec.Study, seed: int) -> BaseSampler:
    generation = max(4, study.search.trials // 5)
    options = _given(study.search.sampler_options, population_size=generation)
    return optuna.samplers.NSGAIISampler(**options, seed=seed)


def _random(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


class _Sequence(optuna.samplers.QMCSampler):
    """Point i of the sequence for slot i, whatever other workers draw."""

    def __init__(self, study: spec.Study, slot: int) -> None:
        options = study.search.sampler_options.model_dump()
        super().__init__(**options, seed=study.search.seed, warn_independent_sampling=False)
        self._slot, self._space = slot, asked(study)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        # Optuna's learns the space from a first trial by chance
        return {name: to for name, to in self._space.items() if not to.single()}

    def _find_sample_id(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution]
    ) -> int:
        return self._slot


class _Point(BaseSampler):
    """Proposes one point, and nothing else."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        self._point = point

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._point[param_name]


def grid(study: spec.Study) -> list[dict[str, Any]]:
    """All points of the space, that of slot i at place i: those of start, then shuffled by seed."""
    axes = study.axes()
    names = sorted(axes)
    points = [
        dict(zip(names, point, strict=True))
        for point in itertools.product(*(axes[name] or () for name in names))
    ]
    first = [fixed(study, point) for point in study.search.start]
    # by digests, so that the order is the same on every host and for ever
    order = sorted(range(len(points)), key=lambda i: spec.trial_seed(study.search.seed, i, "grid"))
    shuffled = [points[i] for i in order]
    return first + [point for point in shuffled if not any(_same(point, each) for each in first)]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(spec.same(one[name], value) for name, value in other.items())


def _grid(study: spec.Study, slot: int) -> BaseSampler:
    points = grid(study)
    if slot >= len(points):
        spec.check_budget(study, slot + 1)
    return _Point(points[slot])


def _hyperband(study: spec.Study) -> BasePruner:
    options = _given(study.search.pruner_options, min_resource=first_rung(study))
    return optuna.pruners.HyperbandPruner(**options, max_resource=study.trial.epochs)


def _asha(study: spec.Study) -> BasePruner:
    options = _given(study.search.pruner_options, min_resource=first_rung(study))
    return optuna.pruners.SuccessiveHalvingPruner(**options)


def _median(study: spec.Study) -> BasePruner:
    options = _given(study.search.pruner_options, n_warmup_steps=first_rung(study))
    return optuna.pruners.MedianPruner(**options)


def _percentile(study: spec.Study) -> BasePruner:
    options = _given(study.search.pruner_options, n_warmup_steps=first_rung(study))
    return optuna.pruners.PercentilePruner(**options)


def _threshold(study: spec.Study) -> BasePruner:
    options = _given(study.search.pruner_options, n_warmup_steps=first_rung(study))
    return optuna.pruners.ThresholdPruner(**options)


def _patient(study: spec.Study) -> BasePruner:
    options = study.search.pruner_options
    assert isinstance(options, strategies.Patient)
    wrapped = None
    if options.wrapped_pruner != "none":
        inner = {"pruner": options.wrapped_pruner, "pruner_options": options.wrapped_pruner_options}
        search = study.search.model_copy(update=inner)
        wrapped = pruner(study.model_copy(update={"search": search}))
    return optuna.pruners.PatientPruner(wrapped, options.patience, options.min_delta)


def _none(study: spec.Study) -> BasePruner:
    return optuna.pruners.NopPruner()


SAMPLERS: dict[str, Callable[[spec.Study, int], BaseSampler]] = {
    "cmaes": _cmaes,
    "gp": _gp,
    "nsga2": _nsga2,
    "random": _random,
    "tpe": _tpe,
}
"""Name -> (study, seed of one claim) -> sampler."""

PLANS: dict[str, Callable[[spec.Study, int], BaseSampler]] = {
    "grid": _grid,
    "qmc": _Sequence,
}
"""Name -> (study, slot) -> sampler: slot i has point i of a plan that all workers share."""

MODELS = ("cmaes", "gp", "nsga2", "tpe")
"""The samplers that learn from earlier trials; the others propose by chance or by a plan."""

PRUNERS: dict[str, Callable[[spec.Study], BasePruner]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
    "patient": _patient,
    "percentile": _percentile,
    "threshold": _threshold,
}
"""Name -> study -> pruner."""
