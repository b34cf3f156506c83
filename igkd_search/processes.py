"""Child processes: each started with its own environment and log, signalled, told how it ended.

A child is a session of its own, so that a terminal's Ctrl-C reaches it through its parent alone.
Its environment, which says what GPU it sees, is complete before its first line runs.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from igkd_search.errors import StorageError

SUPERVISOR = "IGKD_SUPERVISOR"
"""Tells a child the pid of who started it."""
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 20


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
    with taking_signals(lambda number: process.send_signal(number)):
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


@contextmanager
def taking_signals(hear: Callable[[signal.Signals], None]) -> Iterator[None]:
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


def ending(code: int) -> str:
    """An exit code in words; negative ones are a signal's."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (out of memory?)" if -code == signal.SIGKILL else name
