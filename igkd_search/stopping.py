"""When a search has had enough before its budget is spent: its hours, or its patience.

What has begun is still finished; only nothing fresh is claimed.
"""

import optuna
from optuna.trial import FrozenTrial

from igkd_search import database, searches, slots, spec


def reason(base: database.Database, study: spec.Study, trials: optuna.Study) -> str | None:
    """Why nothing fresh is to be tried, as a person reads it and with what to type; or None."""
    search = study.search
    if search.hours is not None:
        spent = searches.read(base, study.name).seconds / 3600
        if spent >= search.hours:
            return (
                f"search.hours = {search.hours:g} are spent; raise them in the study file to go on"
            )
    if search.patience is not None:
        idle = trials_without_gain(trials)
        if idle >= search.patience:
            return (
                f"search.patience = {search.patience}: the last {idle} trials brought none that is "
                "better; raise it in the study file to go on"
            )
    return None


def ended(base: database.Database, study: spec.Study) -> str | None:
    """The `reason` for which a study's search has ended, with nothing left that has begun."""
    if base.read_study(study.name) is None:
        return None
    rows = slots.Slots(base, study.name).rows()
    if any(row.state != "done" and row.attempt > 0 for row in rows):
        return None
    trials = optuna.load_study(study_name=study.name, storage=base.storage)
    return reason(base, study, trials)


def trials_without_gain(study: optuna.Study) -> int:
    """How many trials have finished since the last one that was the best of its time.

    With several objectives, since the last of those that no other beats in all.
    """
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    finished.sort(key=lambda trial: (trial.datetime_complete is not None, trial.datetime_complete))
    best = {trial.number for trial in _best(study)}
    places = [place for place, trial in enumerate(finished) if trial.number in best]
    return len(finished) - 1 - places[-1] if places else 0


def _best(study: optuna.Study) -> list[FrozenTrial]:
    if len(study.directions) > 1:
        return study.best_trials
    try:
        return [study.best_trial]
    except ValueError:
        return []
