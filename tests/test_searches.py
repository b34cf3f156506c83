from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from igkd_search import searches
from igkd_search.database import Database, connect
from igkd_search.schema import metadata
from igkd_search.schema import searches as table
from tests.databases import KINDS, prepared_url


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url(request.param, tmp_path))
    yield opened
    opened.close()


def tick(base: Database, study: str = "s") -> int:
    with base.transaction() as connection:
        return searches.tick(connection, base, study)


def since_last(base: Database, seconds: float) -> None:
    """Pretend that the last sign of life is so long ago."""
    with base.transaction() as connection:
        connection.execute(sa.update(table).values(ticked=base.now - seconds))


def test_before_its_first_worker_a_search_has_taken_no_time(base: Database) -> None:
    assert searches.read(base, "s") == searches.Search(0, 0.0)
    assert tick(base) == 0
    assert searches.read(base, "s") == searches.Search(0, 0.0), "the first sign of life begins it"


def test_only_time_with_a_worker_at_work_counts(base: Database) -> None:
    tick(base)
    for gap, total in ((20.0, 20.0), (45.0, 65.0), (7 * 86400.0, 65.0), (10.0, 75.0)):
        since_last(base, gap)
        tick(base)
        assert searches.read(base, "s").seconds == pytest.approx(total, abs=2.0)


def test_workers_at_once_do_not_count_twice(base: Database) -> None:
    tick(base)
    since_last(base, 30.0)
    for _ in range(5):
        tick(base)
    assert searches.read(base, "s").seconds == pytest.approx(30.0, abs=2.0)


def test_a_clock_that_was_set_back_takes_nothing_away(base: Database) -> None:
    tick(base)
    since_last(base, -3600.0)
    tick(base)
    assert searches.read(base, "s").seconds == 0.0


def test_each_word_to_stop_is_counted_and_of_one_study(base: Database) -> None:
    tick(base, "other")
    assert [searches.ask_to_stop(base, "s") for _ in range(2)] == [1, 2]
    assert (tick(base), tick(base, "other")) == (2, 0)


def test_an_older_database_that_is_only_read_knows_nothing(base: Database) -> None:
    with base.transaction() as connection:
        metadata.drop_all(connection, [table])
    assert searches.read(base, "s") == searches.Search()
