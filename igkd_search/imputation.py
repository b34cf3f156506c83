"""Samplers that learn from trials without a result too, by imputing one.

Optuna's samplers pass over failed trials, and its Gaussian process over pruned ones as well. Where
they lie its model stays as uncertain as at first, and what is uncertain is worth a try: a corner of
the space in which students diverge is proposed again and again. Imputing a poor result is the usual
cure; Optuna's own TPE ranks pruned trials likewise, below all complete ones.
"""

import copy
import functools
from collections.abc import Callable, Container, Sequence, Set
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from igkd_search.errors import Cause

BY_CONFIGURATION: tuple[Cause, ...] = ("diverged", "out_of_memory")
"""Causes that lie in what was tried, which would most likely fail again; a bug or a dead worker
says nothing of it. What is tried again (`igkd retry`) is judged by that."""

Imputer = Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]
"""All trials of a study -> the trials as a sampler is to see them."""


class TpeSampler(optuna.samplers.TPESampler):
    """Optuna's, to which a configuration that fails is a trial pruned before its first epoch."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(_seen(study, as_pruned), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seen = _seen(study, as_pruned)
        return super().sample_independent(seen, trial, param_name, param_distribution)


class GpSampler(optuna.samplers.GPSampler):
    """Optuna's, to which pruned trials, and configurations that fail, are poor complete ones."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        names = search_space.keys()
        impute = functools.partial(as_complete, directions=study.directions, names=names)
        return super().sample_relative(_seen(study, impute), trial, search_space)


def as_pruned(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that failed by their configuration become pruned ones that reported nothing.

    Before there is any result as well: where students survive is worth knowing first.
    """
    failed = _failed(trials)
    return [
        _changed(trial, TrialState.PRUNED, intermediate_values={})
        if trial.number in failed
        else trial
        for trial in trials
    ]


def as_complete(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    names: Set[str] = frozenset(),
) -> list[FrozenTrial]:
    """Trials without a result become complete ones, as bad as the worst of those that have one.

    A pruned trial has its last report where that is better. Nothing is imputed before there is a
    complete trial, nor to a trial without these parameters or without the constraints that complete
    ones were told. With two objectives both are the worst, though a latency is known: a student
    that failed belongs on no front.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return list(trials)
    results = zip(*(trial.values for trial in complete), strict=True)
    worst = [
        (min if direction == StudyDirection.MAXIMIZE else max)(values)
        for direction, values in zip(directions, results, strict=True)
    ]
    told, failed = complete[0].constraints.keys(), _failed(trials)
    return [
        _changed(trial, TrialState.COMPLETE, values=_imputed(trial, directions, worst))
        if (trial.state == TrialState.PRUNED or trial.number in failed)
        and trial.params.keys() >= names
        and trial.constraints.keys() == told
        else trial
        for trial in trials
    ]


def _imputed(
    trial: FrozenTrial, directions: Sequence[StudyDirection], worst: Sequence[float]
) -> list[float]:
    if trial.state != TrialState.PRUNED or trial.last_step is None:
        return list(worst)
    best_of = max if directions[0] == StudyDirection.MAXIMIZE else min  # two are not pruned
    return [best_of(worst[0], trial.intermediate_values[trial.last_step])]


def _failed(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of those that failed by their configuration and are not tried again."""
    again = tried_again(trials)
    return {
        trial.number
        for trial in trials
        if trial.state == TrialState.FAIL
        and trial.user_attrs.get("cause") in BY_CONFIGURATION
        and trial.number not in again
    }


def tried_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of the trials of which another one is a retry."""
    of = (trial.user_attrs.get("retry_of") for trial in trials)
    return {number for number in of if number is not None}


def _changed(trial: FrozenTrial, state: TrialState, **attributes: Any) -> FrozenTrial:
    """A copy; Optuna shares its trials among all who ask for them."""
    copied = copy.copy(trial)
    for name, value in {"state": state, **attributes}.items():
        setattr(copied, name, value)
    return copied


def _seen(study: optuna.Study, impute: Imputer) -> optuna.Study:
    return cast(optuna.Study, _Seen(study, impute))


class _Seen:
    """A study whose trials are imputed on reading; all else is the study's own."""

    def __init__(self, study: optuna.Study, impute: Imputer) -> None:
        self._study, self._impute = study, impute

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        # samplers read by this method alone. A bracket of hyperband inherits it and filters its
        # get_trials only; asked of the class, so that models learn from all brackets for good
        trials = optuna.Study._get_trials(self._study, deepcopy=deepcopy, use_cache=use_cache)
        seen = self._impute(trials)
        return [trial for trial in seen if states is None or trial.state in states]
