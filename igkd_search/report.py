"""Everything that a report says of a study, as one plain dict: `report.json`, docs/report.md.

Only the database is read, no torch and no materials, so a report of a study that runs elsewhere
takes as long as its trials take to be read.
"""

import gc
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import optuna

from igkd_search import (
    __version__,
    database,
    importances,
    latency_table,
    paper,
    progress,
    report_pictures,
    results,
    slots,
    study_file,
    uncertainty,
    workers,
)

SCHEMA_VERSION = 1
MOST_CURVES = 150
"""A page that draws more of them is slow, and nobody sees one among them."""
FLATTERY = (
    "The winner is the highest of {count} complete trials, chosen by this very number, so it is "
    "high partly by luck. The interval covers which images were validated on, not the luck of the "
    "choice, nor that of the seed. Before naming a winner, have the leading configurations trained "
    "again by fresh seeds: igkd export {study} -o best.toml --top 5 --seeds 3 exports the one with "
    "the highest mean. Then train it: igkd train reads the test set, once."
)


@dataclass(frozen=True)
class Report:
    """The dict, the rows that charts are drawn from, and what the dict's pictures show."""

    content: dict[str, Any]
    rows: Sequence[results.Row]
    pictures: Mapping[tuple[int, str], Any]


def read(base: database.Database, name: str) -> Report:
    """All of a study as it is just now; StorageError for one that the database does not hold."""
    with _uncollected():
        return _read(base, name)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through what is read.

    A hundred thousand epochs are as many objects and no garbage, and took a third longer with it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(base: database.Database, name: str) -> Report:
    reader = progress.Reader(base, name)
    study, status = reader.study, reader.read()
    rows = list(map(_without_infinity, results.rows(study)))
    summary = results.summary(base, name, study)
    record = base.read_study(name)
    assert record is not None
    shown = report_pictures.choose(base, name, rows, summary["best"])
    content = {
        "schema_version": SCHEMA_VERSION,
        "study": name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": {key: status[key] for key in _STATUS} | {"workers": _at_work(status)},
        "answer": _answer(name, summary, rows),
        "timings": _timings(base, name, summary["best"]),
        "summary": summary,
        "ranking": [row.number for row in results.answers(rows)],
        "trials": [_trial(row) for row in rows],
        "curves": _curves(study, rows, record.question, summary["best"]),
        "importances": importances.of_study(study),
        "students": _students(rows, record.facts),
        "paper": _paper(),
        "spent": _spent(base, name, rows, summary),
        "failures": [_failure(row) for row in rows if row.state == "failed"],
        "pictures": [
            {"trial": number, "kind": kind, **_overlay(rows[number], record.question)}
            for number, kind in shown
        ],
        "provenance": _provenance(base, record, reader, summary),
    }
    # plain JSON through and through; what is not finite becomes null
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return Report(plain, rows, shown)


def _without_infinity(row: results.Row) -> results.Row:
    """The row without an accuracy that is no number: it can be neither drawn nor compared."""
    known = row.accuracy is not None and math.isfinite(row.accuracy)
    return row if known else replace(row, accuracy=None)


_STATUS = ("budget", "states", "running", "stopped", "ended", "rate", "seconds", "advice")


def _at_work(status: Mapping[str, Any]) -> dict[str, int]:
    return dict(Counter(worker["state"] for worker in status["workers"]))


# --- the answer


def _answer(
    name: str, summary: Mapping[str, Any], rows: Sequence[results.Row]
) -> dict[str, Any] | None:
    """What the first screen says; None while no trial is complete."""
    best, student, teacher = summary["best"], summary["student"], summary["teacher"]
    if best is None:
        return None
    images = (summary["rows"] or {}).get("validation")
    interval = _interval(best["accuracy"], images)
    ranked = results.answers(rows)
    contenders = None
    if interval is not None:
        inside = [row for row in ranked if (row.accuracy or 0.0) >= interval["low"]]
        contenders = [row.number for row in inside]
    return {
        "trial": best["number"],
        "parameters": best["parameters"],
        "seed": best["seed"],
        "accuracy": best["accuracy"],
        "interval": interval,
        "teacher_accuracy": teacher["accuracy"],
        "teacher_interval": _interval(teacher["accuracy"], images),
        "latency": {
            engine: _latency(teacher["latency"].get(engine), student["latency"].get(engine))
            for engine in ("onnxruntime", "pytorch")
        },
        "parameters_count": _pair(teacher["parameters"], student["parameters"]),
        "macs": _pair(teacher["macs"], student["macs"]),
        "compression": student["compression"],
        "complete": len(ranked),
        "contenders": contenders,
        # the highest of one is not chosen
        "flattery": FLATTERY.format(count=len(ranked), study=name) if len(ranked) > 1 else None,
        "commands": [f"igkd export {name} -o best.toml", "igkd train best.toml -o final/"],
    }


def _interval(accuracy: float | None, images: int | None) -> dict[str, Any] | None:
    """Wilson's 95 % interval of an accuracy counted on so many images."""
    if accuracy is None or not images or not 0 <= accuracy <= 1:
        return None
    low, high = uncertainty.of_accuracy(accuracy, images)
    return {"low": low, "high": high, "level": 0.95, "method": "wilson", "images": images}


