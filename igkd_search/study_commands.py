"""The commands of a study's life: add, retry, delete, copy, repair. As in `cli`, each reads its
options, calls one function of the house and prints.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from igkd_search import console, stages
from igkd_search.command_options import (
    HOME,
    Format,
    FormatOption,
    HomeOption,
    StorageOption,
    StudyArgument,
    check_home,
    is_interactive,
    open_existing,
    open_storage,
    show,
)
from igkd_search.endings import reporting
from igkd_search.errors import StorageError, StudyError

if TYPE_CHECKING:
    pass

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def register(app: typer.Typer) -> None:
    """Bring these commands into the command line."""
    for command in (add, retry, copy, repair, delete):
        app.command()(command)


def add(
    study: StudyArgument,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="What it is; the rest is sampled."),
    ] = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """Have a configuration tried next; without values, list what waits."""
    with reporting(study):
        from igkd_search import additions, notices, registry

        name, base = registry.name_of(study), open_existing(storage, home)
        if not values:
            show(additions.queue_of(base, name).as_dict(), format, notices.print_queue)
            return
        found = additions.add(base, name, values)
        show(found.as_dict(), format, notices.print_addition)


def retry(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="This failed trial.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed trials.")] = False,
    cause: Annotated[
        str | None, typer.Option("--cause", help="With --failed: only those of this cause.")
    ] = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """Try failed trials again, within the same budget."""
    with reporting(study):
        if (trial is None) == (not failed) or (cause is not None and not failed):
            raise StudyError(
                f"igkd retry {study}: type --trial N, or --failed, perhaps with --cause CAUSE"
            )
        from igkd_search import notices, registry, retries

        name, base = registry.name_of(study), open_existing(storage, home)
        if trial is not None:
            found = [retries.retry(base, name, trial)]
        else:
            found = retries.retry_failed(base, name, cause)
        plain = {"study": name, "retried": [each.as_dict() for each in found]}
        show(plain, format, notices.print_retries)


def copy(
    study: StudyArgument,
    to: Annotated[str, typer.Option("--to", metavar="URL|FILE", help="The other database.")],
    new_name: Annotated[str | None, typer.Option("--as", help="Its name there.")] = None,
    storage: StorageOption = None,
    home: HomeOption = HOME,
) -> None:
    """Copy a study into another database: trials, slots, queue, files; nothing is lost."""
    with reporting(study), stages.display(["trials"]):
        from igkd_search import copying, database, notices, registry, removal

        if database.masked(to) != to:
            console.print_note(
                "warning: --to: every user of this machine can read a command's password (ps); "
                "type --to FILE, a file that holds the URL, or set PGPASSFILE",
                logging.WARNING,
            )
        name, base = registry.name_of(study), open_storage(storage, home, read_only=True)
        target = open_storage(to, home)
        copied = copying.copy(base, target, name, new_name)
        removal.keep_for_copy(target, registry.stored(base, name)[0], home)
        notices.print_copy(copied, name)


def repair(
    study: StudyArgument,
    yes: YesOption = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
) -> None:
    """Show what is inconsistent about a study, and mend it once you agree."""
    with reporting(study):
        from igkd_search import notices, registry, repairs

        name, base = registry.name_of(study), open_existing(storage, home)
        found = repairs.find(base, name, home)
        notices.print_findings(name, found)
        if not found:
            return
        if not yes and not is_interactive():
            console.print_note(
                f"nothing was changed; to mend it type: igkd repair {name} --yes", logging.WARNING
            )
            raise typer.Exit(1)
        if not yes and not typer.confirm("mend all of this?", err=True):
            raise typer.Exit(1)
        for finding in found:
            finding.mend()
        left = repairs.find(base, name, home)
        if left:
            notices.print_findings(name, left)
            raise typer.Exit(1)
        console.print_note(f"mended; nothing else is wrong with study {name}")


def delete(
    study: StudyArgument,
    yes: YesOption = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
) -> None:
    """Remove a study: trials, slots, queue, files, checkpoints, logs; asks first."""
    with reporting(study):
        from igkd_search import notices, registry, removal

        check_home(home)
        name, base = registry.name_of(study), open_existing(storage, home)
        removal.check(base, name)
        notices.print_remains(removal.survey(base, name, home))
        if not yes and not is_interactive():
            raise StorageError(
                f"nothing was removed, since nobody can be asked here; type: igkd delete {name} "
                "--yes"
            )
        if not yes and not typer.confirm("remove all of this?", err=True):
            raise typer.Exit(1)
        removal.remove(base, name, home)
        console.print_note(
            f"removed study {name}; its materials stay: igkd materials --prune removes what no "
            "other study names"
        )
