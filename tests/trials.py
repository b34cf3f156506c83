"""Rows, summary and question of a study that never ran, of any size, for charts and the report."""

import random
from collections.abc import Sequence
from typing import Any

from igkd_search.results import Row

EPOCHS = 8
QUESTION: dict[str, Any] = {
    "name": "s",
    "trial": {"epochs": EPOCHS},
    "search": {
        "objectives": ["accuracy"],
        "space": {
            "temperature": {"low": 1.0, "high": 10.0, "log": True},
            "kd_weight": {"low": 0.0, "high": 1.0},
            "overlay_probability": {"low": 0.0, "high": 0.5},
            "learning_rate": {"low": 1e-3, "high": 0.1, "log": True},
        },
    },
}
TEACHER: dict[str, Any] = {
    "accuracy": 0.97,
    "parameters": 400,
    "macs": 4000,
    "latency": {"onnxruntime": {"median_ms": 4.0, "iqr_ms": 0.1, "n": 30}},
}


def row(number: int, accuracy: float | None, state: str = "complete", **more: Any) -> Row:
    """One trial; `latency_ms` and other attributes go by `attributes`."""
    values: dict[str, Any] = {
        "slot": number,
        "parameters": {"kd_weight": 0.5, "overlay_probability": 0.1},
        "epochs": EPOCHS if state == "complete" else 2,
        "attempts": 1,
        "proposed_by": "model",
        "seed": 1,
        "seconds": 2.0,
        "cause": None,
        "reason": None,
        "attributes": {"latency_ms": 1.0},
    }
    return Row(**{"number": number, "state": state, "accuracy": accuracy, **values, **more})


def many(count: int) -> list[Row]:
    """So many trials, a third of them pruned, all that is drawn of them different."""
    chance = random.Random(0)
    return [
        row(
            number,
            0.2 + 0.75 * chance.random(),
            "pruned" if number % 3 == 0 else "complete",
            parameters={
                "temperature": 1 + 9 * chance.random(),
                "kd_weight": chance.random(),
                "overlay_probability": chance.random() / 2,
                "learning_rate": 10 ** -(1 + 2 * chance.random()),
            },
            attributes={"latency_ms": 1 + chance.random()},
        )
        for number in range(count)
    ]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What of `results.summary` charts read."""
    complete = [each for each in rows if each.state == "complete" and each.accuracy is not None]
    best = max(complete, key=lambda each: each.accuracy or 0.0, default=None)
    return {"teacher": TEACHER, "best": None if best is None else best.as_dict(), "front": None}
