"""`igkd export` and `igkd train`: from a finished search to a file, and from it to the student."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from igkd_search import console, final_tables, stages
from igkd_search.command_options import (
    HOME,
    STAGES,
    DataOption,
    DeviceOption,
    Format,
    FormatOption,
    GpusOption,
    HomeOption,
    StorageOption,
    StudyArgument,
    WorkersOption,
    WorkersPerGpuOption,
    check_home,
    located,
    open_existing,
    open_storage,
    order_of,
    question_of,
    show,
)
from igkd_search.endings import reporting
from igkd_search.errors import StudyError

if TYPE_CHECKING:
    from igkd_search import arms, crew, output_options, spec

TrainOnlyOption = Annotated[
    bool,
    typer.Option(
        "--train-only",
        help="Train a share of what the same command trains elsewhere just now, and leave the rest "
        "to that.",
    ),
]


def register(app: output_options.App) -> None:
    """Add the commands to the application."""
    app.command()(export)
    app.command()(train)


def export(
    study: StudyArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .toml (or .json) file to write.")
    ],
    trial: Annotated[
        int | None, typer.Option("--trial", help="This trial, not the winner.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", min=2, help="Train so many leading trials again, export the best."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, help="So many fresh seeds of each.  [default: 3]"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            help="Train so long, with --top already; by default as long as the search did.",
        ),
    ] = None,
    gpus: GpusOption = None,
    workers_per_gpu: WorkersPerGpuOption = None,
    workers: WorkersOption = None,
    train_only: TrainOnlyOption = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    data: DataOption = None,
    device: DeviceOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Write the winner as a complete file, and its teacher beside it."""
    with reporting(study):
        from igkd_search import export as exporter
        from igkd_search import registry

        if trial is not None and top is not None:
            raise StudyError("--trial and --top: one of them; --top finds out which trial it is")
        unused = {"--seeds": seeds, "--gpus": gpus, "--workers": workers}
        for option, given in (unused | {"--train-only": train_only or None}).items():
            if top is None and given is not None:
                raise StudyError(f"{option}: only with --top, which trains leading trials again")
        seeds = 3 if seeds is None else seeds
        reruns: list[spec.Rerun] = []
        if top is not None:
            check_home(home)
            question = question_of(study, storage, home, data)
            order = order_of(study, question, None, storage, home, data, device)
            several = _crew(gpus, workers_per_gpu, workers, device)
            wanted = _Again(top, seeds, epochs or question.trial.epochs)
            reruns = _rerun(order, output, wanted, several, alone=not train_only)
            if train_only:
                return
        base = open_storage(storage, home, read_only=True)
        name = registry.name_of(study)
        written = exporter.export(base, name, output, home, trial, reruns, epochs)
        if format is Format.json:
            console.print_json(written.model_dump(mode="json", exclude_none=True))
        else:
            final_tables.print_exported(written, output)


