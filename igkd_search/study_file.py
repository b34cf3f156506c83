"""Study and exported files: TOML read into the models of `spec`, every fault said in one message.

A fault names its place in the file, what was found, what is allowed, and the nearest legal name.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
from pydantic import BaseModel

from igkd_search import spec, strategies
from igkd_search.errors import StudyError

Model = TypeVar("Model", bound=BaseModel)
AnyRun = TypeVar("AnyRun", bound=spec.Run)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict; StudyError when it is missing, unreadable or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: not valid TOML: {error}") from error


def read_study(path: Path) -> spec.Study:
    """The study in a file; StudyError names every fault of it, each with its place."""
    return _with_paths(check(spec.Study, read_toml(path), str(path)), path)


def read_exported(path: Path) -> spec.Exported:
    """The configuration in a file that `igkd export` wrote; checked like a study file."""
    return _with_paths(check(spec.Exported, read_toml(path), str(path)), path)


def _with_paths(run: AnyRun, path: Path) -> AnyRun:
    data, teacher = run.data, run.teacher
    if data.path is not None:
        data = data.model_copy(update={"path": str(Path(data.path).expanduser().absolute())})
    if teacher.checkpoint is not None:
        # it lies beside the file that names it, wherever the command is typed
        found = str((path.parent / teacher.checkpoint).absolute())
        teacher = teacher.model_copy(update={"checkpoint": found})
    return run.model_copy(update={"data": data, "teacher": teacher})


def check(model: type[Model], plain: Mapping[str, Any], where: str) -> Model:
    """Validate a plain dict; StudyError lists all its faults, with the nearest legal names."""
    try:
        return model.model_validate(plain)
    except pydantic.ValidationError as error:
        faults = [
            line
            for item in error.errors()
            for line in _explain(model, plain, dict(item)).split("\n")
        ]
        if len(faults) == 1:
            raise StudyError(f"{where}: {faults[0]}") from None
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise StudyError(f"{where}: {len(faults)} faults{listed}") from None


_NOT_A_KEY = ("float", "int", "bool", "str", "[key]")  # what pydantic adds to a place


def _explain(model: type[BaseModel], plain: Any, item: dict[str, Any]) -> str:
    place = tuple(part for part in item["loc"] if part not in _NOT_A_KEY)
    path = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, place)))
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
