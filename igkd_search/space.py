"""The search space in Optuna's terms: ranges -> suggestions, names -> samplers and pruners."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from igkd_search import spec


def suggest(trial: optuna.Trial, study: spec.Study) -> spec.TrialConfig:
    """Ask Optuna for every field of the space; the other fields are the study's [trial]."""
    asked = {name: _suggest(trial, name, span) for name, span in study.search.space.items()}
    return study.trial.model_copy(update=asked)


def _suggest(trial: optuna.Trial, name: str, span: spec.Range) -> Any:
    if span.choices is not None:
        return trial.suggest_categorical(name, span.choices)
    assert span.low is not None and span.high is not None
    if spec.TrialConfig.model_fields[name].annotation is int:
        step = int(span.step or 1)
        return trial.suggest_int(name, int(span.low), int(span.high), step=step, log=span.log)
    return trial.suggest_float(name, span.low, span.high, step=span.step, log=span.log)


def sampler(study: spec.Study, slot: int, attempt: int) -> BaseSampler:
    """The study's sampler, seeded for one claim.

    A seed shared by workers, or kept over restarts, repeats start-up points; so the seed is of
    study seed, slot and attempt. QMC needs one sequence: all workers share the study seed.
    """
    search = study.search
    seed = spec.trial_seed(search.seed, slot, f"sampler:{attempt}") % 2**32
    return SAMPLERS[search.sampler](study, search.seed if search.sampler == "qmc" else seed)


def pruner(study: spec.Study) -> BasePruner:
    """The study's pruner; steps are completed epochs."""
    return PRUNERS[study.search.pruner](study)


def first_rung(study: spec.Study) -> int:
    """Epochs every trial gets before it can be pruned: a quarter, since early epochs mislead."""
    return max(1, round(0.25 * study.trial.epochs))


def startup_trials(study: spec.Study) -> int:
    """Trials by chance before the model proposes: few, or a small budget is mostly chance."""
    brackets = _brackets(study) if study.search.pruner == "hyperband" else 1
    return max(3, study.search.trials // (4 * brackets))


def _brackets(study: spec.Study) -> int:
    # as Optuna counts them: floor(log3(max / min)) + 1
    count, resource = 1, first_rung(study) * 3
    while resource <= study.trial.epochs:
        count, resource = count + 1, resource * 3
    return count


def _tpe(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(n_startup_trials=startup_trials(study), seed=seed)


def _gp(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(n_startup_trials=startup_trials(study), seed=seed)


def _cmaes(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(n_startup_trials=startup_trials(study), seed=seed)


def _nsga2(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(
        population_size=max(4, study.search.trials // 5), seed=seed
    )


def _random(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _qmc(study: spec.Study, seed: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


def _hyperband(study: spec.Study) -> BasePruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=first_rung(study), max_resource=study.trial.epochs, reduction_factor=3
    )


def _asha(study: spec.Study) -> BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first_rung(study), reduction_factor=3
    )


def _median(study: spec.Study) -> BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=first_rung(study))


def _none(study: spec.Study) -> BasePruner:
    return optuna.pruners.NopPruner()


SAMPLERS: dict[str, Callable[[spec.Study, int], BaseSampler]] = {
    "cmaes": _cmaes,
    "gp": _gp,
    "nsga2": _nsga2,
    "qmc": _qmc,
    "random": _random,
    "tpe": _tpe,
}
"""Name -> (study, seed of one claim) -> sampler."""

MODELS = ("cmaes", "gp", "nsga2", "tpe")
"""The samplers that learn from earlier trials; the others propose by chance or by a plan."""

PRUNERS: dict[str, Callable[[spec.Study], BasePruner]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
}
"""Name -> study -> pruner."""
