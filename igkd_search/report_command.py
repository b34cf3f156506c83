"""`igkd report`: a study as a page for people, as text for a pull request, as JSON for programs.

As in `cli`, heavy modules are imported inside the command.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
)
from igkd_search.endings import reporting
from igkd_search.errors import StudyError

if TYPE_CHECKING:
    from igkd_search.report import Report

PAGE, TEXT, DATA = "index.html", "report.md", "report.json"


def register(app: typer.Typer) -> None:
    """Bring the command into the command line."""
    app.command()(report)


def report(
    study: StudyArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write into.")
    ],
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """Write index.html (opens offline), report.md and report.json; -f json prints the last too."""
    with reporting(study):
        check_folder(output)
        from igkd_search import registry
        from igkd_search import report as reports

        base = open_storage(storage, home, read_only=True)
        found = reports.read(base, registry.name_of(study))
        write(found, output)
        if format is Format.json:
            console.print_json(found.content)
            return
        answer = found.content["answer"]
        best = "none complete yet" if answer is None else f"trial {answer['trial']}"
        accuracy = "" if answer is None else f", {answer['accuracy']:.1%} on validation"
        pairs = {"best": best + accuracy, "page": PAGE, "text": TEXT, "data": DATA}
        named = {PAGE, TEXT, DATA}
        console.print_pairs(
            f"wrote {output}",
            {name: str(output / said) if said in named else said for name, said in pairs.items()},
        )


def check_folder(folder: Path) -> None:
    """StudyError where something else stands in the folder's place; makes nothing."""
    if os.path.exists(folder) and not folder.is_dir():
        raise StudyError(f"--output {folder}: is a file; name a folder, such as report/")


def write(found: Report, folder: Path) -> None:
    """Write the three files into a folder, each whole, and make it where it is missing.

    StudyError when it cannot be made; StorageError when the disk will not have them.
    """
    from igkd_search import report_page, report_text, vault

    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or "no such place"
        raise StudyError(
            f"--output {folder}: cannot be made: {reason}; name another folder"
        ) from error
    vault.write_whole(folder / PAGE, report_page.render(found).encode())
    vault.write_whole(folder / TEXT, report_text.render(found.content).encode())
    text = json.dumps(found.content, indent=1, ensure_ascii=False, allow_nan=False)
    vault.write_whole(folder / DATA, f"{text}\n".encode())
