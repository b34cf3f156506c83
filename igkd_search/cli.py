"""The commands: each reads its options, calls one function of the house and prints.

Results go to standard output, everything else to standard error; a user's error is one red line and
exit code 1, wrong usage 2, an interruption 130. Heavy modules are imported inside the commands, so
that help is quick and a finished study is shown without torch.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from igkd_search import __version__, console, tables
from igkd_search.errors import IgkdError, StorageError

if TYPE_CHECKING:
    from igkd_search import database, spec

    AnyRun = TypeVar("AnyRun", bound=spec.Run)

log = logging.getLogger(__name__)

STAGES = ("start", "teacher", "overlays", "targets", "latency", "trials")
"""What a run shows from its first second, in order."""

app = typer.Typer(
    name="igkd",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=True,
)


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
    typer.Option("--data", envvar="IGKD_DATA", help="Folder of the arrays, instead of data.path."),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print.")]
TrialsOption = Annotated[int | None, typer.Option("--trials", min=1, help="Set the budget.")]
_HOME = Path("storage")


@app.callback(invoke_without_command=True)
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Compress an image classifier: a study asks, Optuna's trials answer, one student is left."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if debug:
        os.environ["IGKD_DEBUG"] = "1"


@app.command()
def run(
    study: StudyArgument,
    trials: TrialsOption = None,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    data: DataOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Prepare, search and print the best; run again to continue."""
    with _reporting(study):
        with console.display(STAGES):
            from igkd_search import registry, results

            with console.stage("start", note="opening the study"):
                _check_home(home)
                question = _question(study, storage, home, data)
                base = _open_if_there(storage, home)
                done = base is not None and registry.is_finished(base, question, trials)
            if not done:
                base = _search(question, trials, storage, home)
        assert base is not None
        _show(results.summary(base, question.name), format, tables.print_summary)


@app.command()
def prepare(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    data: DataOption = None,
) -> None:
    """Build the materials only."""
    with _reporting(study), console.display(STAGES[:-1]):
        with console.stage("start", note="loading"):
            _check_home(home)
            question = _question(study, storage, home, data)
            from igkd_search import launch

            found = launch.check(question, home, _open_if_there(storage, home))
            base = _open(storage, home)
        launch.prepare(base, question, home, data=found)


@app.command()
def status(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    format: FormatOption = Format.table,
) -> None:
    """Budget, running trials and the best so far."""
    with _reporting(study):
        from igkd_search import registry, results

        found = results.status(_open(storage, home, read_only=True), registry.name_of(study))
        _show(found, format, tables.print_status)


@app.command("trials")
def list_trials(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    format: FormatOption = Format.table,
) -> None:
    """Every trial: state, parameters, accuracy, cause of failure."""
    with _reporting(study):
        from igkd_search import registry, results

        base = _open(storage, home, read_only=True)
        found = results.rows(results.open_study(base, registry.name_of(study)))
        if format is Format.json:
            console.print_json([row.as_dict() for row in found])
            return
        tables.print_trials(found)


@app.command()
def best(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    format: FormatOption = Format.table,
) -> None:
    """The best configuration with accuracy and latency."""
    with _reporting(study):
        from igkd_search import registry, results

        base = _open(storage, home, read_only=True)
        _show(results.summary(base, registry.name_of(study)), format, tables.print_summary)


@app.command()
def export(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The TOML file to write.")],
    trial: Annotated[
        int | None, typer.Option("--trial", help="This trial, not the winner.")
    ] = None,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
) -> None:
    """Write the winner as a complete file, and its teacher beside it."""
    with _reporting(study):
        from igkd_search import export as exporter
        from igkd_search import registry

        base = _open(storage, home, read_only=True)
        written = exporter.export(base, registry.name_of(study), output, home, trial)
        console.print_pairs(
            f"wrote {output}",
            {
                "teacher": str(output.with_name(str(written.teacher.checkpoint))),
                "trial": str(written.provenance.trial),
                "validation": f"{written.provenance.validation_accuracy:.1%}",
                "train it": f"igkd train {output} -o final/",
            },
        )


@app.command()
def train(
    file: Annotated[Path, typer.Argument(metavar="BEST.TOML", help="What `igkd export` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many students.")] = 1,
    home: HomeOption = _HOME,
    data: DataOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train the final student; read the test set once."""
    with _reporting(f"train {file}"):
        from igkd_search import study_file

        students = ["student"] if seeds == 1 else [f"student {i + 1}/{seeds}" for i in range(seeds)]
        with console.display(["start", *STAGES[1:-1], *students]):
            with console.stage("start", note="loading"):
                _check_home(home)
                exported = _located(study_file.read_exported(file), data)
                from igkd_search import final
            result = final.train(exported, output, home, seeds)
        _show(result, format, lambda found: tables.print_final(found, output))


def _search(
    question: spec.Study, trials: int | None, storage: str | None, home: Path
) -> database.Database:
    with console.stage("start", note="loading torch and the data"):
        from igkd_search import launch

        data = launch.check(question, home, _open_if_there(storage, home))
        base = _open(storage, home)
    launch.search(base, question, home, trials, data)
    return base


def _question(study: str, storage: str | None, home: Path, data: Path | None) -> spec.Study:
    from igkd_search import registry

    in_storage = not (study.endswith(".toml") or study in registry.shipped_studies())
    base = _open_if_there(storage, home) if in_storage else None
    return _located(registry.find(study, base), data)


def _located(question: AnyRun, data: Path | None) -> AnyRun:
    """The same question with its data in another folder."""
    if data is None:
        return question
    if question.data.source != "arrays":
        # IGKD_DATA may be set for another study
        log.warning("--data is not used: source = '%s' has no folder", question.data.source)
        return question
    moved = question.data.model_copy(update={"path": str(data.absolute())})
    return question.model_copy(update={"data": moved})


def _check_home(home: Path) -> None:
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


def _open(storage: str | None, home: Path, read_only: bool = False) -> database.Database:
    from igkd_search import database

    return database.connect(_url(storage, home), read_only=read_only)


def _open_if_there(storage: str | None, home: Path) -> database.Database | None:
    from igkd_search import database

    return database.connect_if_there(_url(storage, home))


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """Turn a user's error into one line and exit 1, an interruption into a word and exit 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    console.log_to_terminal()
    try:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _naming_lost_storage(optuna.exceptions.StorageInternalError):
            yield
    except IgkdError as error:
        if os.environ.get("IGKD_DEBUG"):
            raise
        console.print_error(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print_error(f"interrupted; nothing is lost, the same command goes on ({what})")
        raise typer.Exit(130) from None


@contextmanager
def _naming_lost_storage(lost: type[Exception]) -> Iterator[None]:
    """Optuna's word for a database that went away, as ours."""
    try:
        yield
    except lost as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise StorageError(
            f"the database was lost: {reason}; running trials keep their checkpoints, so the same "
            "command goes on once it is back"
        ) from error


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _show(found: Any, format: Format, as_table: Callable[[Any], None]) -> None:
    if format is Format.json:
        console.print_json(found)
    else:
        as_table(found)


def main() -> None:
    """The console script."""
    app()
