"""`igkd latency`: teacher and student side by side, in every engine.

As in `cli`, heavy modules are imported inside the command.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igkd_search import completion, console, final_tables, stages
from igkd_search.command_options import (
    HOME,
    DataOption,
    Format,
    FormatOption,
    HomeOption,
    StorageOption,
    check_home,
    located,
    open_existing,
    open_storage,
    show,
)
from igkd_search.endings import reporting

if TYPE_CHECKING:
    from igkd_search import timed_subject

ENGINES = ("pytorch", "compiled", "onnxruntime", "onnxruntime-int8")


def register(app: typer.Typer) -> None:
    """Bring the command into the command line."""
    app.command()(latency)


def latency(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|STUDY",
            help="What `igkd export` wrote, or a study, whose winner is timed.",
            autocompletion=completion.studies,
        ),
    ],
    engines: Annotated[
        str,
        typer.Option("--engines", help="Which. Compiling takes minutes; the others seconds."),
    ] = ",".join(ENGINES),
    batch: Annotated[str, typer.Option("--batch", help="How many images a call.")] = "1,64",
    threads: Annotated[
        str | None, typer.Option("--threads", help="On how many.  [default: 1 and all cores]")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=2, help="How often.  [default: 30, and 10 of batches]"),
    ] = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    data: DataOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Time teacher and student in every engine; a study keeps its winner's figures."""
    asked = _names(engines)
    batches, counts = _numbers("--batch", batch), threads and _numbers("--threads", threads)
    with reporting(target):
        check_home(home)
        subject = _subject(target, storage, home, data)
        with stages.display(["start", "timings"]):
            with stages.stage("start", note="loading torch and the data"):
                from igkd_search import latency_table, timed_pair
            found = timed_pair.measure(
                subject, home, engines=asked, batches=batches, threads=counts, rounds=rounds
            )
        show(found, format, final_tables.print_latency)
        if subject.study is not None:
            # only now, so that a storage that cannot be written to costs no figure
            with closing(open_existing(storage, home)) as base:
                latency_table.keep(base, subject.study, found)
            console.print_note(f"kept with study '{subject.study}'; igkd report shows it")


def _subject(
    target: str, storage: str | None, home: Path, data: Path | None
) -> timed_subject.Subject:
    """What is timed; said to be missing before torch is loaded."""
    from dataclasses import replace

    from igkd_search import registry, timed_subject

    path, found = Path(target), None
    if path.suffix in (".toml", ".json") or path.is_file():
        found = timed_subject.of_file(path)
    if found is None:
        with closing(open_storage(storage, home, read_only=True)) as base:
            found = timed_subject.of_winner(base, registry.name_of(target))
    return replace(found, run=located(found.run, data))


def _names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in found if name not in ENGINES]
    if unknown or not found:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no engine; allowed: {', '.join(ENGINES)}",
            param_hint="--engines",
        )
    return found


def _numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise typer.BadParameter(
            f"{text!r}: type whole numbers from 1, such as 1,64", param_hint=option
        )
    return [int(part) for part in parts]
