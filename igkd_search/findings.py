"""What a check found, in one form for all of them: how it is, what was found, what to type."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from igkd_search.errors import reason_of

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to type when it is not as it should be."""

    name: str
    state: State
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert self.state == "ok" or self.advice, f"{self.name}: {self.state}, and no advice"


def ok(name: str, found: str) -> Finding:
    """All is well, or it is no matter."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, advice: str) -> Finding:
    """Searches run, but not as one may expect."""
    return Finding(name, "warning", found, advice)


def fault(name: str, found: str, advice: str) -> Finding:
    """A search would fail over this."""
    return Finding(name, "fault", found, advice)


def guarded(
    name: str,
    check: Callable[[], Iterable[Finding]],
    expected: tuple[type[Exception], ...],
    advice: str,
) -> list[Finding]:
    """What a check finds; what it died of, if that is one of the expected, as one more finding."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except expected as error:
        found.append(fault(name, reason_of(error), advice))
    return found
