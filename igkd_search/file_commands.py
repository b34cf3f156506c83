"""`igkd init` and `igkd validate`: a study file begun, and one looked at.

As in `cli`, each reads its options, calls one function of the house and prints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igkd_search import completion, console, stages
from igkd_search.command_options import (
    HOME,
    Format,
    FormatOption,
    HomeOption,
    check_home,
    is_interactive,
    show,
)
from igkd_search.endings import reporting
from igkd_search.errors import StudyError

if TYPE_CHECKING:
    from igkd_search import study_file


def register(app: typer.Typer) -> None:
    """Add the commands to those of an app."""
    app.command()(init)
    app.command()(validate)


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the study is called.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write.  [default: NAME.toml]"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="digits, cifar10, cifar100, svhn, fashion_mnist, arrays or folder.",
            autocompletion=completion.sources,
        ),
    ] = None,
    path: Annotated[
        Path | None, typer.Option("--path", help="Folder of your own arrays or images.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Its architecture.", autocompletion=completion.networks),
    ] = None,
    removed_blocks: Annotated[
        int | None,
        typer.Option("--removed-blocks", min=0, help="Last blocks that the student lacks."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="The budget.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Of each trial.")] = None,
    sampler: Annotated[
        str, typer.Option("--sampler", help="Who proposes.", autocompletion=completion.samplers)
    ] = "tpe",
    pruner: Annotated[
        str, typer.Option("--pruner", help="Who ends early.", autocompletion=completion.pruners)
    ] = "hyperband",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented study file, from --source or a few questions."""
    if source is None and not is_interactive():
        raise typer.BadParameter("type --source; nobody can be asked here", param_hint="--source")
    with reporting(f"init {name}"):
        from igkd_search import study_draft

        target = output or Path(f"{name}.toml")
        # before anything is asked
        study_draft.check_name(name)
        if target.is_dir() or not target.parent.is_dir():
            place = target if target.is_dir() else target.parent
            wrong = "is a folder" if target.is_dir() else "is no folder"
            raise StudyError(f"-o {target}: {place} {wrong}; name a file in a folder that is there")
        if target.exists() and not force:
            raise StudyError(f"{target}: is there already; type --force, or -o FILE")
        answers: dict[str, Any] = {
            "path": path,
            "teacher": teacher,
            "removed_blocks": removed_blocks,
        }
        answers |= {"source": source, "trials": trials, "epochs": epochs}
        if source is None:
            answers = _asked(answers)
        draft = study_draft.draft(name, sampler=sampler, pruner=pruner, **answers)
        study_draft.write(target, draft)
        console.print_pairs(
            f"wrote {target}",
            {**draft.found, "check it": f"igkd validate {target}", "run it": f"igkd run {target}"},
        )


def _asked(answers: dict[str, Any]) -> dict[str, Any]:
    """The answers of whoever sits there, to what no option has said."""
    from igkd_search import study_draft

    found = dict(answers)
    for question in study_draft.questions():
        if found[question.key] is None and question.applies(found):
            if question.hint:
                console.print_note(question.hint)
            found[question.key] = _ask(question.text, question.default(found), question.read)
    return found


def _ask(text: str, default: str | None, read: Callable[[str], Any]) -> Any:
    """One answer, asked for again until it can be read."""
    while True:
        try:
            return read(typer.prompt(text, default=default, err=True))
        except StudyError as error:
            console.print_error(str(error))


def validate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A study file, or one of igkd export.")
    ],
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Only what the text says, in a blink.")
    ] = False,
    home: HomeOption = HOME,
    format: FormatOption = Format.table,
) -> None:
    """Every fault of a study file, with its line; 0 when there is none."""
    with reporting(f"validate {file}"):
        check_home(home)
        from igkd_search import validation

        if no_data:
            run, faults = validation.examine(file, home, data=False)
        else:
            with stages.display(["look"]), stages.stage("look", note="at text, networks and data"):
                run, faults = validation.examine(file, home)
        well = "" if run is None else f"{file}: well; {validation.in_words(run)}"
        found = [vars(fault) for fault in faults]
        show(found, format, lambda _: _print(file, faults, well))
        if faults:
            raise typer.Exit(1)


def _print(file: Path, faults: list[study_file.Fault], well: str) -> None:
    """As editors and compilers have it, so that one can jump there."""
    for fault in faults:
        where = f"{file}" if fault.line is None else f"{file}:{fault.line}"
        console.print_line(f"{where}: {fault.message}")
    if not faults:
        console.print_line(well)
