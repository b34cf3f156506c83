"""Study and exported files: TOML read into the models of `spec`, every fault said in one message.

A fault names its line and place in the file, what was found, what is allowed, and the nearest legal
name.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import tomlkit
from pydantic import BaseModel

from igkd_search import spec, strategies, toml_lines
from igkd_search.errors import StudyError

Model = TypeVar("Model", bound=BaseModel)
AnyRun = TypeVar("AnyRun", bound=spec.Run)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file; `line` is from 1, and None where no line says it."""

    line: int | None
    place: str
    """Its key path, such as search.start[0].temperature; empty where there is none."""
    message: str
    """What was found and what is allowed, which begins with the place where there is one."""

    def __str__(self) -> str:
        """As it stands in an error."""
        return self.message if self.line is None else f"line {self.line}: {self.message}"


def read_text(path: Path) -> str:
    """The text of a file; StudyError when it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin files with a mark
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from error


def read_plain(path: Path) -> dict[str, Any]:
    """A file as a dict; StudyError when it is missing, unreadable or not what its name says."""
    return parsed(read_text(path), path)


def parsed(text: str, path: Path) -> dict[str, Any]:
    """The text of a file as a dict: JSON where its name ends so, else TOML; StudyError if not."""
    try:
        found = json.loads(text) if _is_json(path) else tomllib.loads(text)
    except ValueError as error:  # both parsers'
        kind = "JSON" if _is_json(path) else "TOML"
        raise StudyError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path}: must be a JSON object, with the keys of a file of igkd export")
    return found


def with_lines(text: str, path: Path) -> str | None:
    """The text whose lines faults name; None for JSON, whose lines are not known."""
    return None if _is_json(path) else text


def _is_json(path: Path) -> bool:
    return path.suffix == ".json"


def read_study(path: Path) -> spec.Study:
    """The study in a file; StudyError names every fault of it, each with its line and place."""
    return _read(spec.Study, path)


def read_exported(path: Path) -> spec.Exported:
    """The configuration in a file that `igkd export` wrote; checked like a study file."""
    return _read(spec.Exported, path)


def read_to_train(path: Path, retrain_teacher: bool = False) -> spec.Exported:
    """The same with its teacher: the file beside it, or its recipe where that is asked for.

    StudyError when it is not there, or the recipe is not known.
    """
    exported = read_exported(path)
    if retrain_teacher:
        return _with_its_recipe(exported, path)
    place = exported.teacher.checkpoint
    if place is not None and not Path(place).is_file():
        advice = "put it back there (it lies beside the file that igkd export wrote)"
        if exported.provenance.teacher_trained:
            advice += ", or type --retrain-teacher to have it trained again by [teacher]"
        raise StudyError(f"{path}: teacher.checkpoint: {place}: no such file; {advice}")
    return exported


def _with_its_recipe(exported: spec.Exported, path: Path) -> spec.Exported:
    if not exported.provenance.teacher_trained:
        raise StudyError(
            f"{path}: --retrain-teacher: the teacher was read from a file, so [teacher] does not "
            f"say how it is trained; give {exported.teacher.checkpoint}"
        )
    recipe = {"checkpoint": None, "checkpoint_sha256": None}
    return exported.model_copy(update={"teacher": exported.teacher.model_copy(update=recipe)})


def _read(model: type[AnyRun], path: Path) -> AnyRun:
    text = read_text(path)
    found = check(model, parsed(text, path), str(path), with_lines(text, path))
    return with_paths(found, path)


def as_toml(plain: Mapping[str, Any]) -> str:
    """A plain dict as TOML, which has no null: absent means the default."""
    return tomlkit.dumps(_without_null(plain))


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_null(each) for each in value if each is not None]
    return value


def with_paths(run: AnyRun, path: Path) -> AnyRun:
    """The same with its folders and files as whole paths, of which some are beside the file."""
    data, teacher = run.data, run.teacher
    if data.path is not None:
        data = data.model_copy(update={"path": str(Path(data.path).expanduser().absolute())})
    if teacher.checkpoint is not None:
        # it lies beside the file that names it, wherever the command is typed
        found = str((path.parent / teacher.checkpoint).absolute())
        teacher = teacher.model_copy(update={"checkpoint": found})
    return run.model_copy(update={"data": data, "teacher": teacher})


def check(
    model: type[Model], plain: Mapping[str, Any], where: str, text: str | None = None
) -> Model:
    """Validate a plain dict; StudyError lists all its faults, with the nearest legal names.

    `text` is the file that it was read from, whose lines are named then.
    """
    found = faults(model, plain, text)
    if isinstance(found, list):
        if len(found) == 1:
            raise StudyError(f"{where}: {found[0]}") from None
        listed = "".join(f"\n  {fault}" for fault in found)
        raise StudyError(f"{where}: {len(found)} faults{listed}") from None
    return found


def faults(
    model: type[Model], plain: Mapping[str, Any], text: str | None = None
) -> Model | list[Fault]:
    """What a plain dict says as this model, or every fault of it; as `check`."""
    try:
        return model.model_validate(plain)
    except pydantic.ValidationError as error:
        lines = None if text is None else toml_lines.lines_of(text)
        return [
            _fault(item["loc"], message, lines)
            for item in error.errors()
            for message in _explain(model, plain, dict(item)).split("\n")
        ]


def _fault(
    place: tuple[int | str, ...], message: str, lines: Mapping[toml_lines.Place, int] | None
) -> Fault:
    """A fault at a place of the model; without one its message begins with the place."""
    named = tuple(part for part in place if part not in _NOT_A_KEY) or place_in(message)
    line = None if lines is None else toml_lines.nearest_line(lines, named)
    return Fault(line, _path(named), message)


def place_in(message: str) -> toml_lines.Place:
    """The key path that a message begins with, when it is one of a file."""
    found = re.match(r"([a-z_]+)((?:\.\w+|\[\d+\])*)", message)
    if found is None or found[1] not in {*spec.Study.model_fields, *spec.Exported.model_fields}:
        return ()
    parts = re.findall(r"\.(\w+)|\[(\d+)\]", found[2])
    return (found[1], *(key or int(position) for key, position in parts))


def _path(place: toml_lines.Place) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, place)))


_NOT_A_KEY = ("float", "int", "bool", "str", "[key]")  # what pydantic adds to a place


def _explain(model: type[BaseModel], plain: Any, item: dict[str, Any]) -> str:
    place = tuple(part for part in item["loc"] if part not in _NOT_A_KEY)
    path = _path(place)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        legal = sorted(_fields_at(model, plain, place[:-1]))
        near = spec.nearest(str(place[-1]), legal)
        return f"{path}: unknown key{near}; allowed: {', '.join(legal) or 'nothing'}"
    if item["type"] == "literal_error":
        legal = [str(name) for name in get_args(_annotation_at(model, plain, place))]
        near = spec.nearest(str(item["input"]), legal)
        return f"{path}: unknown value {item['input']!r}{near}; allowed: {', '.join(legal)}"
    if item["type"] == "missing":
        return f"{path}: missing; it must be given"
    if item["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path} = {item['input']!r}: {message[:1].lower()}{message[1:]}"


def _annotation_at(model: type[BaseModel], plain: Any, place: tuple[Any, ...]) -> Any:
    """What may stand at a place; that of options depends on the name which is given beside them."""
    found: Any = model
    for part in place:
        if isinstance(found, type) and issubclass(found, BaseModel):
            if part in strategies.CHOOSERS:
                found = strategies.model_of(part, plain)
            else:
                fields = {
                    field.alias or name: field.annotation
                    for name, field in found.model_fields.items()
                }
                found = fields.get(str(part))
        else:  # dict[str, X] or list[X]
            found = get_args(found)[-1] if get_args(found) else None
        plain = plain.get(part, {}) if isinstance(plain, Mapping) else {}
    return found


def _fields_at(model: type[BaseModel], plain: Any, place: tuple[Any, ...]) -> list[str]:
    found = _annotation_at(model, plain, place)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        return []
    return [field.alias or name for name, field in found.model_fields.items()]
