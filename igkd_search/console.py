"""The one place that writes to the terminal: log lines, the live display of stages, tables, JSON.

Results go to standard output, everything else to standard error. On a terminal the stages of a run
are bars of one rich display; without one each stage logs plain lines. rich is imported on first use
only, so that `igkd --help` stays quick.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

_FILE_WIDTH = 160  # of tables in a pipe or a file, where no terminal says how wide it is

_consoles: dict[str, Console] = {}
_display: Progress | None = None
_planned: dict[str, TaskID] = {}


def terminal(stream: str = "stderr") -> Console:
    """The rich Console of `stdout` or `stderr`; there is one of each, so that bars stay whole."""
    if stream not in _consoles:
        from rich.console import Console

        console = Console(stderr=stream == "stderr", highlight=False)
        if not console.is_terminal:
            console = Console(stderr=stream == "stderr", highlight=False, width=_FILE_WIDTH)
        _consoles[stream] = console
    return _consoles[stream]


def log_to_terminal(level: int = logging.INFO) -> None:
    """Send the package's log to standard error: above the bars, or as plain lines."""
    handler: logging.Handler
    if terminal().is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(
            console=terminal(), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("igkd_search")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False


class Stage:
    """One measured piece of work: how much there is, how much is done, and a word about it."""

    def __init__(self, name: str, total: int, unit: str, task: TaskID | None) -> None:
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, 0, ""
        self._task = task
        self._started = time.monotonic()
        self._last_line = 0.0

    def advance(self, by: int = 1, note: str | None = None) -> None:
        """Add `by` units of finished work; `note` replaces the word shown beside the bar."""
        self.done += by
        if note is not None:
            self.note = note
        if _display is not None and self._task is not None:
            _display.update(
                self._task, completed=self.done, count=self._count(), note=self.note, refresh=False
            )
        elif time.monotonic() - self._last_line >= 5 and self.done < self.total:
            self._last_line = time.monotonic()
            log.info("%s: %s%s", self.name, self._count(), f" · {self.note}" if self.note else "")

    def finish(self, note: str | None = None) -> None:
        """Close the stage: the bar is full, the last word stays."""
        self.note = note if note is not None else self.note
        if _display is not None and self._task is not None:
            full = max(self.done, 1)
            _display.update(
                self._task, total=full, completed=full, count=self._count(), note=self.note
            )
            _display.stop_task(self._task)
        seconds = time.monotonic() - self._started
        words = [self._count(), self.note, f"{seconds:.1f} s"]
        if _display is None:
            log.info("%s: %s", self.name, " · ".join(filter(None, words)))

    def _count(self) -> str:
        return f"{self.done}/{self.total} {self.unit}".strip() if self.total else self.unit


@contextmanager
def stage(name: str, total: int = 0, unit: str = "", note: str = "") -> Iterator[Stage]:
    """Show a stage while its body runs: a bar of the live display, or plain log lines."""
    task = None
    if _display is not None:
        if name not in _planned:
            _planned[name] = _display.add_task(name, total=None, count="", note="")
        task = _planned[name]
        _display.reset(task, total=total or None, count="", note=note)
    current = Stage(name, total, unit, task)
    current.note = note
    if _display is None:
        log.info("%s: %s", name, " · ".join(filter(None, [current._count(), note])))
    else:
        current.advance(0)
    yield current
    current.finish()


def settle(name: str, note: str) -> None:
    """Say of a planned stage that there is nothing left to do in it."""
    if _display is None:
        log.info("%s: %s", name, note)
    else:
        with stage(name, note=note):
            pass


@contextmanager
def display(plan: Sequence[str]) -> Iterator[None]:
    """Show all planned stages from the first second; does nothing without a terminal."""
    global _display
    if not terminal().is_terminal or _display is not None:
        yield
        return
    from rich import progress
    from rich.table import Column
    from rich.text import Text

    class _Remaining(progress.TimeRemainingColumn):
        def render(self, task: progress.Task) -> Text:
            """What remains, as long as anything does."""
            return Text("") if task.finished or not task.started else super().render(task)

    bars = progress.Progress(
        progress.TextColumn("{task.description}", table_column=Column(min_width=9, no_wrap=True)),
        progress.BarColumn(bar_width=20 if terminal().width >= 100 else 10),
        progress.TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        progress.TimeElapsedColumn(),
        _Remaining(compact=True),
        progress.TextColumn(
            "{task.fields[note]}",
            markup=False,  # a note may hold an error's [brackets]
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=terminal(),
        expand=True,
        speed_estimate_period=60,
        refresh_per_second=4,
    )
    with bars:
        _display = bars
        for name in plan:
            _planned[name] = bars.add_task(name, total=1, start=False, count="", note="waiting")
        try:
            yield
        finally:
            _display = None
            _planned.clear()


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1
) -> None:
    """Print a table on standard output; its first `left` columns to the left, the others right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for position, column in enumerate(columns):
        justify: Any = "left" if position < left else "right"
        table.add_column(column, justify=justify, no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: a cell may hold an error's [brackets]
    terminal("stdout").print(table)


def print_pairs(title: str, pairs: Mapping[str, str]) -> None:
    """Print named values on standard output, one a line, each value on its own line to copy."""
    width = max((len(name) for name in pairs), default=0)
    out = terminal("stdout")
    out.print(title, style="bold", markup=False, soft_wrap=True)
    for name, value in pairs.items():
        out.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


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


def print_note(message: str) -> None:
    """Print a line for people on standard error, whole however long."""
    terminal().print(message, markup=False, soft_wrap=True)


def print_error(message: str) -> None:
    """Print an error on standard error, in red on a terminal."""
    terminal().print("[red]error:[/red] ", end="")
    terminal().print(message, markup=False, style="red", soft_wrap=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
