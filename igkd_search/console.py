"""The one place that writes to the terminal: log lines, the live display of stages, tables, JSON.

Results go to standard output, everything else to standard error. On a terminal the stages of a run
are bars of one rich display; without one, and where --quiet or --log-json ask for none, each stage
logs its lines. rich is imported on first use only, so that `igkd --help` stays quick.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.table import Table

log = logging.getLogger(__name__)

_FILE_WIDTH = 160  # of tables in a pipe or a file, where no terminal says how wide it is

_ENDLESS = 10_000  # columns, more than any table has
_WIDE = 100  # columns from which on there is room for longer bars and the units of counts
_LINE_SECONDS = 5.0  # between two lines of a stage where there are no bars


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
_display: Progress | None = None
_planned: dict[str, TaskID] = {}
_foreseen: dict[str, tuple[float, float]] = {}


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
    if _draws():
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


def _draws() -> bool:
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


def in_words(seconds: float) -> str:
    """A time span in its two largest units: 42 s, 12 min 3 s, 3 h 12 min, 2 d 4 h."""
    whole = round(seconds)
    for unit, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def left_in_words(seconds: float) -> str:
    """A time to go, without the seconds that would promise more than is known."""
    return f"{in_words(seconds if seconds < 90 else 60 * round(seconds / 60))} left"


def foresee(name: str, seconds: float | None) -> None:
    """Say how long a stage will take from now; None while nobody knows.

    Where that is said, it is shown in place of what the bar's own pace would say.
    """
    if seconds is None:
        _foreseen.pop(name, None)
    else:
        _foreseen[name] = (seconds, time.monotonic())


def _left(name: str) -> float | None:
    """What is left of what was foreseen."""
    if name not in _foreseen:
        return None
    seconds, then = _foreseen[name]
    return max(seconds - (time.monotonic() - then), 0.0)


class Stage:
    """One measured piece of work: how much there is, how much is done, and a word about it."""

    def __init__(self, name: str, total: int, unit: str, task: TaskID | None) -> None:
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, 0, ""
        self._task = task
        self._started = time.monotonic()
        self._last_line = 0.0
        self._said: tuple[str, str] | None = None

    def advance(self, by: int = 1, note: str | None = None) -> None:
        """Add `by` units of finished work; `note` replaces the word shown beside the bar."""
        self.done += by
        if note is not None:
            self.note = note
        if _display is not None and self._task is not None:
            _display.update(
                self._task,
                total=self.total or 1,  # which whoever looks on learns only later
                completed=self.done,
                count=self._count(),
                note=self.note,
                refresh=False,
            )
        elif time.monotonic() - self._last_line >= _LINE_SECONDS and self.done < self.total:
            self._last_line = time.monotonic()
            left = _left(self.name)
            self._log(left=None if left is None else f"about {left_in_words(left)}")

    def begin(self) -> None:
        """Show what there is to do."""
        if _display is None:
            self._log()
        else:
            self.advance(0)

    def finish(self, note: str | None = None) -> None:
        """Close the stage: the bar is full, the last word stays."""
        self.note = note if note is not None else self.note
        foresee(self.name, None)
        if _display is not None and self._task is not None:
            full = max(self.done, 1)
            _display.update(
                self._task, total=full, completed=full, count=self._count(), note=self.note
            )
            _display.stop_task(self._task)
        if _display is None:
            self._log(ended=True)

    def settle(self, note: str) -> None:
        """Say that there is nothing to do."""
        self.note = note
        self._log()

    def _log(self, left: str | None = None, ended: bool = False) -> None:
        """A line about it, unless it would only say what the last one said."""
        seconds = time.monotonic() - self._started
        said = (self._count(), self.note)
        if said == self._said and not ended:
            return
        self._said = said
        words = [*said, left, f"{seconds:.1f} s" if ended else None]
        stage = {
            "name": self.name,
            "done": self.done,
            "total": self.total or None,
            "unit": self.unit,
            "note": self.note,
            "seconds": round(seconds, 1),
            "left_seconds": None if ended else _left(self.name),
            "ended": ended,
        }
        line = " · ".join(filter(None, words))
        log.info("%s: %s", self.name, line, extra={"stage": stage})

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
    current.begin()
    yield current
    current.finish()


def settle(name: str, note: str) -> None:
    """Say of a planned stage that there is nothing left to do in it."""
    if _display is None:
        Stage(name, 0, "", None).settle(note)
    else:
        with stage(name, note=note):
            pass


@contextmanager
def display(plan: Sequence[str]) -> Iterator[None]:
    """Show all planned stages from the first second; does nothing without a terminal."""
    global _display
    if not _draws() or _display is not None:
        yield
        return
    bars = _bars()
    with bars:
        _display = bars
        for name in plan:
            _planned[name] = bars.add_task(name, total=1, start=False, count="", note="waiting")
        try:
            yield
        finally:
            _display = None
            _planned.clear()


def _bars() -> Progress:
    """The live display: name, bar, count, seconds taken, seconds left, and a word."""
    from rich import progress
    from rich.console import ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Column
    from rich.text import Text

    def wide() -> bool:
        return terminal().width >= _WIDE  # anew each time, for it may be resized

    class Bar(progress.BarColumn):
        def render(self, task: progress.Task) -> Any:
            """How far it is."""
            self.bar_width = 20 if wide() else 10
            return super().render(task)

    class Count(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            """How much is done of how much; its unit where there is room."""
            count = str(task.fields["count"])
            return Text(count if wide() else count.partition(" ")[0])

    class Taken(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            """How long it has taken."""
            seconds = task.finished_time if task.finished else task.elapsed
            return Text("" if seconds is None else _clock(seconds), style="progress.elapsed")

    class Left(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            """What remains, as long as anything does and somebody knows."""
            foreseen = _left(task.description)
            left = task.time_remaining if foreseen is None else foreseen
            if task.finished or not task.started or left is None:
                return Text("")
            return Text(left_in_words(left), style="progress.remaining")

    class Words:
        def __init__(self, words: str) -> None:
            self.words = words

        def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
            yield Text(fitted(self.words, options.max_width), no_wrap=True, overflow="crop")

        def __rich_measure__(self, _: Console, options: ConsoleOptions) -> Measurement:
            return Measurement(1, max(len(self.words), 1))

    class Note(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Any:
            """The word beside it, as much of it as there is room for."""
            return Words(str(task.fields["note"]))

    class Bars(progress.Progress):
        drawn_width = terminal().width

        def get_renderable(self) -> Any:
            """What is drawn next; a narrower terminal has wrapped what was drawn last."""
            before, self.drawn_width = self.drawn_width, terminal().width
            if self.drawn_width < before:  # never when it is asked for the first time
                last = self.live._live_render  # nothing public says how many lines were drawn
                if last._shape is not None:
                    width, height = last._shape
                    last._shape = (width, height * math.ceil(before / self.drawn_width))
            return super().get_renderable()

    return Bars(
        progress.TextColumn("{task.description}", table_column=Column(min_width=9, no_wrap=True)),
        Bar(),
        Count(Column(no_wrap=True, justify="right")),
        Taken(Column(no_wrap=True, justify="right")),
        Left(Column(no_wrap=True, justify="right")),
        Note(Column(ratio=1, no_wrap=True)),
        console=terminal(),
        expand=True,
        speed_estimate_period=60,
        refresh_per_second=4,
    )


def fitted(words: str, width: int) -> str:
    """As much of a text as fits into so many columns, cut between its parts or its words."""
    if len(words) <= width:
        return words
    for mark, rest in ((", ", ""), (" ", "...")):
        parts = words.split(mark)
        while parts := parts[:-1]:
            shown = mark.join(parts).rstrip(",;:") + rest
            if len(shown) <= width:
                return shown
    return words[:width]


def _clock(seconds: float) -> str:
    """7, 1:42 or 2:03:09, as a clock that was started shows it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
