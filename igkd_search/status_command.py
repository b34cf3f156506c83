"""`igkd status` and `igkd studies`: who is at work, and how far one search is, or each of them.

As in `cli`, heavy modules are imported inside the commands.
"""

from typing import Annotated

import typer

from igkd_search import console, tables
from igkd_search.command_options import (
    HOME,
    Format,
    FormatOption,
    HomeOption,
    StorageOption,
    StudyArgument,
    open_if_there,
    open_storage,
    show,
    url_of,
)
from igkd_search.endings import reporting


def register(app: typer.Typer) -> None:
    """Add the commands to those of an app."""
    app.command()(status)
    app.command()(studies)


def status(
    study: StudyArgument,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look on until the search has ended.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")
    ] = 2.0,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """Budget, workers, running trials, best so far, rate and time left.

    With --watch it ends by itself, with 0, when the search has ended; Ctrl-C leaves it with 130.
    """
    with reporting(study):
        from igkd_search import overview, progress, registry, watching

        base = open_storage(storage, home, read_only=True)
        reader = progress.Reader(base, registry.name_of(study))
        if not watch:
            show(reader.read(), format, overview.print_status)
            return
        if format is Format.json:
            shown = watching.as_json()
        else:
            shown = watching.on_screen() if console.can_redraw() else watching.as_lines()
        try:
            with shown as draw:
                watching.watch(reader.read, draw, interval)
        except KeyboardInterrupt:  # the usual way to leave, so no error is printed
            raise typer.Exit(130) from None


def studies(
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """What the storage holds: state, trials, best and workers of each study."""
    with reporting("studies"):
        from igkd_search import database
        from igkd_search import studies as shelf

        base = open_if_there(storage, home)
        found = [] if base is None else shelf.survey(base)
        place = database.masked(url_of(storage, home))
        show(found, format, lambda rows: tables.print_studies(rows, place))
