"""Keeps child processes running: started again when they die, asked to leave, ended in order.

A child that dies is started again, later each time; one that dies again and again is given up, and
the others go on. A first signal asks them to leave, a second one hurries them.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from igkd_search.errors import ProcessError
from igkd_search.processes import Job, Process, ending, last_words, start, taking_signals

log = logging.getLogger(__name__)

MAX_DEATHS = 5
"""So many deaths in a row, none after a long life, and a child is given up."""
LONG_LIFE = 60.0
"""Seconds after which a death is no longer counted as one of a row."""
KILL_AFTER = 30.0
"""Seconds that children have to leave when they are asked to."""
_LEFT = (0, 130, -signal.SIGTERM, -signal.SIGINT)
"""How a child ends that was asked to; by the signal itself when it had hardly begun."""


@dataclass
class _Child:
    job: Job
    process: Process | None = None
    started: float = 0.0
    log_from: int = 0
    deaths: int = 0
    start_at: float | None = 0.0
    """When it is to be started (again); None while it runs and when it never will be."""
    failure: str = ""


class Supervisor:
    """Keeps children running until each has ended by itself or been given up.

    `max_deaths` in a row, and it is. `starter`, `monotonic` and `wait` (seconds, ended by a signal)
    are for tests.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        starter: Callable[[Job], Process] = start,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] | None = None,
        max_deaths: int = MAX_DEATHS,
    ) -> None:
        self._max_deaths = max_deaths
        self.asked: signal.Signals | None = None
        self._children = [_Child(job) for job in jobs]
        self._starter = starter
        self._monotonic = monotonic
        self._wait = wait
        self._signals: list[signal.Signals] = []
        self._kill_at = float("inf")

    @property
    def running(self) -> int:
        """How many children run just now."""
        return sum(child.process is not None for child in self._children)

    def ask(self, number: signal.Signals) -> None:
        """Have all children get this signal; what has not left within 30 s is killed."""
        self._signals.append(number)

    def run(self, tick: Callable[[], None] = lambda: None, poll_seconds: float = 0.25) -> None:
        """Run until every child has ended, with a `tick` between two looks at them.

        `asked` then says which signal ended it, if one did. ProcessError names those that were
        given up and those that had to be killed, with the last traceback of each.
        """
        with self._listening() as wait:
            try:
                while self._look():
                    tick()
                    wait(poll_seconds)
            except BaseException:  # an error of ours leaves no children behind
                self.ask(signal.SIGTERM)
                while self._look():
                    wait(poll_seconds)
                raise
        failures = [child.failure for child in self._children if child.failure]
        if failures:
            raise ProcessError("\n".join(failures))

    def _look(self) -> bool:
        """Do what is due to each child; whether any is at work or waits to be started."""
        self._forward()
        for child in self._children:
            if child.process is not None:
                self._look_at(child, child.process)
            if child.start_at is not None and self._monotonic() >= child.start_at:
                self._start(child)
        return any(c.process is not None or c.start_at is not None for c in self._children)

    def _forward(self) -> None:
        numbers, self._signals = self._signals, []
        for number in numbers:
            if self.asked is None:
                self.asked, self._kill_at = number, self._monotonic() + KILL_AFTER
                log.info("%s: asking %d workers to leave", number.name, self.running)
            for child in self._children:
                child.start_at = None
                if child.process is not None:
                    child.process.send_signal(number)

    def _look_at(self, child: _Child, process: Process) -> None:
        code = process.poll()
        if code is None:
            if self._monotonic() >= self._kill_at and not child.failure:
                child.failure = (
                    f"{child.job.name} did not leave within {KILL_AFTER:g} s and was killed; "
                    f"nothing is lost but its last epoch; its log: {child.job.log}"
                )
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return
        child.process = None
        if self.asked is not None:
            if code not in _LEFT and not child.failure:
                child.failure = self._in_words(child, f"ended with {ending(code)}")
        elif code != 0:
            self._bury(child, code)

    def _bury(self, child: _Child, code: int) -> None:
        """Settle when a child that died is started again, or that it is given up."""
        now = self._monotonic()
        child.deaths = 1 if now - child.started >= LONG_LIFE else child.deaths + 1
        if child.deaths >= self._max_deaths:
            row = f"{child.deaths} times in a row, the last time " if child.deaths > 1 else ""
            died = f"died {row}with {ending(code)}"
            child.failure = self._in_words(child, died)
            log.error("%s", child.failure)
            return
        pause = 2.0 ** (child.deaths - 1)
        child.start_at = now + pause
        log.warning(
            "%s died with %s; started again in %g s (its log: %s)",
            child.job.name,
            ending(code),
            pause,
            child.job.log,
        )

    def _start(self, child: _Child) -> None:
        child.log_from = child.job.log.stat().st_size if child.job.log.exists() else 0
        child.process, child.start_at = self._starter(child.job), None
        child.started = self._monotonic()

    def _in_words(self, child: _Child, what: str) -> str:
        words = last_words(child.job.log, child.log_from)
        return f"{child.job.name} {what}; its log: {child.job.log}\n{words}".rstrip()

    @contextmanager
    def _listening(self) -> Iterator[Callable[[float], None]]:
        """Within, SIGTERM and SIGINT ask the children to leave; yields how to wait meanwhile.

        Only the main thread may take signals; in another it just waits.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)

        def hear(number: signal.Signals) -> None:
            self.ask(number)
            with suppress(BlockingIOError):
                os.write(writing, b"!")

        def wait(seconds: float) -> None:
            if select.select([reading], [], [], seconds)[0]:
                os.read(reading, 64)

        try:
            with taking_signals(hear):
                yield self._wait or wait
        finally:
            os.close(reading)
            os.close(writing)
