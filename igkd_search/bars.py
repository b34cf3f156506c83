"""The live display of stages on a terminal of any width, by rich: one bar a stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_WIDE = 100  # columns from which on there is room for longer bars and the units of counts


def made(
    terminal: Console,
    left_of: Callable[[str], float | None],
    in_words: Callable[[float], str],
) -> Progress:
    """The live display: name, bar, count, seconds taken, seconds left, and a word.

    `left_of` says of a stage how many seconds are foreseen to be left, where somebody knows;
    `in_words` how that is written.
    """
    from rich import progress
    from rich.console import ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Column
    from rich.text import Text

    def wide() -> bool:
        return terminal.width >= _WIDE  # anew each time, for it may be resized

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
            foreseen = left_of(task.description)
            left = task.time_remaining if foreseen is None else foreseen
            if task.finished or not task.started or left is None:
                return Text("")
            return Text(in_words(left), style="progress.remaining")

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
        drawn_width = terminal.width

        def get_renderable(self) -> Any:
            """What is drawn next; a narrower terminal has wrapped what was drawn last."""
            before, self.drawn_width = self.drawn_width, terminal.width
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
        console=terminal,
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
