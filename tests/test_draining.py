import signal
import threading
import time
from collections.abc import Callable

import pytest

from igkd_search.draining import Drain, Leaving

Handler = Callable[[int, object], None]


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    drain = Drain()
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    with drain.on_signals():
        assert not drain.asked.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert drain.asked.is_set() and drain.reason == "SIGTERM"
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0, "the grace time runs"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    assert after == before


def test_an_epoch_that_outlasts_the_grace_time_is_interrupted() -> None:
    drain = Drain()
    with drain.on_signals(grace_seconds=0.01), pytest.raises(Leaving, match=r"within 0\.01 s"):
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(30)  # an epoch that does not end


def test_leaving_is_no_failure_of_a_trial() -> None:
    assert not issubclass(Leaving, Exception)


def test_the_first_reason_stays_and_any_thread_may_ask() -> None:
    drain = Drain()
    thread = threading.Thread(target=drain.ask, args=["igkd stop"])
    thread.start()
    thread.join(30)
    drain.ask("SIGTERM")
    assert (drain.asked.is_set(), drain.reason) == (True, "igkd stop")


def test_another_thread_leaves_signals_alone() -> None:
    found: list[object] = []
    before = signal.getsignal(signal.SIGTERM)

    def look() -> None:
        with Drain().on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(30)
    assert found == [before]


def test_a_signal_may_come_at_any_moment_of_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler runs in the thread that waits, and must not meet a lock that this one holds."""
    drain, sleeps = Drain(), list[float]()

    def asleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(time, "sleep", asleep)
    with drain.on_signals():
        assert drain.asked.wait(3600.0)
        assert drain.asked.wait()
    assert len(sleeps) == 3
    drain.asked.clear()
    assert not drain.asked.wait(0.0)


def test_what_was_asked_and_done_is_forgotten() -> None:
    drain = Drain()
    drain.ask("igkd stop")
    drain.forget()
    assert not drain.asked.is_set() and drain.reason == ""
    drain.ask("SIGTERM")
    assert drain.reason == "SIGTERM"


def test_who_was_asked_already_still_has_a_first_signal() -> None:
    drain = Drain()
    with drain.on_signals():
        drain.ask("igkd stop")
        signal.raise_signal(signal.SIGTERM)
        assert drain.reason == "igkd stop"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
