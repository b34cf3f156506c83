"""A study -> its trials as rows, and the winner: the one place that says which trial wins.

Reads the database alone, no torch and no materials, so a finished study is shown in a second.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from igkd_search import database, documents, imputation, searches, slots, spec
from igkd_search.errors import StorageError


@dataclass(frozen=True)
class Row:
    """One trial as a reader wants it; accuracy is on validation, after `epochs` epochs."""

    number: int
    slot: int | None
    state: str
    parameters: dict[str, Any]
    accuracy: float | None
    epochs: int
    attempts: int
    proposed_by: str | None
    seed: int | None
    seconds: float | None
    cause: str | None
    reason: str | None
    attributes: dict[str, Any]
    feasible: bool = True  # whether it keeps the bounds on latency, where the study has any

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def open_study(base: database.Database, name: str) -> optuna.Study:
    """The Optuna study of this name; StorageError when the database does not hold it."""
    if base.read_study(name) is None:
        raise database.unknown_study(base.url, name)
    try:
        return optuna.load_study(study_name=name, storage=base.storage)
    except KeyError:
        raise StorageError(
            f"Optuna's part of study '{name}' is missing, as when its removal was interrupted: "
            f"igkd delete {name} removes the rest"
        ) from None


def rows(study: optuna.Study) -> list[Row]:
    """All trials in order of their numbers.

    A failed trial that was tried again is `retried`, one that never was of the budget `discarded`:
    neither counts among the failed.
    """
    trials = study.get_trials(deepcopy=False)
    again = imputation.tried_again(trials)
    found = [_row(trial) for trial in trials]
    return [_retried(row) if row.number in again else row for row in found]


def _retried(row: Row) -> Row:
    return replace(row, state="retried") if row.state == "failed" else row


def answers(found: Sequence[Row]) -> list[Row]:
    """The trials that may win, the most accurate first: complete, feasible, with an accuracy."""
    known = [
        (-row.accuracy, row.number, row)
        for row in found
        if row.state == "complete" and row.feasible and _is_finite(row.accuracy)
        if row.accuracy is not None
    ]
    return [row for _, _, row in sorted(known, key=lambda each: each[:2])]


def no_winner(found: Sequence[Row], search: Mapping[str, Any]) -> str:
    """Why no trial wins, as reports say it; `search` is that of the question, as plain JSON."""
    slow = any(row.state == "complete" and not row.feasible for row in found)
    return spec.no_winner_in_words(search, slow)


def epochs_without_pruning(row: Row, planned: int) -> int:
    """Epochs of a trial if nothing was pruned.

    Pruning saved nothing of a trial that failed or still runs: it counts with what it has trained.
    """
    return planned if row.state in ("complete", "pruned") else row.epochs


def _is_finite(accuracy: float | None) -> bool:
    return accuracy is not None and math.isfinite(accuracy)


def proposers(found: Sequence[Row]) -> dict[str, int]:
    """How many trials of the budget each has proposed."""
    counted = [row for row in found if row.state not in ("retried", "discarded")]
    return dict(Counter(row.proposed_by for row in counted if row.proposed_by))


def best(study: optuna.Study) -> Row | None:
    """The winner: the highest validation accuracy after the last epoch, among feasible trials.

    None when no trial has completed yet. Pruned trials never win: their accuracy is of an earlier
    epoch. Of a Pareto study that is the most accurate trial of the front.
    """
    if is_pareto(study):
        return next(iter(front(study)), None)
    try:
        winner = _row(study.best_trial)
    except ValueError:
        return None
    # whoever tells trials from outside may tell an infinity
    return winner if _is_finite(winner.accuracy) else next(iter(answers(rows(study))), None)


def is_pareto(study: optuna.Study) -> bool:
    """Whether this study has a front in place of one best trial."""
    return len(study.directions) > 1


def front(study: optuna.Study) -> list[Row]:
    """The trials of a Pareto study that none beats in both, the most accurate first.

    Of trials that are equal in both the first is named.
    """
    found: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in study.best_trials:
        if not all(map(math.isfinite, trial.values)):
            continue
        found.setdefault(tuple(trial.values), trial)
    return [_row(found[values]) for values in sorted(found, reverse=True)]


def classes(base: database.Database, name: str, row: Row) -> dict[str, Any]:
    """How a trial answers each class of the validation rows, as plain JSON.

    confusion holds counts, a row for each true class; class_accuracy the share that is answered
    right, by class name, or None for a class without images. Both are None when nothing was kept.
    """
    file = row.attributes.get("confusion_file")
    content = None if file is None else base.read_file(name, file)
    if content is None:
        return {"class_accuracy": None, "confusion": None}
    found, record = documents.load(content), base.read_study(name)
    assert record is not None
    names = record.facts.get("class_names", [])
    # those of a study that began before are its labels
    names = names if len(names) == len(found["confusion"]) else range(len(found["confusion"]))
    named = zip(map(str, names), found["class_accuracy"], strict=True)
    return {"class_accuracy": dict(named), "confusion": found["confusion"]}


def summary(
    base: database.Database, name: str, study: optuna.Study | None = None
) -> dict[str, Any]:
    """All that a search has to say at its end: the winner, what it costs, what was spent.

    `study` is the same one, opened by who asks often: its finished trials are not read again.
    """
    study = study or open_study(base, name)
    record = base.read_study(name)
    assert record is not None
    facts, winner, found = record.facts, best(study), rows(study)
    failed = [row for row in found if row.state == "failed"]
    answer: dict[str, Any] = {
        "study": name,
        "teacher": {"accuracy": facts.get("teacher_accuracy"), **_cost(facts, "teacher")},
        "trials": {
            "budget": slots.Slots(base, name).counts().total,
            **dict.fromkeys(("complete", "pruned", "failed"), 0),
            **Counter(row.state for row in found),
        },
        "proposed_by": proposers(found),
        "failures": dict(Counter(row.cause for row in failed if row.cause)),
        "epochs": {
            "trained": sum(row.epochs for row in found),
            "without_pruning": sum(
                epochs_without_pruning(row, record.question["trial"]["epochs"]) for row in found
            ),
        },
        "seconds": facts.get("seconds", 0.0) + searches.read(base, name).seconds,
        "rows": facts.get("rows"),
        "machine": facts.get("machine"),
        "best": None,
        "student": None,
        "front": [row.as_dict() for row in front(study)] if is_pareto(study) else None,
    }
    if winner is not None:
        student = _cost(facts, str(winner.attributes.get("architecture")))
        compression = _compression(facts, student)
        answer["best"] = winner.as_dict()
        answer["student"] = {
            "accuracy": winner.accuracy,
            "calibration_error": winner.attributes.get("calibration_error"),
            "raw_accuracy": winner.attributes.get("raw_accuracy"),
            **student,
            "compression": compression,
            **classes(base, name, winner),
        }
    return answer


def _cost(facts: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    row = facts.get("latency", {}).get(architecture, {})
    latency = {engine: row[engine] for engine in ("onnxruntime", "pytorch") if engine in row}
    return {
        "parameters": row.get("parameters"),
        "macs": row.get("macs"),
        "latency": latency,
    }


def _compression(facts: Mapping[str, Any], student: Mapping[str, Any]) -> float | None:
    teacher = _cost(facts, "teacher")["parameters"]
    return teacher / student["parameters"] if teacher and student["parameters"] else None


def keeps_constraints(trial: FrozenTrial) -> bool:
    """Whether a trial keeps the bounds on latency of its study."""
    return all(excess <= 0 for excess in trial.constraints.values())


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def _row(trial: FrozenTrial) -> Row:
    attributes = trial.user_attrs
    last = trial.last_step
    reported = trial.intermediate_values.get(last or 0)
    # where there are two objectives nothing can be reported
    shown = attributes.get("accuracy") if reported is None else reported
    return Row(
        number=trial.number,
        slot=attributes.get("slot"),
        state="discarded" if attributes.get("cause") == "discarded" else _STATES[trial.state],
        parameters=dict(trial.params),
        accuracy=trial.values[0] if trial.values else shown,
        epochs=last or attributes.get("epochs", 0),
        attempts=attributes.get("attempts", 0),
        proposed_by=attributes.get("proposed_by"),
        seed=attributes.get("seed"),
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        # an attempt that died before it was told may have left a cause to a trial that completed
        cause=attributes.get("cause") if trial.state == TrialState.FAIL else None,
        reason=attributes.get("reason") if trial.state == TrialState.FAIL else None,
        attributes=dict(attributes),
        feasible=keeps_constraints(trial),
    )
