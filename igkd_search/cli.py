"""The commands: each reads its options, calls one function of the house and prints.

Results go to standard output, everything else to standard error; `endings` says how a command ends.
Heavy modules are imported inside the commands, so that help is quick and a finished study is shown
without torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igkd_search import (
    __version__,
    console,
    dashboard_command,
    doctor_command,
    file_commands,
    final_commands,
    latency_command,
    output_options,
    report_command,
    stages,
    status_command,
    study_commands,
    tables,
    worker_commands,
)
from igkd_search.command_options import (
    HOME,
    STAGES,
    DataOption,
    DeviceOption,
    Format,
    FormatOption,
    GpusOption,
    HomeOption,
    LauncherOption,
    SlurmOption,
    StorageOption,
    StudyArgument,
    TrialsOption,
    WorkersOption,
    WorkersPerGpuOption,
    check_home,
    open_if_there,
    open_storage,
    order_of,
    question_of,
    show,
)
from igkd_search.endings import reporting

if TYPE_CHECKING:
    from igkd_search import crew, database, spec

app = output_options.App(
    name="igkd",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=True,
)


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
    gpus: GpusOption = None,
    workers_per_gpu: WorkersPerGpuOption = None,
    workers: WorkersOption = None,
    launcher: LauncherOption = None,
    slurm: SlurmOption = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    data: DataOption = None,
    device: DeviceOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Prepare, search and print the best; run again to continue."""
    with reporting(study):
        from igkd_search import crew

        several = crew.asked(launcher, gpus, workers_per_gpu, workers, slurm or (), device)
        with stages.display(STAGES) if several is None else nullcontext():
            from igkd_search import registry, results, spec, stopping

            with stages.stage("start", note="opening the study"):
                check_home(home)
                question = question_of(study, storage, home, data)
                if trials is not None:
                    spec.check_budget(question, trials)
                base, ended = open_if_there(storage, home), None
                if base is not None:
                    done = registry.is_finished(base, question, trials)
                    ended = "budget" if done else stopping.ended(base, question)
            if base is None or ended is None:
                if several is None:
                    base, ended = _search(question, trials, storage, home, device)
                else:
                    order = order_of(study, question, trials, storage, home, data, device)
                    ended = _together(order, several)
                    base = open_storage(storage, home, read_only=True)
        if ended != "budget":
            console.print_note(f"stopped before the budget was spent: {ended}", logging.WARNING)
        show(results.summary(base, question.name), format, tables.print_summary)


class Part(StrEnum):
    """What `igkd prepare --only` may stop after."""

    teacher = "teacher"


@app.command()
def prepare(
    study: StudyArgument,
    only: Annotated[
        Part | None, typer.Option("--only", help="Stop after this; the same without it goes on.")
    ] = None,
    trials: TrialsOption = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    data: DataOption = None,
    device: DeviceOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Build the materials only."""
    with reporting(study):
        with stages.display(STAGES[:-1] if only is None else STAGES[:2]):
            with stages.stage("start", note="loading"):
                check_home(home)
                question = question_of(study, storage, home, data)
                from igkd_search import launch, spec

                if trials is not None:
                    spec.check_budget(question, trials)

                found = launch.check(question, home, open_if_there(storage, home), device)
                base = open_storage(storage, home)
            if only is None:
                facts = launch.prepare(base, question, home, trials, found, device).facts()
            else:
                facts = launch.teach(base, question, home, found, device).facts()
        show({"study": question.name, **facts}, format, tables.print_prepared)


@app.command("trials")
def list_trials(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """Every trial: state, parameters, accuracy, cause and reason of failure."""
    with reporting(study):
        from igkd_search import progress, registry, results

        base, name = open_storage(storage, home, read_only=True), registry.name_of(study)
        found = results.rows(results.open_study(base, name))
        if format is Format.json:
            hosts = progress.hosts(base, name, found)
            several = {number: {"hosts": names} for number, names in hosts.items()}
            console.print_json([row.as_dict() | several.get(row.number, {}) for row in found])
            return
        tables.print_trials(found)


@app.command()
def best(
    study: StudyArgument,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """The best configuration with accuracy and latency."""
    with reporting(study):
        from igkd_search import registry, results

        base = open_storage(storage, home, read_only=True)
        show(results.summary(base, registry.name_of(study)), format, tables.print_summary)


@app.command()
def overlays(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .pdf or .svg file.")],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Which, as 0,3,5 or by name.  [default: the first ten]"),
    ] = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    data: DataOption = None,
    device: DeviceOption = None,
) -> None:
    """Draw what overlays are: one image a class, its map, and every control."""
    with reporting(study):
        with stages.display(["start", "teacher", "overlays"]):
            with stages.stage("start", note="loading"):
                check_home(home)
                question = question_of(study, storage, home, data)
                from igkd_search import gallery, keeper, registry

                base, kept = open_if_there(storage, home), None
                if base is not None:
                    registry.check_question(base, question)
                    kept = keeper.Keeper.of(base, question.name, writes=False)
                found = gallery.check(question, output, home, kept, device)
                if kept is not None:
                    keeper.check_same(question.name, kept.known, {"data": found.fingerprint})
            drawn = gallery.draw(question, output, home, classes, found, kept, device)
        tables.print_gallery(drawn, output)


@app.command()
def materials(
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what no study of this storage names.")
    ] = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """What is kept for studies to share: kind, size, age, and which study uses it."""
    with reporting("materials"):
        from igkd_search import inventory, vault

        store, base = vault.Vault(home / "vault"), open_if_there(storage, home)
        removed = inventory.prune(store, base) if prune else None
        found = inventory.survey(store, base)
        if format is Format.json:
            console.print_json(found.as_dict(removed))
            return
        tables.print_materials(found, removed)


def _search(
    question: spec.Study, trials: int | None, storage: str | None, home: Path, device: str | None
) -> tuple[database.Database, str]:
    with stages.stage("start", note="loading torch and the data"):
        from igkd_search import launch

        data = launch.check(question, home, open_if_there(storage, home), device)
        base = open_storage(storage, home)
    from igkd_search import foresight

    with foresight.foreseeing(base.url, question.name):
        return base, launch.search(base, question, home, trials, data, device)


def _together(order: crew.Order, several: crew.Crew) -> str:
    from igkd_search import local_workers, ray_workers, slurm_workers

    launchers: dict[str, Callable[[crew.Order, crew.Crew], str]] = {
        "local": local_workers.search,
        "ray": ray_workers.search,
        "slurm": slurm_workers.search,
    }
    return launchers[several.launcher](order, several)


worker_commands.register(app)
status_command.register(app)
study_commands.register(app)
doctor_command.register(app)
file_commands.register(app)
final_commands.register(app)
report_command.register(app)
latency_command.register(app)
dashboard_command.register(app)


def main() -> None:
    """The console script."""
    app()
