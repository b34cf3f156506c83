"""A study or exported file looked at whole, before anything is started: all that is wrong with it.

First what its text says, in a blink. Then, when that is well, what only torch knows (networks,
their blocks, a teacher's file) and what only the data know. Nothing is written or downloaded.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from igkd_search import spec, study_file, toml_lines
from igkd_search.errors import DataError, IgkdError, StudyError
from igkd_search.study_file import Fault


def examine(file: Path, home: Path, data: bool = True) -> tuple[spec.Run | None, list[Fault]]:
    """What a file says, and every fault of it in order of lines.

    Without `data` only its text is looked at. StudyError when it cannot be read.
    """
    text = study_file.read_text(file)
    try:
        plain = study_file.parsed(text, file)
    except StudyError as error:
        return None, [_of_syntax(text, file, error)]
    known = study_file.with_lines(text, file)
    model = spec.Exported if {"schema_version", "provenance"} & set(plain) else spec.Study
    found: spec.Run | list[Fault] = study_file.faults(model, plain, known)
    if isinstance(found, list):
        return None, sorted(found, key=lambda fault: fault.line or 0)
    run = study_file.with_paths(found, file)
    lines = None if known is None else toml_lines.lines_of(known)
    return run, _of_things(run, home, lines) if data else []


def _of_syntax(text: str, file: Path, error: StudyError) -> Fault:
    """Where a file is no TOML or JSON at all."""
    cause = error.__cause__
    if isinstance(cause, tomllib.TOMLDecodeError):
        return _of_toml(text, cause)
    line = cause.lineno if isinstance(cause, json.JSONDecodeError) else None
    return Fault(line, "", str(error).removeprefix(f"{file}: "))


def _of_toml(text: str, error: tomllib.TOMLDecodeError) -> Fault:
    """Where TOML itself is wrong; the parser says it in its message."""
    message, _, place = str(error).partition(" (at ")
    words = place.rstrip(")").replace(",", "").split()
    at_end = "line" not in words
    line = len(text.splitlines()) if at_end else int(words[words.index("line") + 1])
    column = "" if at_end else f" in column {words[words.index('column') + 1]}"
    return Fault(max(line, 1), "", f"not valid TOML: {message[:1].lower()}{message[1:]}{column}")


def _of_things(run: spec.Run, home: Path, lines: dict[toml_lines.Place, int] | None) -> list[Fault]:
    """What is wrong with networks, files and data; each of them is looked at."""
    from igkd_search import datasets, materials

    def look_at_data() -> None:
        if run.data.source in datasets.CACHED:
            datasets.check(run.data, home)
        else:
            materials.check_images(run, datasets.load(run.data, home))

    looks: tuple[Callable[[], None], ...] = (lambda: materials.check(run), look_at_data)
    faults: list[Fault] = []
    for look in looks:
        try:
            look()
        except IgkdError as error:
            message = str(error)
            place = _place_of(run, error, message)
            line = toml_lines.nearest_line(lines, place) if place and lines is not None else None
            fault = Fault(line, ".".join(map(str, place)), message)
            if fault not in faults:
                faults.append(fault)
    return faults


def _place_of(run: spec.Run, error: IgkdError, message: str) -> toml_lines.Place:
    """What a fault of a thing is about, as far as can be told."""
    if place := study_file.place_in(message):
        return place
    if message.startswith("removed_blocks = "):
        return ("trial", "removed_blocks")
    if not isinstance(error, DataError):
        return ()
    return ("data",) if run.data.path is None else ("data", "path")


def in_words(run: spec.Run) -> str:
    """What a file that is well asks, in one line."""
    if not isinstance(run, spec.Study):
        return f"trains {run.students()[0].name} for {run.trial.epochs} epochs"
    search, students = run.search, [each.name for each in run.students()]
    shown = ", ".join(students[:3]) + (f" and {len(students) - 3} more" if students[3:] else "")
    bounds = spec.bounds_in_words(search.model_dump())
    return (
        f"study '{run.name}' asks {search.trials} trials of {run.trial.epochs} epochs "
        f"({search.sampler}, {search.pruner}) over {', '.join(search.space)}; "
        f"student{'s' if students[1:] else ''}: {shown}" + (f"; {bounds}" if bounds else "")
    )
