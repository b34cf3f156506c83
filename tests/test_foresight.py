"""How long a search has to go, read beside it: seldom, and past a database that is away."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igkd_search import database, foresight, registry, stages
from igkd_search.errors import StorageLost
from tests.databases import prepared_url


@pytest.fixture(autouse=True)
def nothing_foreseen() -> Iterator[None]:
    yield
    stages.foresee("trials", None)


class Clock:
    """A clock that stands until it is waited upon; so many waits, and the search is over."""

    def __init__(self, waits: int) -> None:
        self.now, self.waits, self.waited = 0.0, waits, list[float]()

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return len(self.waited) > self.waits


def test_what_is_read_is_shown_and_a_lost_database_leaves_the_last() -> None:
    shown: list[float | None] = []
    answers: Iterator[Any] = iter([{"seconds": {"left": 60.0}}, StorageLost("away"), None])
    clock = Clock(waits=2)

    def read() -> dict[str, Any]:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return dict(found)

    foresight.follow(read, clock.wait, clock.monotonic)
    shown.append(stages._left("trials"))
    assert shown[0] is not None and 59 < shown[0] <= 60
    assert clock.waited == [5.0, 5.0, 5.0]


def test_a_slow_reading_is_followed_by_a_long_pause() -> None:
    clock = Clock(waits=2)

    def read() -> dict[str, Any]:
        clock.now += 0.2
        return {"seconds": {"left": None}}

    foresight.follow(read, clock.wait, clock.monotonic)
    assert clock.waited == pytest.approx([5.0, 20.0, 20.0])
    assert stages._left("trials") is None


def test_it_waits_for_a_study_that_is_not_there_yet_and_ends_with_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    read: list[str] = []

    def follow(reading: Any, wait: Any) -> None:
        for name in ("before", "after"):
            try:
                reading()
            except Exception:
                read.append(f"{name}: none")
            else:
                read.append(f"{name}: there")
            if name == "before":
                registry.register(base, registry.find("digits"))

    monkeypatch.setattr(foresight, "follow", follow)
    with foresight.foreseeing(base.url, "digits"):
        pass
    assert read == ["before: none", "after: there"]
    base.close()
