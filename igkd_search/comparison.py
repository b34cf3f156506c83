"""Two samples compared: Welch's t-test with its interval, Holm's correction, seeds that are needed.

Pure numbers, which know nothing of arms or studies. The test is Welch's because the arms of an
ablation need not spread alike. Where a test cannot be made the result says why, in place of a
number that means nothing.
"""

import bisect
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

LEVEL = 0.05
"""Two-sided; the intervals hold 1 - LEVEL."""
POWER = 0.8
"""The chance to show a difference that is there."""
_MOST_SEEDS = 2**20  # beyond it nobody trains, and the noncentral t loses its digits

NO_INTERVAL = "with fewer than two values on a side there is no interval and no test"
NO_SPREAD = "the values of each side are all the same, so no spread measures the difference"


@dataclass(frozen=True)
class Comparison:
    """The difference of two means, and how far it can be trusted; in the unit of the values.

    What could not be computed is None, and `reason` says why. `df` are Welch's degrees of freedom,
    `p` is two-sided and of this comparison alone.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    t: float | None = None
    df: float | None = None
    p: float | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); exactly 0 of values that are all the same."""
    return 0.0 if len(set(values)) == 1 else statistics.stdev(values)


def moments(values: Sequence[float]) -> dict[str, Any]:
    """mean, sd (None of one value) and n, as plain JSON."""
    sd = spread(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}


def described(values: Sequence[float]) -> dict[str, Any]:
    """The same with low and high, the 95 % interval of the mean; None where it has none."""
    low, high = mean_interval(values) or (None, None)
    return {**moments(values), "low": low, "high": high}


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None of one value, or of values all the same."""
    n, sd = len(values), spread(values)
    if n < 2 or sd == 0:
        return None
    mean, half = statistics.fmean(values), _critical(n - 1) * sd / math.sqrt(n)
    return mean - half, mean + half


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """The mean of `ours` minus that of `theirs`, with Welch's test and 95 % interval.

    B. L. Welch, 1947. Neither side may be empty; a side of one value has no interval.
    """
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return Comparison(difference, reason=NO_INTERVAL)
    parts = [(spread(values) ** 2 / len(values), len(values) - 1) for values in (ours, theirs)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Comparison(difference, reason=NO_SPREAD)
    # shares of the variance, since squares of tiny variances would be zero
    df = 1 / sum((part / variance) ** 2 / free for part, free in parts)
    t, half = difference / math.sqrt(variance), _critical(df) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(t), df))
    return Comparison(difference, difference - half, difference + half, t, df, min(p, 1.0))


def _critical(df: float) -> float:
    return float(stats.t.isf(LEVEL / 2, df))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each p corrected by Holm's step-down method over all those that are not None.

    S. Holm, 1979: corrected values of at most 0.05 hold together, with a chance of at most 5 % that
    any of them is false.
    """
    made = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        corrected[place] = largest
    return corrected


def power(n: int, difference: float, sd: float, level: float = LEVEL) -> float:
    """The chance that a two-sided t-test of two samples of `n` shows a difference that is there.

    Of normal values with the same `sd` on both sides, by the noncentral t distribution.
    """
    df, shift = 2 * n - 2, abs(difference) / sd * math.sqrt(n / 2)
    bound = float(stats.t.isf(level / 2, df))
    return float(stats.nct.sf(bound, df, shift) + stats.nct.cdf(-bound, df, shift))


def seeds_needed(difference: float, sd: float, level: float = LEVEL) -> int | None:
    """How many values a side show `difference` at this level with 80 % power; at least 2.

    None where no number of up to a million does.
    """
    if sd == 0:
        return 2
    most = 2
    while power(most, difference, sd, level) < POWER:
        most *= 2
        if most > _MOST_SEEDS:
            return None
    enough = range(max(most // 2, 2), most + 1)
    found = bisect.bisect_left(enough, POWER, key=lambda n: power(n, difference, sd, level))
    return enough[found]


@dataclass(frozen=True)
class Spread:
    """One sd pooled over several samples, with its 95 % interval; None where it has none."""

    sd: float
    df: int
    low: float
    high: float


def pooled(samples: Sequence[Sequence[float]]) -> Spread | None:
    """The sd within samples, as if it were the same in all; None unless one has two values.

    The interval is the chi-squared one of normal values.
    """
    df = sum(len(values) - 1 for values in samples)
    if df == 0:
        return None
    squares = sum(spread(values) ** 2 * (len(values) - 1) for values in samples if len(values) > 1)
    low, high = (float(stats.chi2.ppf(q, df)) for q in (1 - LEVEL / 2, LEVEL / 2))
    return Spread(math.sqrt(squares / df), df, *(math.sqrt(squares / q) for q in (low, high)))
