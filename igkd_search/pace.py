"""How fast a search goes and how long it has to go, from what it has finished lately.

The mean of the trials that finished last is what a further one is expected to take, on one worker.
Trials that are running take what that mean leaves them, or, once they have outlived it, what their
remaining epochs take at their own pace. All others are then given out in order, each to the worker
that is free first, as workers claim slots; the last one to end says when the search ends. So half
the workers take twice as long, and a worker more than there are trials helps nobody. What nobody
can foresee is left out: deaths, workers that come or go, patience that ends a search early.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from igkd_search.slots import AttemptRow

RECENT = 20
"""How many trials the mean is taken over; with many workers twice as many as there are workers,
since of those that run at once the short ones finish first."""


@dataclass(frozen=True)
class Running:
    """One trial that a living worker has: seconds spent on it, epochs done, epochs at most."""

    seconds: float
    epochs: int
    planned: int


def seconds_a_trial(attempts: Sequence[AttemptRow], workers: int) -> float | None:
    """The mean seconds that the trials which finished last took, over all attempts at each.

    None until one has finished. A trial that a death interrupted does not count, for nobody knows
    when its worker stopped working; nor does the time that a released one waited. `attempts` are
    in order of slots.
    """
    finished: list[tuple[float, float]] = []
    for _, of_slot in groupby(attempts, key=lambda each: each.slot):
        seconds, known = 0.0, True
        for each in of_slot:
            known = known and each.end in ("done", "released")
            seconds += (each.ended or each.started) - each.started
            if each.end == "done" and known:
                finished.append((each.ended or each.started, seconds))
            if each.end in ("done", "forgiven"):  # a retry begins anew
                seconds, known = 0.0, True
    recent = sorted(finished)[-max(RECENT, 2 * workers) :]
    return fmean(seconds for _, seconds in recent) if recent else None


def seconds_spent(attempts: Sequence[AttemptRow], now: float) -> dict[int, float]:
    """Slot -> the seconds that its trial has had until `now`; none before a death."""
    spent: dict[int, float] = defaultdict(float)
    for each in attempts:
        if each.end in ("done", "died", "forgiven"):
            spent[each.slot] = 0.0
        else:
            spent[each.slot] += max((each.ended or now) - each.started, 0.0)
    return spent


def seconds_left(
    mean: float, running: Sequence[Running], idle: int, waiting: int, limit: float | None = None
) -> float | None:
    """Seconds until the search ends at the pace of its living workers; None when there are none.

    `idle` workers have nothing to do just now, `waiting` trials have nobody yet; after `limit`
    seconds none of these begins any more.
    """
    free = [_remaining(each, mean) for each in running] + [0.0] * idle
    heapq.heapify(free)
    for _ in range(waiting if free else 0):
        if limit is not None and free[0] >= limit:
            break
        heapq.heapreplace(free, free[0] + mean)
    return max(free, default=None)


def _remaining(running: Running, mean: float) -> float:
    if running.seconds < mean or not running.epochs:
        return max(mean - running.seconds, 0.0)
    return running.seconds / running.epochs * (running.planned - running.epochs)
