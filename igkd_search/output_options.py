"""The options that every command takes, before its name and after it: how much is said, and how.

They are added to each command by the class of the app, so no command repeats them. What was chosen
is told to `console`; a command itself never sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from igkd_search import console

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

_CHOSEN = "igkd_search.output_options"


def _choose(context: typer.Context, option: typer.CallbackParam, value: bool) -> None:
    """Hear one of them; those typed before the command's name are remembered in its context."""
    # shared by the contexts of a command line, and new for each
    chosen: set[str] = context.meta.setdefault(_CHOSEN, set())
    if value:
        chosen.add(str(option.name))
    if {"quiet", "verbose"} <= chosen:
        raise typer.BadParameter("--quiet and --verbose: one of them")
    console.choose(console.Loudness("quiet" in chosen, "verbose" in chosen, "log_json" in chosen))


# eager, since other options warn of what they hear
_Shared: Any = {"callback": _choose, "is_eager": True, "expose_value": False}
_Quiet = Annotated[
    bool, typer.Option("--quiet", help="Only warnings, errors and results.", **_Shared)
]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="The whole log.", **_Shared)]
_LogJson = Annotated[
    bool, typer.Option("--log-json", help="The log as lines of JSON, no bars.", **_Shared)
]


@cache
def _options() -> tuple[Any, ...]:
    """The options, as typer makes them of a function."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    def any_command(
        quiet: _Quiet = False, verbose: _Verbose = False, log_json: _LogJson = False
    ) -> None:
        pass

    return tuple(typer.main.get_command(app).params)


class Command(typer.core.TyperCommand):
    """A command with these options after its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "params": [*options["params"], *_options()]})


class Commands(typer.core.TyperGroup):
    """All commands, with these options before their names."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "params": [*options["params"], *_options()]})


class App(typer.Typer):
    """An app each of whose commands has these options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Commands, **options)

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[AnyFunction], AnyFunction]:
        """As typer's, with another class."""
        return super().command(name, **{"cls": Command, **options})


def typed() -> tuple[str, ...]:
    """What a child is told, so that it logs as this process does; a log in a file is not quiet."""
    chosen = console.loudness()
    return ("--verbose",) * chosen.verbose + ("--log-json",) * chosen.as_json
