"""Child processes: started each in its own log, started again when they die, ended in order.

A child that dies is started again, later each time; one that dies again and again is given up. They
are sessions of their own, so that a terminal's Ctrl-C reaches them through the supervisor alone: a
first one asks them to leave, a second one hurries them. Nothing here imports torch: a child's
environment, which says what GPU it sees, is complete before its first line runs.
"""

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from igkd_search.errors import ProcessError, StorageError

log = logging.getLogger(__name__)

MAX_DEATHS = 5
"""So many deaths in a row, none after a long life, and a child is given up."""
LONG_LIFE = 60.0
"""Seconds after which a death is no longer counted as one of a row."""
KILL_AFTER = 30.0
"""Seconds that children have to leave when they are asked to."""
SUPERVISOR = "IGKD_SUPERVISOR"
"""Tells a child the pid of who started it."""
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 20
_LEFT = (0, 130, -signal.SIGTERM, -signal.SIGINT)
"""How a child ends that was asked to; by the signal itself when it had hardly begun."""


@dataclass(frozen=True)
class Job:
    """One child: its command, what its environment has besides ours, where its output goes."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Process(Protocol):
    """What a started child must offer; a `subprocess.Popen` does."""

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal's; None while it runs."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, unless it has ended."""


def start(job: Job) -> Process:
    """Start a child, its output appended to its log; StorageError when that cannot be written."""
    environment = {**os.environ, **job.environment, SUPERVISOR: str(os.getpid())}
    with StorageError.when_writing(job.log):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        output = job.log.open("ab")
    with output:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def in_front(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a child on this process's own streams, pass signals on to it, and return its exit code.

    `environment` is added to ours.
    """
    own = {**os.environ, **environment, SUPERVISOR: str(os.getpid())}
    # a session of its own, or a terminal's Ctrl-C would reach it twice
    process = subprocess.Popen(command, env=own, start_new_session=True)
    with _taking_signals(lambda number: process.send_signal(number)):
        return process.wait()


def die_with_parent() -> None:
    """In a child: be asked to leave (SIGTERM) when the supervisor dies, be it by kill -9.

    Does nothing in a process that no supervisor started, nor where the system is not Linux.
    """
    parent = os.environ.pop(SUPERVISOR, None)  # for this process, not for those that it starts
    if parent is None or sys.platform != "linux":
        return
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


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
                child.failure = self._in_words(child, f"ended with {_reason(code)}")
        elif code != 0:
            self._bury(child, code)

    def _bury(self, child: _Child, code: int) -> None:
        """Settle when a child that died is started again, or that it is given up."""
        now = self._monotonic()
        child.deaths = 1 if now - child.started >= LONG_LIFE else child.deaths + 1
        if child.deaths >= self._max_deaths:
            row = f"{child.deaths} times in a row, the last time " if child.deaths > 1 else ""
            died = f"died {row}with {_reason(code)}"
            child.failure = self._in_words(child, died)
            log.error("%s", child.failure)
            return
        pause = 2.0 ** (child.deaths - 1)
        child.start_at = now + pause
        log.warning(
            "%s died with %s; started again in %g s (its log: %s)",
            child.job.name,
            _reason(code),
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
            with _taking_signals(hear):
                yield self._wait or wait
        finally:
            os.close(reading)
            os.close(writing)


@contextmanager
def _taking_signals(hear: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Within, SIGTERM and SIGINT are told to `hear`; but only in the main thread."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for asking in (signal.SIGTERM, signal.SIGINT):
            before[asking] = signal.signal(asking, lambda n, _: hear(signal.Signals(n)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_words(file: Path, since: int = 0) -> str:
    """What a log ends with after its byte `since`: its last traceback, else its last lines."""
    if not file.exists():
        return ""
    with file.open("rb") as stream:
        stream.seek(max(since, file.stat().st_size - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    tracebacks = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    return "\n".join(lines[tracebacks[-1] :] if tracebacks else lines[-_TAIL_LINES:])


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (out of memory?)" if -code == signal.SIGKILL else name