def _latency(
    teacher: Mapping[str, Any] | None, student: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Milliseconds of both and how many times faster the student is; None where not measured."""
    if teacher is None or student is None:
        return None
    ratio = teacher["median_ms"] / student["median_ms"]
    return {"teacher": dict(teacher), "student": dict(student), "ratio": ratio}


def _pair(teacher: int | None, student: int | None) -> dict[str, Any]:
    ratio = teacher / student if teacher and student else None
    return {"teacher": teacher, "student": student, "ratio": ratio}


def _timings(
    base: database.Database, name: str, best: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What `igkd latency` has kept, where it is of the student that wins now."""
    found = latency_table.kept(base, name)
    if found is None or best is None:
        return None
    return found if found["architecture"] == best["attributes"].get("architecture") else None


# --- the trials


def _trial(row: results.Row) -> dict[str, Any]:
    """A row without what only this program reads."""
    plain = row.as_dict()
    attributes = plain.pop("attributes")
    kept = ("latency_ms", "architecture", "device", "images_per_s", "calibration_error")
    return plain | {name: attributes.get(name) for name in kept}


def _curves(
    study: optuna.Study,
    rows: Sequence[results.Row],
    question: Mapping[str, Any],
    best: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Accuracy by epoch of the winner and of others drawn by a fixed seed, in order."""
    reported = {
        trial.number: trial.intermediate_values
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values
    }
    others = sorted(reported.keys() - ({best["number"]} if best else set()))
    if len(others) > MOST_CURVES:
        others = sorted(random.Random(0).sample(others, MOST_CURVES))
    first = [best["number"]] if best and best["number"] in reported else []
    return {
        "epochs": question["trial"]["epochs"],
        "of": len(reported),
        "trials": [
            {
                "trial": number,
                "state": rows[number].state,
                "epochs": sorted(reported[number]),
                "accuracy": [reported[number][epoch] for epoch in sorted(reported[number])],
            }
            for number in first + others
        ],
    }


def _students(rows: Sequence[results.Row], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most accurate trial of each architecture that has one, the largest student first."""
    table, best = facts.get("latency", {}), dict[str, results.Row]()
    for row in results.answers(rows):
        name = str(row.attributes.get("architecture"))
        if name in table:
            best.setdefault(name, row)
    teacher = table.get("teacher", {}).get("parameters")
    found = [
        {
            "architecture": name,
            "trial": row.number,
            "accuracy": row.accuracy,
            "parameters": table[name]["parameters"],
            "macs": table[name].get("macs"),
            "latency_ms": row.attributes.get("latency_ms"),
            "compression": teacher / table[name]["parameters"] if teacher else None,
        }
        for name, row in best.items()
    ]
    return sorted(found, key=lambda each: -each["parameters"])


def _paper() -> dict[str, Any]:
    return {
        "source": paper.SOURCE,
        "set": "CIFAR-10, test",
        "teacher": {"accuracy": paper.TEACHER_ACCURACY, "parameters": paper.TEACHER_PARAMETERS},
        "choice": paper.CHOICE,
        "students": [
            {**vars(student), "compression": student.compression} for student in paper.STUDENTS
        ],
        "arms": [vars(arm) for arm in paper.ARMS],
        "arms_of_removed_blocks": paper.MEASURED.removed_blocks,
    }


def _failure(row: results.Row) -> dict[str, Any]:
    named = {"trial": row.number, "cause": row.cause or "told from outside", "reason": row.reason}
    return named | {"attempts": row.attempts, "epochs": row.epochs, "parameters": row.parameters}


def _overlay(row: results.Row, question: Mapping[str, Any]) -> dict[str, Any]:
    names = ("overlay_probability", "overlay_strength")
    return {name: row.parameters.get(name, question["trial"].get(name)) for name in names}


# --- what it took, and where it comes from


def _spent(
    base: database.Database,
    name: str,
    rows: Sequence[results.Row],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """Epochs, seconds and who spent them; `hosts` with the attempts and the seconds of each."""
    hosts: dict[str, dict[str, Any]] = defaultdict(lambda: {"attempts": 0, "seconds": 0.0})
    made = slots.Slots(base, name).attempts()
    for attempt in made:
        hosts[attempt.host]["attempts"] += 1
        if attempt.ended is not None:
            hosts[attempt.host]["seconds"] += attempt.ended - attempt.started
    epochs = summary["epochs"]
    saved = epochs["without_pruning"] - epochs["trained"]
    return {
        "epochs": epochs | {"saved": saved},
        "seconds": summary["seconds"],
        "proposed_by": summary["proposed_by"],
        "hosts": [{"host": host, **hosts[host]} for host in sorted(hosts)],
        "workers": len({attempt.worker for attempt in made}),
        "deaths": sum(attempt.end == "died" for attempt in made),
        "devices": dict(Counter(filter(None, (row.attributes.get("device") for row in rows)))),
    }


def _provenance(
    base: database.Database,
    record: database.StudyRow,
    reader: progress.Reader,
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    question, facts = record.question, record.facts
    register = workers.rows(base, record.name, reader.slots.identity)
    best = summary["best"]
    return {
        "igkd_search": __version__,
        "created": record.created,
        "question": question,
        "question_toml": study_file.as_toml(question),
        "fingerprints": facts.get("fingerprints", {}),
        "versions": register[-1].versions if register else {},
        "machine": facts.get("machine"),
        "rows": facts.get("rows"),
        "materials": {
            name: facts.get(name) for name in ("targets", "map_fidelity", "completeness_gap")
        },
        "seeds": {
            "study": question["search"].get("seed"),
            "data": question.get("data", {}).get("seed"),
            "teacher": question.get("teacher", {}).get("seed"),
            "best_trial": None if best is None else best["seed"],
        },
    }
