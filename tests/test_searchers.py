"""What a search has shown against its epochs, by hand-made trials."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from igkd_search import registry, results

Benchmark = Callable[[str], ModuleType]


@pytest.fixture
def bench(benchmark_of: Benchmark) -> ModuleType:
    return benchmark_of("search")


@pytest.fixture
def searchers(benchmark_of: Benchmark) -> ModuleType:
    return benchmark_of("searchers")


def row(number: int, state: str, accuracy: float | None, epochs: int) -> results.Row:
    unknown: dict[str, Any] = dict.fromkeys(
        ("slot", "proposed_by", "seed", "seconds", "cause", "reason")
    )
    known: dict[str, Any] = {"parameters": {}, "attempts": 1, "attributes": {}}
    return results.Row(
        number=number, state=state, accuracy=accuracy, epochs=epochs, **known, **unknown
    )


def test_only_complete_trials_are_answers_but_all_epochs_were_spent(searchers: ModuleType) -> None:
    rows = [
        row(0, "complete", 0.5, 9),
        row(1, "pruned", 0.9, 3),
        row(2, "failed", None, 1),  # and a second epoch, in which it diverged
        row(3, "complete", 0.4, 9),
        row(4, "complete", 0.7, 9),
        row(5, "running", 0.8, 2),
    ]
    found = searchers.shown(rows)
    assert found["curve"] == [(9, 0.5), (9 + 3 + 2 + 9 + 9, 0.7)]
    assert (found["best"], found["epochs"]) == (0.7, 34)
    assert found["trials"] == {"complete": 3, "failed": 1, "pruned": 1, "running": 1}


def test_who_never_is_as_good_counts_as_the_least(bench: ModuleType) -> None:
    curve = [(9, 0.5), (32, 0.7)]
    assert [bench.epochs_until(curve, goal) for goal in (0.5, 0.6, 0.7, 0.8)] == [9, 32, 32, None]
    found = bench.ratio_of([20, None, 50, 25, None], 100)
    assert (found["ratio"], found["spread"], found["reached"]) == (2.0, [None, 5.0], 3)
    assert not found["holds"]
    assert bench.ratio_of([None, None, 10], 100)["ratio"] is None, "most never were"


def test_random_search_is_held_against_itself_with_other_seeds(bench: ModuleType) -> None:
    rows = [{"curve": [(10, 0.6)], "best": 0.6}, {"curve": [(10, 0.5), (40, 0.8)], "best": 0.8}]
    found = bench.by_other_seeds(rows, 100)
    assert found["epochs_needed"] == [None, 40]
    assert bench.by_other_seeds(rows[:1], 100) is None


def test_all_methods_may_spend_the_same_and_begin_with_no_given_point(
    searchers: ModuleType,
) -> None:
    asked = registry.find("digits")
    found = [searchers.Search.of(method, 3, asked) for method in searchers.METHODS]
    assert {each.epochs for each in found} == {asked.search.trials * asked.trial.epochs}
    assert all(each.study.search.start == [] for each in found)
    assert len({each.study.name for each in found}) == len(found)
    elsewhere = searchers.Search.of("tpe", 3, asked, "cuda")
    assert elsewhere.study.name not in {each.study.name for each in found}
