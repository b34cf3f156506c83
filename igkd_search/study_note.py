"""A study in words: its question, what has been found, and what to type next, as Markdown.

The dashboard shows it as the note of the study. It is made from the database when it is read, so
it is never behind the search and costs the workers nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from igkd_search import amounts, database, spec, uncertainty
from igkd_search.code_spans import code

_ENGINES = {"onnxruntime": "ONNX Runtime", "pytorch": "PyTorch"}
_NAMES = {
    "data": "images and labels",
    "teacher": "teacher's weights",
    "targets": "soft targets",
    "overlays": "attribution maps",
}
_DIGITS = 16
"""How much of a fingerprint is shown: enough to tell two apart, as folders of the vault do."""


def markdown(summary: Mapping[str, Any], record: database.StudyRow) -> str:
    """The note of a study, from `results.summary` and its row in the database.

    Whatever users chose stands in code spans, where Markdown and HTML mean nothing.
    """
    parts = [
        _found(summary),
        _cost(summary),
        "### Question",
        _table(("", ""), _question(summary, record)),
        "### Materials",
        _table(("what all trials share", "fingerprint"), _materials(record.facts)),
        "### What to type",
        _commands(record.name, summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _found(summary: Mapping[str, Any]) -> str:
    trials, best = summary["trials"], summary["best"]
    states = ("complete", "pruned", "failed", "running", "waiting")
    counted = [f"{trials[state]} {state}" for state in states if trials.get(state)]
    spent = f"{', '.join(counted) or 'no trial has begun'}, of a budget of {trials['budget']}."
    if best is None:
        return f"**No trial has completed yet**: {spent}"
    said = [f"**Best so far: {best['accuracy']:.1%}** of the validation images"]
    count = (summary["rows"] or {}).get("validation")
    if count:
        low, high = uncertainty.of_accuracy(best["accuracy"], count)
        said.append(f" ({count:,}, so {low:.1%} to {high:.1%} at 95 %)")
    said.append(f", trial {best['number']} with {_point(best['parameters'])}. {spent}")
    said.append(" The best of many trials flatters itself: the test set says how good it is.")
    return "".join(said)


def _point(parameters: Mapping[str, Any]) -> str:
    shown = (f"{name} = {amounts.value(value)}" for name, value in parameters.items())
    return ", ".join(code(each) for each in shown) or "nothing that varies"


def _cost(summary: Mapping[str, Any]) -> str:
    """Teacher and student side by side; nothing before there is a teacher."""
    teacher, student = summary["teacher"], summary["student"] or {}
    rows = [("validation accuracy", *_pair(teacher, student, "accuracy", "{:.1%}"), "")]
    for engine, label in _ENGINES.items():
        theirs, ours = ((side.get("latency") or {}).get(engine, {}) for side in (teacher, student))
        rows.append(_ratio(f"latency, {label} (ms)", theirs, ours, "median_ms", "{:.3g}"))
    rows.append(_ratio("parameters", teacher, student, "parameters", "M"))
    rows.append(_ratio("MACs", teacher, student, "macs", "M"))
    known = [row for row in rows if any(row[1:])]
    return _table(("", "teacher", "best student", "ratio"), known) if known else ""


def _pair(
    teacher: Mapping[str, Any], student: Mapping[str, Any], key: str, form: str
) -> tuple[str, str]:
    values = (teacher.get(key), student.get(key))
    first, second = ("" if value is None else _formed(value, form) for value in values)
    return first, second


def _formed(value: float, form: str) -> str:
    """Large counts in millions, or a narrow screen cannot hold teacher and student."""
    return f"{value / 1e6:.2f} M" if form == "M" else form.format(value)


def _ratio(
    label: str, teacher: Mapping[str, Any], student: Mapping[str, Any], key: str, form: str
) -> tuple[str, str, str, str]:
    ours, theirs = student.get(key), teacher.get(key)
    ratio = f"{theirs / ours:.2f}x" if ours and theirs else ""
    return (label, *_pair(teacher, student, key, form), ratio)


def _question(summary: Mapping[str, Any], record: database.StudyRow) -> Iterable[tuple[str, str]]:
    asked, rows = record.question, summary["rows"] or {}
    data, teacher, trial, search = (asked[key] for key in ("data", "teacher", "trial", "search"))
    images = f", {rows['fit']:,} to train on and {rows['validation']:,} to validate" if rows else ""
    classes = f", {rows['classes']} classes" if rows else ""
    place = f" in {code(data['path'])}" if data.get("path") else ""
    yield "data", f"{code(data['source'])}{place}{images}{classes}"
    trained = "read from a file" if teacher.get("checkpoint") else f"{teacher['epochs']} epochs"
    yield "teacher", f"{code(teacher['architecture'])}, {trained}"
    network = trial.get("architecture") or teacher["architecture"]
    sides = f", at {trial['resolution']} pixels a side" if trial.get("resolution") else ""
    yield "student", f"{code(network)} without its last {trial['removed_blocks']} blocks{sides}"
    overlays = asked["overlays"]
    control = "" if overlays["control"] == "none" else f", control {code(overlays['control'])}"
    yield "overlays", f"Integrated Gradients, {overlays['steps']} steps{control}"
    yield "sought", _sought(search)
    method = f"sampler {code(search['sampler'])}, pruner {code(search['pruner'])}"
    yield "how", f"{record.trials} trials of {trial['epochs']} epochs, {method}"
    yield "varied", ", ".join(_range(name, plain) for name, plain in search["space"].items())


def _range(name: str, plain: Mapping[str, Any]) -> str:
    found = spec.Range.model_validate(plain)
    return f"{code(name)} {code(found)}{' (log)' if found.log else ''}"


def _sought(search: Mapping[str, Any]) -> str:
    if len(search["objectives"]) > 1:
        sought = "the best trade-offs of validation accuracy and latency"
    else:
        sought = "the highest validation accuracy after the last epoch"
    bounds = spec.bounds_in_words(search)
    return f"{sought}, {bounds}" if bounds else sought


def _materials(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    prints = facts.get("fingerprints", {})
    return [(_NAMES.get(name, code(name)), code(prints[name][:_DIGITS])) for name in prints]


def _commands(name: str, summary: Mapping[str, Any]) -> str:
    """A study's name holds letters, digits and ._- only, so it is one word to a shell."""
    lines = [
        (f"igkd status {name}", "who is at work, how long it takes"),
        (f"igkd run {name} --trials N", "go on, with another budget"),
    ]
    if summary["best"] is not None:
        lines += [
            (f"igkd export {name} -o best.toml", "the winner as a complete file"),
            ("igkd train best.toml -o final/", "the final student; reads the test set once"),
        ]
    # no block of code, which a narrow screen cannot break
    return "\n".join(f"- {code(command)}: {why}" for command, why in lines)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown; nothing without rows."""
    lines = [_row(row) for row in rows]
    rule = "| " + " | ".join("---" for _ in head) + " |"
    return "\n".join([_row(head), rule, *lines]) if lines else ""


def _row(cells: tuple[str, ...]) -> str:
    # a table ends a cell at a bar even within a code span
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
