"""What another study has found, as the first configurations of a new one (`search.from`).

Only values that lie in the new study's space are taken; the sampler proposes the rest.
"""

import logging
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from igkd_search import database, space, spec, study_file
from igkd_search.errors import StudyError

log = logging.getLogger(__name__)

Point = dict[str, Any]
FACT = "warm_start"
"""The key of a study's facts that says what it began with, and so that this was queued."""


def check(base: database.Database | None, study: spec.Study) -> None:
    """StudyError when the study is to begin with one that is not there or has found nothing."""
    _source(base, study)


def points(base: database.Database, study: spec.Study) -> list[Point]:
    """The best configurations of the study that `search.from` names, the best first.

    Those of its complete trials, each once, as far as they lie in this study's space; what was left
    out is logged. Empty without `search.from`. StudyError as `check`.
    """
    found = _source(base, study)
    if found is None:
        return []
    other, trials = found
    taken: list[Point] = []
    for trial in trials:
        point = space.point_of(study, other, trial.params)
        if point and point not in taken:
            taken.append(point)
        if len(taken) == study.search.from_trials:
            break
    _log_left_out(study, other, trials, taken)
    return taken


def _source(
    base: database.Database | None, study: spec.Study
) -> tuple[spec.Study, list[FrozenTrial]] | None:
    """The study to begin with and its complete trials, the best first; None when it names none."""
    name = study.search.warm_start
    if name is None:
        return None
    where = f"study '{study.name}': search.from = '{name}'"
    record = None if base is None else base.read_study(name)
    if base is None or record is None:
        known = [] if base is None else base.study_names()
        near = spec.nearest(name, known)
        raise StudyError(
            f"{where}: the storage has no such study{near}; there "
            f"{'are' if known else 'is'} {', '.join(known) or 'none yet'}"
        )
    other = study_file.check(spec.Study, record.question, f"study '{name}' in the storage")
    stored = optuna.load_study(study_name=name, storage=base.storage)
    trials = [t for t in stored.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not trials:
        raise StudyError(
            f"{where}: none of its trials has completed yet; run it first with 'igkd run {name}', "
            "or leave search.from out"
        )
    return other, sorted(trials, key=lambda trial: (-trial.values[0], trial.number))


def _log_left_out(
    study: spec.Study, other: spec.Study, trials: list[FrozenTrial], taken: list[Point]
) -> None:
    best = [space.fields(other, trial.params) for trial in trials[: study.search.from_trials]]
    searched = {name for fields in best for name in fields}
    sampled = {name for point in taken for name in study.search.space if name not in point}
    parts = {
        "not searched here": sorted(searched - set(study.search.space)),
        "outside of the ranges here": sorted(sampled),
    }
    left = "; ".join(f"{why}: {', '.join(names)}" for why, names in parts.items() if names)
    shown = f"{len(taken)} configuration{'s' if len(taken) != 1 else ''}"
    log.info(
        "%s begins with %s of %s%s", study.name, shown, other.name, f" ({left})" if left else ""
    )
