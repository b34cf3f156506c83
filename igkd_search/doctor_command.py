"""`igkd doctor`: the one command that must run where nothing else does.

So it imports next to nothing before it looks, and is not held by `endings`, which imports Optuna.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from igkd_search import completion, console, tables
from igkd_search.command_options import (
    HOME,
    Format,
    FormatOption,
    HomeOption,
    StorageOption,
    url_of,
)


def register(app: typer.Typer) -> None:
    """Bring the command into the command line."""
    app.command()(doctor)


def doctor(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help="Look at this study as well.",
            autocompletion=completion.stored_studies,
        ),
    ] = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """What is installed, which devices, which database; what is wrong, and what to type."""
    console.log_to_terminal()
    from igkd_search import doctor as physician

    source = context.get_parameter_source("storage")
    found = physician.examine(
        lambda: url_of(storage, home),
        home,
        study,
        storage_file=Path(storage) if storage and "://" not in storage else None,
        typed=source is not None and source.name == "COMMANDLINE",
    )
    if format is Format.json:
        console.print_json([vars(one) for one in found])
    else:
        tables.print_findings(found)
    if any(one.state == "fault" for one in found):
        raise typer.Exit(1)