def train(
    file: Annotated[Path, typer.Argument(metavar="BEST.TOML", help="What `igkd export` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many students.")] = 1,
    arms: Annotated[
        str | None,
        typer.Option(
            "--arms",
            help="Train these too, such as baseline,kd,ig,kd+ig,kd+ig:shuffled,kd:shuffled.",
        ),
    ] = None,
    tune_arms: Annotated[
        int | None,
        typer.Option("--tune-arms", min=1, help="Give each arm a search of so many trials first."),
    ] = None,
    retrain_teacher: Annotated[
        bool, typer.Option("--retrain-teacher", help="Train the teacher again, by the file.")
    ] = False,
    gpus: GpusOption = None,
    workers_per_gpu: WorkersPerGpuOption = None,
    workers: WorkersOption = None,
    train_only: TrainOnlyOption = False,
    home: HomeOption = HOME,
    data: DataOption = None,
    device: DeviceOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train the final student, or an ablation; read the test set once a model."""
    with reporting(f"train {file}"):
        from igkd_search import arms as arms_
        from igkd_search import study_file

        exported = located(study_file.read_to_train(file, retrain_teacher), data)
        wanted = arms_.read(arms) if arms is not None else []
        several = _crew(gpus, workers_per_gpu, workers, device)
        searched = exported.search.space if exported.search and tune_arms else ()
        arms_.check(wanted, exported, searched)
        if several is not None and not _is_there(output, wanted, seeds):
            command = ["train", str(file), "-o", str(output), "--seeds", str(seeds)]
            command += ["--arms", arms] if arms else []
            command += ["--tune-arms", str(tune_arms)] if tune_arms else []
            command += ["--retrain-teacher"] if retrain_teacher else []
            command += _shared(home, data, device)
            epochs = max(len(wanted), 1) * seeds * exported.trial.epochs
            _together(command, several, output / "logs", output / "runs", epochs)
        tuning = [] if tune_arms is None else ["trials"]
        with stages.display(
            ["start", *tuning, *STAGES[1:-1], "students", "files", "test", "timings"]
        ):
            with stages.stage("start", note="loading"):
                check_home(home)
                from igkd_search import final
            result = final.train(
                exported, output, home, seeds, device, wanted, tune_arms, alone=not train_only
            )
        if not train_only:
            show(result, format, lambda found: final_tables.print_final(found, output))


class _Again(NamedTuple):
    """How many leading trials, by how many seeds, over how many epochs each."""

    top: int
    seeds: int
    epochs: int


def _rerun(
    order: crew.Order,
    output: Path,
    wanted: _Again,
    several: crew.Crew | None,
    *,
    alone: bool,
) -> list[spec.Rerun]:
    """The leading trials of a study again, the best first; empty for one process of several."""
    base = open_existing(order.url, order.home)
    if several is not None:
        from igkd_search import registry

        record, _ = registry.stored(base, order.name)
        runs = order.home / "checkpoints" / registry.reruns_of(record)
        command = ["export", order.study, "-o", str(output)]
        for option, value in wanted._asdict().items():
            command += [f"--{option}", str(value)]
        command += _shared(order.home, order.data, order.device)
        with order.in_environment():
            _together(command, several, order.logs, runs, math.prod(wanted))
    with stages.display(["start", *STAGES[1:-1], "students"]):
        with stages.stage("start", note="loading"):
            from igkd_search import reruns
        rows = reruns.leading(base, order.name, wanted.top)
        return reruns.rerun(
            base,
            order.question,
            rows,
            wanted.seeds,
            order.home,
            order.device,
            epochs=wanted.epochs,
            alone=alone,
        )


def _crew(
    gpus: str | None, per_gpu: int | None, workers: int | None, device: str | None
) -> crew.Crew | None:
    """The processes of this machine that are asked for; None when this one trains all itself."""
    from igkd_search import crew

    return crew.asked(None, gpus, per_gpu, workers, device=device)


def _together(command: list[str], several: crew.Crew, logs: Path, runs: Path, epochs: int) -> None:
    """Have a crew train, then let this process compute where its first process did."""
    from igkd_search import trainers

    with stages.display(["students"]):
        trainers.train(command, several, logs, runs, epochs)
    os.environ.update(several.environments()[0])


def _is_there(output: Path, wanted: Sequence[arms.Arm], seeds: int) -> bool:
    """Whether a folder has a result of all that; nobody need be started then."""
    try:
        result = json.loads((output / "result.json").read_bytes())
        there = set(result["arms"])
        return {str(arm) for arm in wanted} <= there and len(result["student"]["seeds"]) >= seeds
    except (OSError, ValueError, KeyError, TypeError):
        return False  # who trains says what is wrong with it


def _shared(home: Path, data: Path | None, device: str | None) -> list[str]:
    found = ["--home", str(home)]
    found += [] if data is None else ["--data", str(data)]
    return found + ([] if device is None else ["--device", device])
