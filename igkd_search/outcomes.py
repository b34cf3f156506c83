"""How trials end: what Optuna is told, what is kept of it, and the line in the log."""

import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from igkd_search import amounts, documents, evaluation, fitting
from igkd_search.errors import TrialError

log = logging.getLogger(__name__)

Attribute = float | int | str
_CURVES = (
    "epoch",
    "loss",
    "accuracy",
    "validation_loss",
    "raw_accuracy",
    "raw_validation_loss",
    "learning_rate",
)


@dataclass(frozen=True)
class End:
    """How a trial ends: what it is told with, and what is kept of it."""

    state: TrialState
    values: list[float] | None
    attributes: Mapping[str, Attribute]
    kept: Mapping[str, bytes] = field(default_factory=dict)
    """What is kept to be looked at, by its kind (artifacts.KINDS)."""

    @classmethod
    def of_failure(
        cls,
        error: Exception,
        described: Mapping[str, Attribute],
        records: Sequence[fitting.EpochRecord] = (),
    ) -> Self:
        """A trial that failed by its own fault, after these epochs: a cause of errors.Cause, or a
        bug.
        """
        if isinstance(error, TrialError):
            found: dict[str, Attribute] = {"cause": error.cause, "reason": str(error)}
        else:
            text = "".join(traceback.format_exception(error))
            found = {"cause": "bug", "reason": repr(error), "traceback": text}
        kept = {"learning_curves": curves(records)} if records else {}
        return cls(TrialState.FAIL, None, {**described, **found}, kept)

    @property
    def outcome(self) -> str:
        """The word that its slot is closed with."""
        cause = self.attributes.get("cause")
        return f"failed:{cause}" if cause else self.state.name.lower()


def of_finished(trial: FrozenTrial) -> str:
    """The word that the slot of a finished trial is closed with."""
    if trial.state == TrialState.FAIL:
        # without a cause somebody else failed it, in the dashboard say
        return f"failed:{trial.user_attrs.get('cause', 'told from outside')}"
    return trial.state.name.lower()


def figures(record: fitting.EpochRecord) -> dict[str, Attribute]:
    """What a trial carries of its last epoch."""
    return {
        "accuracy": record.accuracy,
        "validation_loss": record.validation_loss,
        "calibration_error": record.calibration_error,
        "raw_accuracy": record.raw_accuracy,
        "raw_validation_loss": record.raw_validation_loss,
        "epochs": record.epoch,
        "images_per_s": round(record.images_per_s, 1),
    }


def kept(records: Sequence[fitting.EpochRecord]) -> dict[str, bytes]:
    """What is kept of these epochs of a trial to be looked at, by its kind; {} of none."""
    found = {"learning_curves": curves(records)} if records else {}
    if records and records[-1].confusion is not None:
        found["confusion_matrix"] = matrix(records[-1].confusion)
    return found


def curves(records: Sequence[fitting.EpochRecord]) -> bytes:
    """What is kept of the epochs of a trial, a list a figure."""
    return documents.dump({name: [getattr(each, name) for each in records] for name in _CURVES})


def matrix(confusion: evaluation.Confusion) -> bytes:
    """What is kept of the answers of a trial: counts, and the share of each class that is right."""
    shares = evaluation.class_accuracy(confusion)
    return documents.dump({"confusion": confusion, "class_accuracy": shares})


def log_end(trial: optuna.Trial, end: End) -> None:
    """One line: number, state, accuracy or reason, parameters."""
    parameters = " ".join(f"{name}={amounts.value(value)}" for name, value in trial.params.items())
    if end.state == TrialState.FAIL:
        log.warning("trial %d failed: %s [%s]", trial.number, end.attributes["reason"], parameters)
        return
    accuracy = float(end.attributes["accuracy"])
    epochs = end.attributes["epochs"]
    word = "complete" if end.state == TrialState.COMPLETE else f"pruned after epoch {epochs}"
    log.info("trial %d %s: %s [%s]", trial.number, word, f"{accuracy:.1%}", parameters)
