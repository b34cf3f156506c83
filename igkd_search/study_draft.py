"""A study file begun for somebody: what is asked, what own data say, and what is written.

What it writes is checked before it is written, so nobody begins with a file that is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from igkd_search import files, spec, study_file, study_template
from igkd_search.errors import DataError, StorageError, StudyError

OWN = ("arrays", "folder")
"""The sources that need a path."""
_LOOKED_AT = 20  # images of a folder, whose sizes stand for those of all


@dataclass(frozen=True)
class Draft:
    """The text of a study file, and what was found out for it, in words by name."""

    text: str
    found: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """One thing to ask: `read` makes a value of an answer, or StudyError says what is allowed."""

    key: str
    text: str
    default: Callable[[Mapping[str, Any]], str | None]
    read: Callable[[str], Any]
    applies: Callable[[Mapping[str, Any]], bool] = lambda answers: True
    hint: str = ""


def questions() -> list[Question]:
    """What is asked, in order; later ones see the earlier answers."""

    def of_recipe(*keys: str) -> Callable[[Mapping[str, Any]], str]:
        def default(answers: Mapping[str, Any]) -> str:
            found: Any = study_template.recipe_of(answers["source"])
            for key in keys:
                found = found[key]
            return str(found)

        return default

    sources = ", ".join(get_args(spec.Source))
    return [
        Question("source", "source", _always("digits"), _source, hint=f"sources: {sources}"),
        Question("path", "folder of the images", _always(None), _folder, _needs_path),
        Question("teacher", "teacher", _always("mobilenet_v2"), _architecture),
        Question("removed_blocks", "last blocks that the student lacks", _always("5"), _whole(0)),
        Question("trials", "trials", of_recipe("trials"), _whole(1)),
        Question("epochs", "epochs of a trial", of_recipe("trial", "epochs"), _whole(1)),
    ]


def _always(answer: str | None) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda answers: answer


def _needs_path(answers: Mapping[str, Any]) -> bool:
    return answers["source"] in OWN


def _source(answer: str) -> str:
    legal = get_args(spec.Source)
    if answer not in legal:
        near = spec.nearest(answer, legal)
        raise StudyError(f"unknown source {answer!r}{near}; allowed: {', '.join(legal)}")
    return answer


def _folder(answer: str) -> Path:
    if not Path(answer).expanduser().is_dir():
        raise StudyError(f"{answer}: no such folder")
    return Path(answer)


def _architecture(answer: str) -> str:
    found = study_file.faults(spec.Teacher, {"architecture": answer})
    if isinstance(found, list):
        raise StudyError(found[0].message)
    return answer


def _whole(least: int) -> Callable[[str], int]:
    def read(answer: str) -> int:
        if not answer.strip().isdecimal() or int(answer) < least:
            raise StudyError(f"{answer!r}: must be a whole number of {least} or more")
        return int(answer)

    return read


def check_name(name: str) -> None:
    """StudyError unless a study may be called so."""
    plain = {"name": name, "search": {"space": {"kd_weight": {"low": 0.0, "high": 1.0}}}}
    study_file.check(spec.Study, plain, "NAME")


def draft(
    name: str,
    *,
    source: str,
    path: Path | None,
    teacher: str | None,
    removed_blocks: int | None,
    trials: int | None,
    epochs: int | None,
    sampler: str,
    pruner: str,
) -> Draft:
    """The study file for these answers, of which None means what suits the source.

    StudyError when they do not go together, DataError when own data are no data.
    """
    _source(source)
    _architecture(teacher or "mobilenet_v2")
    if (path is None) == (source in OWN):
        what = "needs --path FOLDER" if path is None else "takes no --path"
        raise StudyError(f"--source {source}: {what}")
    facts = {} if path is None else _facts(source, path)
    teacher = teacher or "mobilenet_v2"
    text = study_template.text(
        name,
        source,
        path=None if path is None else str(path),
        teacher=teacher,
        removed_blocks=_removed(teacher, removed_blocks),
        trials=trials,
        epochs=epochs,
        sampler=sampler,
        pruner=pruner,
        **facts,
    )
    study_file.check(spec.Study, tomllib.loads(text), f"study '{name}'")
    words = {"classes": "classes", "images": "training images", "image_size": "image size"}
    return Draft(text, {words[key]: f"{value:,}" for key, value in facts.items()})


def _removed(teacher: str, asked: int | None) -> int:
    """How many blocks the student lacks: as asked, else as in the paper, else as many as can be."""
    if teacher == "mobilenet_v2" and asked is None:
        return 5
    # only now, for it imports torch
    from igkd_search import models

    for count in range(5, -1, -1) if asked is None else [asked]:
        try:
            models.check_removed_blocks(spec.Architecture(teacher, count, 1.0))
        except StudyError:
            if asked is not None or count == 0:
                raise
        else:
            return count
    raise AssertionError("0 blocks can be removed of every network")


def _facts(source: str, path: Path) -> dict[str, int]:
    """Classes, training images and size of own data, in the words of study_template.text."""
    if not path.expanduser().exists():
        raise DataError(f"--path {path}: no such folder")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"--path {path!r}: a study file is UTF-8, which this name is not") from None
    return _of_arrays(path) if source == "arrays" else _of_folder(path)


def _of_arrays(path: Path) -> dict[str, int]:
    from igkd_search import arrays, vault
    from igkd_search.sources import Place

    place = Place(str(path), Path(), vault.Vault(Path()), spec.IMAGE_SIZE)
    _, labels = arrays.arrays("train")(place)
    arrays.check_test_arrays(place)
    return {"classes": int(labels.max()) + 1, "images": len(labels)}


def _of_folder(path: Path) -> dict[str, int]:
    from igkd_search import image_folder

    training = image_folder.list_parts(str(path)).training
    step = max(len(training.names) // _LOOKED_AT, 1)
    size = _side([training.root / name for name in training.names[::step]])
    return {"classes": len(training.class_names), "images": len(training.names), "image_size": size}


def _side(images: list[Path]) -> int:
    """A side that suits these images: the middle one of theirs, as a power of 2 from 8 to 64."""
    from statistics import median_low

    from PIL import Image, UnidentifiedImageError

    sides = []
    for image in images:
        try:
            with Image.open(image) as opened:
                sides.append(min(opened.size))
        except (OSError, UnidentifiedImageError):
            continue  # igkd validate lists what is no image
    side = median_low(sides) if sides else spec.IMAGE_SIZE
    return next((size for size in (64, 32, 16) if side >= size), 8)


def write(target: Path, draft: Draft) -> None:
    """Write it whole or not at all; StorageError when that is not possible."""
    with StorageError.when_writing(target):
        files.replace(target, draft.text.encode())
