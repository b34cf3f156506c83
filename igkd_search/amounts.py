"""Numbers as people read them: shares, milliseconds, factors, counts, time spans."""

import math
from typing import Any


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 1: 99.65%."""
    return "" if share is None else f"{share:.{digits}%}"


def spread(mean: float, sd: float | None) -> str:
    """A mean share in percent, without its sign, with the sd where there is one: 98.78 +- 0.74."""
    return f"{100 * mean:.2f}" + ("" if sd is None else f" +- {100 * sd:.2f}")


def milliseconds(value: float | None) -> str:
    """Three significant digits, never as a power of ten: 0.273 ms, 9.00 ms, 1,230 ms."""
    if value is None:
        return ""
    rounded = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:,.{max(digits, 0)}f} ms"


def times(ratio: float | None) -> str:
    """A factor: 3.14x with the sign of multiplication, from a hundred on whole."""
    if ratio is None:
        return ""
    return f"{ratio:,.0f}\u00d7" if ratio >= 100 else f"{ratio:.2f}\u00d7"


def factor(ratio: float | None, above: str, below: str) -> str:
    """How many times more one thing is than another, in the word that is true of it.

    Of 4.0 it is that many times `above`, of 0.5 twice `below`.
    """
    if not ratio:
        return ""
    return f"{times(ratio)} {above}" if ratio >= 1 else f"{times(1 / ratio)} {below}"


def count(number: float | None) -> str:
    """Whole, with separators: 543,498."""
    return "" if number is None else f"{number:,.0f}"


def value(found: Any) -> str:
    """A parameter's value: three significant digits of a fraction, all else as it is."""
    return f"{found:.3g}" if isinstance(found, float) else str(found)


def size(found: int) -> str:
    """Bytes as people read them, in powers of 1000: 812 B, 9.1 MB, 162 MB."""
    number, unit = float(found), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if number < 9.95 and unit != "B" else f"{number:.0f} {unit}"


def several(number: int, noun: str) -> str:
    """A count with its noun: 1 trial, 1,000 trials."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(words: list[str]) -> str:
    """One; one and two; one, two and three."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def span(seconds: float | None) -> str:
    """A time span in its two largest units: 42 s, 12 min 3 s, 3 h 12 min, 2 d 4 h."""
    if seconds is None:
        return ""
    whole = round(seconds)
    for unit, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def left(seconds: float) -> str:
    """A time to go, without the seconds that would promise more than is known."""
    return f"{span(seconds if seconds < 90 else 60 * round(seconds / 60))} left"
