"""`igkd status`: who is at work, and how far the search is.

As in `cli`, heavy modules are imported inside the commands.
"""

from typing import Annotated

import typer

from igkd_search import console
from igkd_search.command_options import (
    HOME,
    Format,
    FormatOption,
    HomeOption,
    StorageOption,
    StudyArgument,
    open_storage,
    show,
)
from igkd_search.endings import reporting


def register(app: typer.Typer) -> None:
    """Add the command to those of an app."""
    app.command()(status)


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
