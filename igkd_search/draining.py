"""Leaving in order: who is asked to stop finishes its epoch, gives its slot back, and goes.

The first SIGTERM or Ctrl-C asks. What has not left within the grace time is interrupted and loses
its epoch, of which the checkpoint before is on disk; a second signal interrupts at once.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""How long an epoch may go on after the first signal: what sent it waits 30 s before it kills."""


STOP = "igkd stop"
"""The reason when somebody had the workers of one study leave."""


class Leaving(BaseException):
    """A worker leaves as it was asked to; no Exception, so that nothing takes it for a failure."""


class Drain:
    """Whether this process has been asked to leave; loops look at `asked`, waits wait for it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Ask to leave; the first reason stays."""
        if not self.asked.is_set():
            self.reason = reason
            log.info("leaving after this epoch: %s", reason)
            self.asked.set()

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

        def asked(number: int, _frame: Any) -> None:
            if self.asked.is_set():
                raise KeyboardInterrupt
            # before the timer: nothing may come between that would be taken for a second signal
            self.ask(signal.Signals(number).name)
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, grace_seconds)

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
