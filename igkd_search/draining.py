"""Leaving in order: who is asked to stop finishes its epoch, gives its slot back, and goes.

The first SIGTERM or Ctrl-C asks. What has not left within the grace time is interrupted and loses
its epoch, of which the checkpoint before is on disk; a second signal interrupts at once.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""How long an epoch may go on after the first signal: what sent it waits 30 s before it kills."""

STOP = "igkd stop"
"""The reason when somebody had the workers of one study leave."""
_LOOK_SECONDS = 0.1  # between two looks at the flag, for who waits


class Leaving(BaseException):
    """A worker leaves as it was asked to; no Exception, so that nothing takes it for a failure."""


class _Flag(threading.Event):
    """An event that a signal's handler may set: no lock in it that its own thread might hold."""

    def __init__(self) -> None:
        super().__init__()
        self._raised = False

    def set(self) -> None:
        """Raise the flag."""
        self._raised = True

    def clear(self) -> None:
        """Take the flag down."""
        self._raised = False

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._raised

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the flag, or so many seconds; whether it is up."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._raised:
            left = _LOOK_SECONDS if end is None else end - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, _LOOK_SECONDS))
        return self._raised


class Drain:
    """Whether this process has been asked to leave; loops look at `asked`, waits wait for it."""

    def __init__(self) -> None:
        self.asked: threading.Event = _Flag()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Ask to leave; the first reason stays."""
        if not self.asked.is_set():
            self.reason = reason
            self.asked.set()
            log.info("leaving after this epoch: %s", reason)

    def forget(self) -> None:
        """Be asked no more: what was asked has been done."""
        self.reason = ""
        self.asked.clear()

    @contextmanager
    def on_signals(self, grace_seconds: float = GRACE_SECONDS) -> Iterator[None]:
        """Within, SIGTERM and SIGINT ask, a second one or the end of the grace time interrupts.

        Only the main thread may; elsewhere signals are left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        signals: list[int] = []

        def asked(number: int, _frame: Any) -> None:
            signals.append(number)
            if len(signals) > 1:
                raise KeyboardInterrupt
            # first, since what logs may have to wait for a lock, and the timer ends that too
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, grace_seconds)
            self.ask(signal.Signals(number).name)

        def too_long(_number: int, _frame: Any) -> None:
            raise Leaving(f"the epoch did not end within {grace_seconds:g} s")

        handlers: dict[int, Any] = {signal.SIGTERM: asked, signal.SIGINT: asked}
        if hasattr(signal, "SIGALRM"):
            handlers[signal.SIGALRM] = too_long
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
