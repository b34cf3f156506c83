"""How far an accuracy can be trusted that was counted on so many images.

Wilson's interval, and not the normal one: it stays within 0 and 1, and near 100 % it is still true.
Its closed form needs no library, so a summary is printed without scipy.
"""

import math
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper end of the share of successes behind `successes` of `n` independent trials.

    E. B. Wilson, 1927; `confidence` is of the two-sided interval. ValueError unless
    0 <= successes <= n and n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}: allowed are 0 to n, of n >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    # at the ends rounding would leave a share a hair outside
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def of_accuracy(accuracy: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy (0 to 1) that was counted on `n` images."""
    return wilson(round(accuracy * n), n)
