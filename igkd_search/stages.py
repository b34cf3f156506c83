"""What is being done, from the first second: a bar of one live display, or lines of the log.

On a terminal the stages of a run are bars of one rich display (`bars`); without one, and where
--quiet or --log-json ask for none, each stage logs its lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from igkd_search import amounts, bars, console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

_LINE_SECONDS = 5.0  # between two lines of a stage where there are no bars
_display: Progress | None = None
_planned: dict[str, TaskID] = {}
_foreseen: dict[str, tuple[float, float]] = {}


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
            self._log(left=None if left is None else f"about {amounts.left(left)}")

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
    if not console.draws() or _display is not None:
        yield
        return
    shown = bars.made(console.terminal(), _left, amounts.left)
    with shown:
        _display = shown
        for name in plan:
            _planned[name] = shown.add_task(name, total=1, start=False, count="", note="waiting")
        try:
            yield
        finally:
            _display = None
            _planned.clear()
