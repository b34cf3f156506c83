"""A crew on an empty database, once on SQLite and once on Postgres: one contract for both."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.databases import KINDS, prepared_url
from tests.faults.crew import Crew


@pytest.fixture
def crew_on(tmp_path: Path) -> Iterator[Callable[[str], Crew]]:
    """A crew on the database at a URL; what is left of it is killed in the end."""
    crews: list[Crew] = []

    def gather(url: str) -> Crew:
        crews.append(Crew(url, tmp_path))
        return crews[-1]

    yield gather
    for crew in crews:
        crew.close()


@pytest.fixture(params=KINDS)
def crew(request: pytest.FixtureRequest, tmp_path: Path, crew_on: Callable[[str], Crew]) -> Crew:
    return crew_on(prepared_url(request.param, tmp_path))
