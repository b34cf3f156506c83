"""How trials end: what Optuna is told, what is kept of it, and the line in the log."""

import hashlib
import json
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from igkd_search import evaluation, fitting
from igkd_search.errors import TrialError

log = logging.getLogger(__name__)

Attribute = float | int | str


@dataclass(frozen=True)
class End:
    """How a trial ends: what it is told with, and what is kept of it."""

    state: TrialState
    values: list[float] | None
    attributes: Mapping[str, Attribute]
    confusion: evaluation.Confusion | None = None

    @classmethod
    def of_failure(cls, error: Exception, described: Mapping[str, Attribute]) -> Self:
        """A trial that failed by its own fault: a cause of errors.Cause, or a bug."""
        if isinstance(error, TrialError):
            found: dict[str, Attribute] = {"cause": error.cause, "reason": str(error)}
        else:
            text = "".join(traceback.format_exception(error))
            found = {"cause": "bug", "reason": repr(error), "traceback": text}
        return cls(TrialState.FAIL, None, {**described, **found})

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


def confusion_file(trial: int, confusion: evaluation.Confusion) -> tuple[str, bytes]:
    """The name and content of the file that keeps a trial's matrix.

    The name says what is in it, so that what a crashed attempt has kept is never taken for
    another's.
    """
    found = {"confusion": confusion, "class_accuracy": evaluation.class_accuracy(confusion)}
    content = json.dumps(found, separators=(",", ":")).encode()
    digest = hashlib.sha256(content).hexdigest()
    return f"trial-{trial:05d}/confusion-{digest[:12]}.json", content


def log_end(trial: optuna.Trial, end: End) -> None:
    """One line: number, state, accuracy or reason, parameters."""
    parameters = " ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    if end.state == TrialState.FAIL:
        log.warning("trial %d failed: %s [%s]", trial.number, end.attributes["reason"], parameters)
        return
    accuracy = float(end.attributes["accuracy"])
    epochs = end.attributes["epochs"]
    word = "complete" if end.state == TrialState.COMPLETE else f"pruned after epoch {epochs}"
    log.info("trial %d %s: %s [%s]", trial.number, word, f"{accuracy:.1%}", parameters)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
