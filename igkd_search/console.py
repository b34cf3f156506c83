"""The one place that writes to the terminal: log lines, tables, JSON; the bars are of `stages`.

Results go to standard output, everything else to standard error. rich is imported on first use
only, so that `igkd --help` stays quick.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

log = logging.getLogger(__name__)

_FILE_WIDTH = 160  # of tables in a pipe or a file, where no terminal says how wide it is

_LIST_WIDTH = 80  # of sentences: longer lines are hard to read, and a log is pasted somewhere

_ENDLESS = 10_000  # columns, more than any table has


@dataclass(frozen=True)
class Loudness:
    """What is said besides results: --quiet, --verbose, and --log-json for machines that read."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    @property
    def level(self) -> int:
        """Log lines below this level are left out."""
        if self.quiet:
            return logging.WARNING
        return logging.DEBUG if self.verbose else logging.INFO


_loudness = Loudness()
_consoles: dict[str, Console] = {}


def choose(loudness: Loudness) -> None:
    """Say as much as this from now on."""
    global _loudness
    _loudness = loudness


def loudness() -> Loudness:
    """What was chosen last; by default log lines and bars."""
    return _loudness


def terminal(stream: str = "stderr") -> Console:
    """The rich Console of `stdout` or `stderr`; there is one of each, so that bars stay whole."""
    if stream not in _consoles:
        from rich.console import Console

        console = Console(stderr=stream == "stderr", highlight=False)
        if not console.is_terminal:
            console = Console(stderr=stream == "stderr", highlight=False, width=_FILE_WIDTH)
        _consoles[stream] = console
    return _consoles[stream]


def log_to_terminal() -> None:
    """Send the package's log to standard error: above the bars, as plain lines or as JSON.

    What Optuna logs goes the same way, or it would be written across the bars.
    """
    handler = _handler()
    for name in ("igkd_search", "optuna"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("igkd_search").setLevel(_loudness.level)
    # a warning of Python's is no JSON; elsewhere it stays what Python makes of it
    logging.captureWarnings(_loudness.as_json)
    logging.getLogger("py.warnings").handlers[:] = [handler] if _loudness.as_json else []


def _handler() -> logging.Handler:
    handler: logging.Handler
    if draws():
        from rich.logging import RichHandler

        handler = RichHandler(
            console=terminal(),
            show_path=False,
            show_level=_loudness.verbose,
            log_time_format="%H:%M:%S",
        )
        if _loudness.verbose:
            handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        return handler
    handler = logging.StreamHandler()
    more = "%(levelname)s %(name)s: " if _loudness.verbose else ""
    plain = logging.Formatter(f"%(asctime)s {more}%(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonLines() if _loudness.as_json else plain)
    return handler


def draws() -> bool:
    """Whether bars may be drawn on standard error."""
    if _loudness.quiet or _loudness.as_json:
        return False
    return terminal().is_terminal and not terminal().is_dumb_terminal


class _JsonLines(logging.Formatter):
    """A record as one JSON object; docs/terminal.md lists its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        found = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "module": record.name.removeprefix("igkd_search."),
            "message": record.getMessage(),
        }
        if (stage := getattr(record, "stage", None)) is not None:
            found["stage"] = stage
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_finite(found), ensure_ascii=False)


def _print_json_log(level: int, message: str) -> None:
    """What is printed for people, as a line of the log of --log-json."""
    record = logging.LogRecord(__name__, level, "", 0, message, None, None)
    print(_JsonLines().format(record), file=sys.stderr, flush=True)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1
) -> None:
    """Print a table on standard output; its first `left` columns to the left, the others right."""
    from rich.text import Text

    table = ruled_table(title)
    for position, column in enumerate(columns):
        justify: Any = "left" if position < left else "right"
        table.add_column(column, justify=justify, no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: a cell may hold an error's [brackets]
    out = terminal("stdout")
    if table.__rich_measure__(out, out.options.update(max_width=_ENDLESS)).maximum > out.width:
        table.padding = 0  # rather than to break words
    print_view(table)


def ruled_table(title: str = "") -> Table:
    """An empty table with a rule of hyphens below its head, so that it can be pasted anywhere."""
    from rich import box
    from rich.table import Table

    hyphens = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=hyphens,
        pad_edge=False,
        collapse_padding=True,
        show_edge=False,
    )


def print_pairs(title: str, pairs: Mapping[str, str]) -> None:
    """Print named values on standard output, one a line, each value on its own line to copy."""
    width = max((len(name) for name in pairs), default=0)
    out = terminal("stdout")
    out.print(title, style="bold", markup=False, soft_wrap=True)
    for name, value in pairs.items():
        out.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


def print_list(title: str, sentences: Sequence[str]) -> None:
    """Print sentences on standard output, each broken between words at 80 columns or fewer."""
    out = terminal("stdout")
    out.print(title, style="bold", markup=False, soft_wrap=True)
    for sentence in sentences:
        lines = textwrap.wrap(
            re.sub(r" ([=<]) ", "\u00a0\\1\u00a0", sentence),  # p = 0.004 stays on one line
            min(out.width, _LIST_WIDTH),
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        out.print("\n".join(lines).replace("\u00a0", " "), markup=False, soft_wrap=True)


def print_view(view: RenderableType) -> None:
    """Print what a module has laid out by rich on standard output."""
    out = terminal("stdout")
    if out.is_terminal:
        out.print(view)
        return
    with out.capture() as capture:
        out.print(view)
    # in a file nobody needs the spaces that fill a line
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def can_redraw() -> bool:
    """Whether standard output is a terminal whose screen can be drawn anew."""
    return terminal("stdout").is_terminal and not terminal("stdout").is_dumb_terminal


@contextmanager
def screen() -> Iterator[Callable[[RenderableType], None]]:
    """The whole terminal, which each call of what this yields draws anew; given back at the end."""
    from rich.live import Live

    with Live(console=terminal("stdout"), screen=True, auto_refresh=False) as live:
        yield lambda view: live.update(view, refresh=True)


def print_line(text: str) -> None:
    """Print one line on standard output, at once: somebody may be waiting for it in a pipe."""
    print(text, flush=True)


def print_json_line(document: Any) -> None:
    """Print one JSON document on one line of standard output, at once."""
    print_line(json.dumps(_finite(document), ensure_ascii=False))


def print_json(document: Any) -> None:
    """Print one JSON document on standard output; what is not finite becomes null."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, ensure_ascii=False) + "\n")


def print_note(message: str, level: int = logging.INFO) -> None:
    """Print a line for people on standard error, whole however long; --quiet keeps warnings."""
    if level < _loudness.level:
        return
    if _loudness.as_json:
        _print_json_log(level, message)
    else:
        terminal().print(message, markup=False, soft_wrap=True)


def print_error(message: str) -> None:
    """Print an error on standard error, in red on a terminal."""
    if _loudness.as_json:
        _print_json_log(logging.ERROR, message)
        return
    terminal().print("[red]error:[/red] ", end="")
    terminal().print(message, markup=False, style="red", soft_wrap=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
