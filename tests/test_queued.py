from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from igkd_search import queued
from igkd_search.database import Database, connect
from igkd_search.errors import LeaseLost
from igkd_search.schema import metadata
from igkd_search.schema import queue as table
from tests.databases import KINDS, prepared_url


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url(request.param, tmp_path))
    yield opened
    opened.close()


def test_who_comes_first_is_served_first(base: Database) -> None:
    assert queued.add(base, "s", [{"x": 1.5}, {"x": 2, "name": "a"}]) == [0, 1]
    assert queued.add(base, "s", [{"flag": True}]) == [2]
    assert queued.waiting(base, "s") == [{"x": 1.5}, {"x": 2, "name": "a"}, {"flag": True}]
    assert queued.take(base, "s", slot=7) == {"x": 1.5}
    assert queued.take(base, "s", slot=3) == {"x": 2, "name": "a"}
    assert queued.waiting(base, "s") == [{"flag": True}]


def test_a_slot_that_asks_again_gets_the_same(base: Database) -> None:
    queued.add(base, "s", [{"x": 1}, {"x": 2}])
    assert [queued.take(base, "s", slot=4) for _ in range(3)] == [{"x": 1}] * 3
    assert queued.waiting(base, "s") == [{"x": 2}]


def test_an_empty_queue_gives_nothing_and_studies_do_not_mix(base: Database) -> None:
    queued.add(base, "other", [{"x": 1}])
    assert queued.take(base, "s", slot=0) is None
    assert queued.waiting(base, "s") == []
    assert queued.add(base, "s", []) == []


def test_of_many_at_once_each_gets_its_own(base: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        places = list(threads.map(lambda x: queued.add(base, "s", [{"x": x}])[0], range(12)))
        assert sorted(places) == list(range(12))
        taken = list(threads.map(lambda slot: queued.take(base, "s", slot), range(12)))
    values = [point["x"] for point in taken if point is not None]
    # on Postgres one that meets a row another is taking passes it by, and may find none
    assert len(values) == len(set(values)) and set(values) <= set(range(12))
    left = [point["x"] for point in queued.waiting(base, "s")]
    assert sorted([*values, *left]) == list(range(12))


def test_an_older_database_that_is_only_read_has_no_queue(base: Database) -> None:
    with base.transaction() as connection:
        metadata.drop_all(connection, [table])
    assert queued.waiting(base, "s") == []


def test_who_has_lost_its_slot_takes_nothing(base: Database) -> None:
    queued.add(base, "s", [{"x": 1}])

    def late(_: object) -> None:
        raise LeaseLost("another worker has it")

    with pytest.raises(LeaseLost):
        queued.take(base, "s", 0, late)
    assert queued.waiting(base, "s") == [{"x": 1}]
