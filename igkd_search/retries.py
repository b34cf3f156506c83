"""Failed trials tried once more, on the slot that they have spent (`igkd retry`).

The new trial carries the number of the one it replaces from birth (`births`), and its slot is
opened only then: whoever is killed between the two types the command again.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from igkd_search import births, database, results, slots
from igkd_search.errors import StudyError


@dataclass(frozen=True)
class Retry:
    """A failed trial, the slot it had spent, and the trial that has this slot now."""

    trial: int
    cause: str
    slot: int
    again: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def retry(base: database.Database, name: str, number: int) -> Retry:
    """Try a failed trial again, with the same parameters and no larger budget.

    StudyError when it is none that failed, or was tried again before: with what to type instead.
    """
    study, trials = _read(base, name)
    if not 0 <= number < len(trials):
        raise StudyError(f"study '{name}' has no trial {number}; igkd trials {name} lists them")
    trial, slot = trials[number], trials[number].user_attrs.get("slot")
    if trial.state != TrialState.FAIL:
        raise StudyError(
            f"trial {number} of study '{name}' {_WORDS[trial.state]}, only a failed one is tried "
            f"again; to try its configuration once more type: {_addition(name, trial)}"
        )
    last = None if slot is None else births.among(trials, slot)
    if slot is None or last is None:
        raise StudyError(f"trial {number} of study '{name}' is none of its budget")
    if last.number != number and not _is_unfinished_retry(last, number):
        raise StudyError(_superseded(name, number, last))
    return _again(base, study, trial, last, _done(base, name))


def retry_failed(base: database.Database, name: str, cause: str | None = None) -> list[Retry]:
    """Try all failed trials again, or those of one cause; StudyError when there are only others."""
    study, trials = _read(base, name)
    done, found = _done(base, name), list[tuple[FrozenTrial, FrozenTrial]]()
    for slot in sorted(done):
        last = births.among(trials, slot)
        of = None if last is None else last.user_attrs.get("retry_of")
        if last is not None and last.state == TrialState.FAIL:
            found.append((last, last))
        elif last is not None and last.state == TrialState.WAITING and of is not None:
            found.append((trials[of], last))
    causes = Counter(_cause(trial) for trial, _ in found)
    if found and cause is not None and cause not in causes:
        there = ", ".join(f"{each} ({count})" for each, count in sorted(causes.items()))
        raise StudyError(f"no trial of study '{name}' failed by {cause!r}; causes: {there}")
    return [
        _again(base, study, trial, last, done)
        for trial, last in found
        if cause in (None, _cause(trial))
    ]


def _again(
    base: database.Database,
    study: optuna.Study,
    trial: FrozenTrial,
    last: FrozenTrial,
    done: set[int],
) -> Retry:
    name, slot = study.study_name, trial.user_attrs["slot"]
    if slot not in done:
        state = "is tried again already" if last.number != trial.number else "is being closed"
        raise StudyError(
            f"trial {trial.number} of study '{name}' {state}; see igkd status {name}, or "
            f"igkd repair {name} when no worker is left"
        )
    if last.number == trial.number:
        kept = {key: trial.user_attrs[key] for key in _KEPT if key in trial.user_attrs}
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(parameters, user_attrs={**kept, "retry_of": trial.number})
        made = births.find(study, slot)
        assert made is not None
        last = made
    slots.Slots(base, name).reopen(slot)
    return Retry(trial.number, _cause(trial), slot, last.number)


def _read(base: database.Database, name: str) -> tuple[optuna.Study, list[FrozenTrial]]:
    study = results.open_study(base, name)
    return study, study.get_trials(deepcopy=False)


def _done(base: database.Database, name: str) -> set[int]:
    return {row.slot for row in slots.Slots(base, name).rows() if row.state == "done"}


def _is_unfinished_retry(last: FrozenTrial, of: int) -> bool:
    return last.user_attrs.get("retry_of") == of and not last.state.is_finished()


def _superseded(name: str, number: int, last: FrozenTrial) -> str:
    """Why a failed trial is not tried again: its slot has another trial."""
    then = f"trial {number} of study '{name}' was tried again: trial {last.number} has its slot"
    if last.state == TrialState.FAIL:
        return f"{then} and failed too; type igkd retry {name} --trial {last.number}"
    return f"{then} and {_WORDS[last.state]}"


def _addition(name: str, trial: FrozenTrial) -> str:
    words = " ".join(f"{key}={value}" for key, value in trial.params.items())
    return f"igkd add {name} {words}".strip()


def _cause(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("cause", "told from outside"))


_KEPT = ("slot", "proposed_by")
_WORDS = {
    TrialState.COMPLETE: "is complete",
    TrialState.PRUNED: "was pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "is running",
    TrialState.WAITING: "is waiting",
}
