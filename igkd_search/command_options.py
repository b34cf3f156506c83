"""What commands are told and what it stands for: options, then question, home folder, database.

The option types are shared, so that an option reads the same wherever it stands. Heavy modules are
imported inside the functions, as in `cli`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from igkd_search import completion, console, files
from igkd_search.crew import Launcher, Order
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
    typer.Argument(
        metavar="STUDY",
        help="A study file, a shipped study, or one in the storage.",
        autocompletion=completion.studies,
    ),
]


def _warn_of_password(context: typer.Context, typed: str | None) -> str | None:
    # the callback of --storage: only here is it known that it came by the command line
    source = context.get_parameter_source("storage")
    by_command_line = source is not None and source.name == "COMMANDLINE"
    told = typed is not None and not context.resilient_parsing  # and not only being completed
    if told and by_command_line and holds_password(str(typed)):
        console.print_note(
            "warning: --storage: every user of this machine can read a command's password "
            "(ps); type --storage-file FILE, or set IGKD_STORAGE or PGPASSFILE",
            logging.WARNING,
        )
    return typed


StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        "--storage-file",
        envvar=["IGKD_STORAGE", "IGKD_STORAGE_FILE", "OPTUNA_STORAGE"],
        metavar="URL|FILE",
        callback=_warn_of_password,
        help="Database URL, or a file that holds it.  [default: sqlite:///<home>/igkd.db]",
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
        autocompletion=completion.devices,
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print.")]
TrialsOption = Annotated[int | None, typer.Option("--trials", min=1, help="Set the budget.")]
GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="NAMES|N",
        help="A worker on each of 0,1 (or UUIDs, MIG names, all); on N of a cluster.",
    ),
]
WorkersPerGpuOption = Annotated[
    int | None, typer.Option("--workers-per-gpu", min=1, help="How many share a GPU.  [default: 1]")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="So many workers, all on --device; none is given a GPU."),
]
LauncherOption = Annotated[
    Launcher | None, typer.Option("--launcher", help="Who starts the workers.  [default: local]")
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="What SLURM is told, such as partition=gpu; repeatable.",
    ),
]
HOME = Path("storage")
STAGES = ("start", "teacher", "overlays", "targets", "latency", "trials")
"""What a search shows from its first second, in order."""


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


def url_of(storage: str | None, home: Path) -> str:
    """The URL that --storage means: its own text, or the one line of the file that it names.

    StorageError when it is neither.
    """
    if not storage:
        return f"sqlite:///{home / 'igkd.db'}"
    return storage if "://" in storage else _read_url(Path(storage))


def _read_url(file: Path) -> str:
    """What a file says besides empty lines and comments (#); warned of when others can read it."""
    try:
        text = files.read_private(file)
    except OSError as error:  # no text is the SQLite file itself, which somebody has named
        raise StorageError(
            f"--storage {file}: neither a URL (sqlite:///PATH, "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE) nor a file that holds one "
            f"({error.strerror})"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) != 1 or "://" not in lines[0]:
        # the lines are not repeated: one may be a password
        raise StorageError(
            f"--storage-file {file}: must hold one line, the database's URL, besides comments (#); "
            f"found {len(lines)} lines"
        )
    return lines[0]


def order_of(
    study: str,
    question: spec.Study,
    trials: int | None,
    storage: str | None,
    home: Path,
    data: Path | None,
    device: str | None,
) -> Order:
    """What several workers are started for, in words that mean the same in any other folder."""
    url = absolute(url_of(storage, home))
    seen = absolute(without_password(storage, home) or "")
    return Order(study, question, trials, url, seen or None, home, data, device)


def absolute(url: str) -> str:
    """The URL of a SQLite file with its whole path; any other text as it is."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/].*)", url)
    return url if found is None else f"{found[1]}{Path(found[2]).absolute()}"


def without_password(storage: str | None, home: Path) -> str | None:
    """What says where the database is and may be seen by anyone; None when that is not possible."""
    if storage and "://" not in storage:
        return str(Path(storage).absolute())
    url = url_of(storage, home)
    return None if holds_password(url) else url


def holds_password(url: str) -> bool:
    """Whether a URL holds one that is worth hiding; an empty one is not."""
    # nothing is imported for it: `igkd doctor` runs where no package fits another
    return re.search(r"://[^:/?#@]*:[^@]+@|[?&]password=[^&]", url) is not None


def open_storage(storage: str | None, home: Path, read_only: bool = False) -> database.Database:
    """The database that --storage and --home mean, made where it is missing unless `read_only`."""
    from igkd_search import database

    return database.connect(url_of(storage, home), read_only=read_only)


def open_existing(storage: str | None, home: Path, wait: bool = False) -> database.Database:
    """The same to write to, where somebody has made it; with `wait` it is waited for while away."""
    from igkd_search import database, patience

    url, patient = url_of(storage, home), patience.Patience() if wait else None
    # read first, since that makes nothing
    database.connect(url, read_only=True, wait=wait, patience=patient).close()
    return database.connect(url, wait=wait, patience=patient)


def open_if_there(storage: str | None, home: Path) -> database.Database | None:
    """The same to read only; None when nobody has made it yet."""
    from igkd_search import database

    return database.connect_if_there(url_of(storage, home))


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def show(found: Any, format: Format, as_table: Callable[[Any], None]) -> None:
    """Print what was found as JSON, or as the table that a function of `tables` prints."""
    if format is Format.json:
        console.print_json(found)
    else:
        as_table(found)
