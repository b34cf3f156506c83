"""The commands: each reads its options, calls one function of the house and prints.

Results go to standard output, everything else to standard error; a user's error is one red line and
exit code 1, wrong usage 2, an interruption 130. Heavy modules are imported inside the commands, so
that help is quick and a finished study is shown without torch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from igkd_search import __version__, console
from igkd_search.errors import IgkdError, StorageError, StudyError

if TYPE_CHECKING:
    from igkd_search import database, spec

    AnyRun = TypeVar("AnyRun", bound=spec.Run)

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
                question = _question(study, storage, home, data)
                base = _open_if_there(storage, home)
                done = base is not None and registry.is_finished(base, question, trials)
            if not done:
                base = _search(question, trials, storage, home)
        assert base is not None
        _print_summary(results.summary(base, question.name), format)


@app.command()
def prepare(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    data: DataOption = None,
) -> None:
    """Build the materials only: teacher, overlays, targets, latency table."""
    with _reporting(study), console.display(STAGES[:-1]):
        with console.stage("start", note="loading"):
            question = _question(study, storage, home, data)
            from igkd_search import launch

            launch.check(question, home)
            base = _open(storage, home)
        launch.prepare(base, question, home)


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
        if format is Format.json:
            console.print_json(found)
            return
        budget, best = found["budget"], found["best"]
        pairs = {
            "budget": f"{budget['done']} of {budget['trials']} trials done, "
            f"{budget['running']} running, {budget['open']} open",
            "states": _counted(found["states"]),
            "proposed by": _counted(found["proposed_by"]),
        }
        for row in found["running"]:
            accuracy = f", {row['accuracy']:.1%}" if row["accuracy"] is not None else ""
            pairs[f"trial {row['trial']}"] = f"{row['epochs']} epochs{accuracy}"
        if best is not None:
            pairs["best"] = f"trial {best['trial']}, {best['accuracy']:.1%} on validation"
        console.print_pairs(f"study {found['study']}", pairs)


@app.command("trials")
def list_trials(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = _HOME,
    format: FormatOption = Format.table,
) -> None:
    """Every trial: state, parameters, accuracy, epochs, attempts, cause of failure."""
    with _reporting(study):
        from igkd_search import registry, results

        base = _open(storage, home, read_only=True)
        found = results.rows(results.open_study(base, registry.name_of(study)))
        if format is Format.json:
            console.print_json([row.as_dict() for row in found])
            return
        names = sorted({name for row in found for name in row.parameters})
        columns = ["trial", "state", "accuracy", "epochs", "tries", *names, "by", "cause"]
        lines = [
            [
                str(row.number),
                row.state,
                "" if row.accuracy is None else f"{row.accuracy:.1%}",
                str(row.epochs),
                str(row.attempts),
                *(_short(row.parameters.get(name, "")) for name in names),
                row.proposed_by or "",
                row.cause or "",
            ]
            for row in found
        ]
        console.print_table("", columns, lines)


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
        _print_summary(results.summary(base, registry.name_of(study)), format)


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
    """Train the final student on train + validation, and read the test set once."""
    with _reporting(f"train {file}"):
        from igkd_search import spec

        students = ["student"] if seeds == 1 else [f"student {i + 1}/{seeds}" for i in range(seeds)]
        with console.display(["start", *STAGES[1:-1], *students]):
            with console.stage("start", note="loading"):
                exported = _located(spec.read_exported(file), data)
                from igkd_search import final
            result = final.train(exported, output, home, seeds)
        _print_final(result, output, format)


def _search(
    question: spec.Study, trials: int | None, storage: str | None, home: Path
) -> database.Database:
    with console.stage("start", note="loading torch and the data"):
        from igkd_search import launch

        launch.check(question, home)
        base = _open(storage, home)
    launch.search(base, question, home, trials)
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
        raise StudyError(
            f"--data: only source = 'arrays' has a folder, not '{question.data.source}'"
        )
    moved = question.data.model_copy(update={"path": str(data)})
    return question.model_copy(update={"data": moved})


def _url(storage: str | None, home: Path) -> str:
    return storage or f"sqlite:///{home / 'igkd.db'}"


def _open(storage: str | None, home: Path, read_only: bool = False) -> database.Database:
    from igkd_search import database

    if not read_only:
        try:
            home.mkdir(parents=True, exist_ok=True)
            if not os.access(home, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise StorageError(
                f"{home}: cannot be used as home ({error}); choose another with --home or IGKD_HOME"
            ) from error
    return database.connect(_url(storage, home), read_only=read_only)


def _open_if_there(storage: str | None, home: Path) -> database.Database | None:
    if storage is None and not (home / "igkd.db").exists():
        return None
    return _open(storage, home)


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """Turn a user's error into one line and exit 1, an interruption into a word and exit 130."""
    import optuna

    console.log_to_terminal()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except IgkdError as error:
        if os.environ.get("IGKD_DEBUG"):
            raise
        console.print_error(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print_error(f"interrupted; nothing is lost, the same command goes on ({what})")
        raise typer.Exit(130) from None


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _print_summary(found: dict[str, Any], format: Format) -> None:
    if format is Format.json:
        console.print_json(found)
        return
    teacher, trials, winner = found["teacher"], found["trials"], found["best"]
    spent = found["epochs"]
    pairs = {
        "trials": f"{trials['complete']} complete, {trials['pruned']} pruned, "
        f"{trials['failed']} failed, of {trials['budget']}",
        "proposed by": _counted(found["proposed_by"]),
        "epochs": f"{spent['trained']} trained, {spent['without_pruning']} without pruning",
        "time": _minutes(found["seconds"]),
    }
    if winner is None:
        console.print_pairs(f"study {found['study']}: no trial has completed yet", pairs)
        return
    console.print_table(
        f"study {found['study']}",
        ["", "teacher", "student", "ratio"],
        [
            [
                "validation accuracy",
                f"{teacher['accuracy']:.1%}",
                f"{winner['accuracy']:.1%}",
                "",
            ],
            *_cost_rows(teacher, found["student"]),
        ],
    )
    console.print_pairs(
        f"best configuration (trial {winner['number']})",
        {name: _short(value) for name, value in winner["parameters"].items()},
    )
    console.print_pairs("search", pairs)
    export_it = f"igkd export {found['study']} -o best.toml"
    console.print_pairs("next", {"export": export_it, "train": "igkd train best.toml -o final/"})


def _cost_rows(teacher: dict[str, Any], student: dict[str, Any]) -> list[list[str]]:
    rows = []
    for engine, label in (
        ("onnxruntime", "latency, ONNX Runtime"),
        ("pytorch", "latency, PyTorch"),
    ):
        ours, theirs = student["latency"][engine], teacher["latency"][engine]
        ratio = theirs["median_ms"] / ours["median_ms"]
        rows.append([label, _milliseconds(theirs), _milliseconds(ours), f"{ratio:.2f}x"])
    for key, label in (("parameters", "parameters"), ("macs", "multiply-accumulates")):
        ratio = teacher[key] / student[key]
        rows.append([label, f"{teacher[key]:,}", f"{student[key]:,}", f"{ratio:.2f}x"])
    return rows


def _print_final(result: dict[str, Any], output: Path, format: Format) -> None:
    if format is Format.json:
        console.print_json(result)
        return
    teacher, student = result["teacher"], result["student"]
    spread = student["accuracy"]
    sd = f" +- {100 * spread['sd']:.1f}" if spread["sd"] is not None else ""
    teacher = {**teacher, "latency": teacher}
    console.print_table(
        f"final student ({spread['n']} seed{'s' if spread['n'] > 1 else ''})",
        ["", "teacher", "student", "ratio"],
        [
            [
                "test accuracy",
                f"{teacher['accuracy']:.1%}",
                f"{100 * spread['mean']:.1f}{sd} %",
                "",
            ],
            *_cost_rows(teacher, {**student, "latency": student}),
        ],
    )
    pairs = {"student": str(output / "student.safetensors"), "result": str(output / "result.json")}
    console.print_pairs(f"test set: {result['test']['images']} images, read once", pairs)


def _milliseconds(stats: dict[str, Any]) -> str:
    return f"{stats['median_ms']:.3g} ms"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """The console script."""
    app()
