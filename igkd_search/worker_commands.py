"""The commands about workers: joining a search as one, having all of them leave.

As in `cli`, heavy modules are imported inside the commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igkd_search import completion, console, stages
from igkd_search.command_options import (
    HOME,
    STAGES,
    DataOption,
    DeviceOption,
    HomeOption,
    StorageOption,
    StudyArgument,
    check_home,
    located,
    open_existing,
)
from igkd_search.endings import reporting

if TYPE_CHECKING:
    from igkd_search import database

_POLL_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add these commands to an app."""
    app.command("worker")(worker)
    app.command("stop")(stop)


def worker(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help="A study file, or a study in the storage.",
            autocompletion=completion.studies,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--any", help="Serve every unfinished study, by search.priority.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --any: look on for more, for ever.")
    ] = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    data: DataOption = None,
    device: DeviceOption = None,
    stops: Annotated[int | None, typer.Option(hidden=True, envvar="IGKD_STOPS")] = None,
) -> None:
    """Join a study as one worker, from any machine that reaches the database."""
    if (study is None) != every or (wait and not every):
        raise typer.BadParameter("type a STUDY, or --any for all of them, perhaps with --wait")
    if study is None:
        _serve(storage, home, device, wait)
        return
    with reporting(study):
        with stages.display(STAGES):
            with stages.stage("start", note="opening the study"):
                check_home(home)
                base = open_existing(storage, home, wait=True)
                from igkd_search import registry

                question = located(registry.begun(base, study), data)
                done = registry.is_spent(base, question.name)
            ended = "budget"
            if not done:
                with stages.stage("start", note="loading torch"):
                    from igkd_search import launch

                ended = launch.join(base, question, home, device, stops=stops)
        what = "the budget is spent" if ended == "budget" else f"left: {ended}"
        console.print_note(f"{what}; igkd best {question.name}")


def _serve(storage: str | None, home: Path, device: str | None, wait: bool) -> None:
    """Work for every unfinished study of the storage."""
    with reporting("worker --any"), stages.display(STAGES):
        with stages.stage("start", note="loading torch"):
            check_home(home)
            base = open_existing(storage, home, wait=True)
            from igkd_search import devices, pool

            devices.choose(device)  # once, and not as the fault of the first study
        ended = pool.serve(base, home, device, wait=wait)
        console.print_note("no study is unfinished" if ended == "budget" else f"left: {ended}")


def stop(
    study: StudyArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Until the last one has left.")] = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
) -> None:
    """Have the workers of a study on all hosts finish their epoch and leave."""
    with reporting(study):
        from igkd_search import database, registry, searches

        base = open_existing(storage, home, wait=True)
        name = registry.name_of(study)
        if base.read_study(name) is None:
            raise database.unknown_study(base.url, name)
        searches.ask_to_stop(base, name)
        there = at_work(base, name)
        if not there:
            console.print_note(
                f"no worker of '{name}' is at work; those that are still preparing will leave too"
            )
            return
        hosts = len(set(there.values()))
        console.print_note(
            f"{len(there)} worker{'s' if len(there) > 1 else ''} of '{name}' on {hosts} "
            f"host{'s' if hosts > 1 else ''} will leave after the current epoch; igkd run or igkd "
            "worker goes on"
        )
        if wait:
            await_leaving(lambda: at_work(base, name).keys() & there.keys())
            console.print_note("all have left")


def at_work(base: database.Database, name: str) -> dict[str, str]:
    """Worker -> host of those that are at work on a study."""
    from igkd_search import identities, workers

    found = workers.rows(base, name, identities.this_process())
    return {row.worker: row.host for row in found if row.alive}


def await_leaving(there: Callable[[], set[str]]) -> None:
    """Wait until nobody is there."""
    while there():
        time.sleep(_POLL_SECONDS)
