"""What commands are told and what it stands for: options, then question, home folder, database.

The option types are shared, so that an option reads the same wherever it stands. Heavy modules are
imported inside the functions, as in `cli`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from igkd_search import console
from igkd_search.errors import StorageError

if TYPE_CHECKING:
    from igkd_search import database, spec

    AnyRun = TypeVar("AnyRun", bound=spec.Run)

log = logging.getLogger(__name__)


class Format(StrEnum):
    """How a listing is printed."""

    table = "table"
    json = "json"


StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A study file, a shipped study, or one in the storage."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar=["IGKD_STORAGE", "OPTUNA_STORAGE"],
        help="Database URL.  [default: sqlite:///<home>/igkd.db]",
        show_envvar=True,
    ),
]
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="IGKD_HOME", help="Where everything is kept.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="IGKD_DATA", help="Folder of arrays or images, in place of data.path."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        # devices.choose reads the variable, and so can say which of the two is wrong
        help="Where to compute: cuda, cuda:1, mps or cpu.  [env var: IGKD_DEVICE]  "
        "[default: the best there is]",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print.")]
TrialsOption = Annotated[int | None, typer.Option("--trials", min=1, help="Set the budget.")]
HOME = Path("storage")


def question_of(study: str, storage: str | None, home: Path, data: Path | None) -> spec.Study:
    """The study that STUDY means, its data where --data says; StudyError when there is none."""
    from igkd_search import registry

    in_storage = not (study.endswith(".toml") or study in registry.shipped_studies())
    base = open_if_there(storage, home) if in_storage else None
    return located(registry.find(study, base), data)


def located(question: AnyRun, data: Path | None) -> AnyRun:
    """The same question with its data in another folder."""
    if data is None:
        return question
    if question.data.source not in ("arrays", "folder"):
        # IGKD_DATA may be set for another study
        log.warning("--data is not used: source = '%s' has no folder", question.data.source)
        return question
    moved = question.data.model_copy(update={"path": str(data.absolute())})
    return question.model_copy(update={"data": moved})


def check_home(home: Path) -> None:
    """StorageError unless things can be written there; makes nothing."""
    places = [home.absolute(), *home.absolute().parents]
    # os.path, since Path.exists raises below a folder that may not be searched
    standing = next(path for path in places if os.path.exists(path))
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        why = "is not writable" if standing.is_dir() else "is not a folder"
        raise StorageError(
            f"{home}: cannot be used as home, since {standing} {why}; choose another with "
            "--home or IGKD_HOME"
        )


def _url(storage: str | None, home: Path) -> str:
    return storage or f"sqlite:///{home / 'igkd.db'}"


def open_storage(storage: str | None, home: Path, read_only: bool = False) -> database.Database:
    """The database that --storage and --home mean, made where it is missing unless `read_only`."""
    from igkd_search import database

    return database.connect(_url(storage, home), read_only=read_only)


def open_if_there(storage: str | None, home: Path) -> database.Database | None:
    """The same to read only; None when nobody has made it yet."""
    from igkd_search import database

    return database.connect_if_there(_url(storage, home))


def show(found: Any, format: Format, as_table: Callable[[Any], None]) -> None:
    """Print what was found as JSON, or as the table that a function of `tables` prints."""
    if format is Format.json:
        console.print_json(found)
    else:
        as_table(found)
