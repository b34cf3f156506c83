"""Rate and time left from what finished lately, with numbers worked by hand."""

import pytest

from igkd_search import pace
from igkd_search.pace import Running
from igkd_search.slots import AttemptRow


def attempt(
    slot: int, number: int, started: float, ended: float | None, end: str | None
) -> AttemptRow:
    return AttemptRow(slot, number, "w", "host", 1, started, ended, end)


def done(slot: int, seconds: float) -> AttemptRow:
    return attempt(slot, 1, 100.0 * slot, 100.0 * slot + seconds, "done")


def test_nothing_is_known_until_a_trial_has_finished() -> None:
    assert pace.seconds_a_trial([], 3) is None
    assert pace.seconds_a_trial([attempt(0, 1, 5.0, None, None)], 3) is None
    assert pace.seconds_a_trial([done(0, 30.0), done(1, 10.0)], 3) == 20.0


def test_only_what_finished_lately_counts() -> None:
    old = [done(slot, 90.0) for slot in range(5)]
    new = [done(slot, 10.0) for slot in range(5, 5 + pace.RECENT)]
    assert pace.seconds_a_trial([*old, *new], 1) == 10.0
    assert pace.seconds_a_trial([*old, *new], pace.RECENT) == 26.0, "many workers, a longer past"


def test_a_released_trial_counts_with_all_its_attempts_but_not_while_it_waits() -> None:
    released = [attempt(0, 1, 0.0, 30.0, "released"), attempt(0, 2, 9000.0, 9010.0, "done")]
    assert pace.seconds_a_trial(released, 1) == 40.0


def test_a_trial_whose_worker_died_says_nothing_of_the_time_it_takes() -> None:
    # the death was noticed on Monday
    adopted = [attempt(0, 1, 0.0, 200_000.0, "died"), attempt(0, 2, 200_000.0, 200_001.0, "done")]
    assert pace.seconds_a_trial(adopted, 1) is None
    assert pace.seconds_a_trial([*adopted, done(1, 30.0)], 1) == 30.0


def test_a_retry_is_a_trial_of_its_own() -> None:
    again = [attempt(0, 1, 0.0, 30.0, "done"), attempt(0, 2, 500.0, 510.0, "done")]
    assert pace.seconds_a_trial(again, 1) == 20.0
    forgiven = [attempt(0, 1, 0.0, 9e9, "forgiven"), attempt(0, 2, 500.0, 510.0, "done")]
    assert pace.seconds_a_trial(forgiven, 1) == 10.0


def test_what_was_spent_on_a_trial_is_counted_from_where_it_began_anew() -> None:
    found = pace.seconds_spent(
        [
            attempt(0, 1, 0.0, 30.0, "released"),
            attempt(0, 2, 900.0, None, None),
            attempt(1, 1, 0.0, 500.0, "died"),
            attempt(1, 2, 990.0, None, None),
            attempt(2, 1, 0.0, 500.0, "done"),
        ],
        1000.0,
    )
    assert (found[0], found[1], found[2], found[3]) == (130.0, 10.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("running", "idle", "waiting", "left"),
    [
        ([], 0, 5, None),  # nobody is at work
        ([], 1, 5, 50.0),
        ([], 2, 5, 30.0),  # three rounds
        ([], 5, 5, 10.0),
        ([], 50, 5, 10.0),  # more workers than trials help nobody
        ([Running(4.0, 1, 8)], 0, 0, 6.0),
        ([Running(4.0, 1, 8)], 0, 2, 26.0),
        ([Running(4.0, 1, 8), Running(9.0, 7, 8)], 0, 1, 11.0),  # who is free first goes on
        ([Running(30.0, 3, 8)], 0, 0, 50.0),  # has outlived the mean: at its own pace
        ([Running(30.0, 8, 8)], 0, 0, 0.0),
        ([Running(30.0, 0, 8)], 0, 0, 0.0),  # no epoch yet, so no pace of its own
    ],
)
def test_the_end_is_that_of_the_last_trial(
    running: list[Running], idle: int, waiting: int, left: float | None
) -> None:
    assert pace.seconds_left(10.0, running, idle, waiting) == left


def test_twice_the_workers_take_half_the_time() -> None:
    assert pace.seconds_left(10.0, [], 4, 400) == 1000.0
    assert pace.seconds_left(10.0, [], 8, 400) == 500.0


@pytest.mark.parametrize(("limit", "left"), [(25.0, 30.0), (20.0, 20.0), (0.0, 0.0), (None, 50.0)])
def test_after_the_hours_are_spent_nothing_begins(limit: float | None, left: float) -> None:
    assert pace.seconds_left(10.0, [], 1, 5, limit) == left
