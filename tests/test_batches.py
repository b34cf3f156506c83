"""Epochs are drawn whole: rows at most once, one shape, by the generator alone, halves mirrored."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from igkd_search import spec
from igkd_search.augment import Views
from igkd_search.batches import Batch, Feed, Indexes

KINDS = Views(1, flip=True)
ROWS = torch.tensor([3, 5, 7, 8, 12, 13, 14, 20, 21, 22, 30])
PLAIN, ALTERNATING = spec.Recipe(), spec.Recipe(alternating_flip=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(feed: Feed, number: int = 1, size: int = 4, seed: int = 0) -> list[Batch]:
    return list(feed.epoch(number, size, seeded(seed)))


def whole(batches: list[Batch], name: str) -> Tensor:
    """A field of all batches as one tensor, along the rows."""
    return torch.cat([getattr(batch, name) for batch in batches], -1)


def same(one: list[Batch], other: list[Batch]) -> bool:
    names = ("rows", "places", "views", "chance")
    return len(one) == len(other) and all(
        torch.equal(whole(one, name), whole(other, name)) for name in names
    )


def mirrored(feed: Feed, number: int, seed: int = 0, size: int = len(ROWS)) -> dict[int, bool]:
    """Row -> whether an epoch shows it mirrored."""
    batches = drawn(feed, number, size, seed)
    flips = (whole(batches, "views") % 2 == 1).tolist()
    return dict(zip(whole(batches, "rows").tolist(), flips, strict=True))


# --- which rows


@pytest.mark.parametrize(("size", "steps"), [(4, 2), (5, 2), (11, 1), (6, 1), (2, 5)])
def test_batches_have_one_shape_and_rows_of_the_feed_each_at_most_once(
    size: int, steps: int
) -> None:
    batches = drawn(Feed(ROWS, KINDS, PLAIN, 0), size=size)
    assert len(batches) == steps
    for batch in batches:
        assert batch.rows.shape == batch.places.shape == batch.views.shape == (size,)
        assert batch.chance.shape == (4, size)
        assert batch.pixels is None and batch.targets is None
        assert (batch.chance >= 0).all() and (batch.chance < 1).all()
        assert (batch.views >= 0).all() and (batch.views < KINDS.count).all()
        assert torch.equal(batch.places, batch.views)  # the bank holds every view in its place
    rows = whole(batches, "rows").tolist()
    assert len(set(rows)) == size * steps and set(rows) <= set(ROWS.tolist())


def test_rows_that_wait_are_others_in_another_epoch() -> None:
    feed, generator = Feed(ROWS, KINDS, PLAIN, 0), seeded()
    seen = Counter[int]()
    for number in range(1, 201):
        seen.update(whole(list(feed.epoch(number, 5, generator)), "rows").tolist())
    # 10 of 11 rows an epoch: 181.8 times of 200 each, sd = sqrt(200 * 1/11 * 10/11) = 4.1
    assert set(seen) == set(ROWS.tolist())
    assert all(abs(count - 181.8) < 4 * 4.1 for count in seen.values())


# --- chance


@pytest.mark.parametrize("recipe", [PLAIN, ALTERNATING])
def test_an_epoch_is_a_function_of_the_generators_state(recipe: spec.Recipe) -> None:
    feed, generator = Feed(ROWS, KINDS, recipe, 0), seeded(3)
    first = list(feed.epoch(1, 4, generator))
    state = generator.get_state()
    second = list(feed.epoch(2, 4, generator))
    torch.manual_seed(77)  # torch's own generator must not matter
    fresh = Feed(ROWS, KINDS, recipe, 0)
    assert same(drawn(fresh, seed=3), first)
    generator.set_state(state)
    assert same(list(fresh.epoch(2, 4, generator)), second)
    assert not same(first, second)
    assert not same(drawn(fresh, seed=4), first)


def test_all_is_drawn_before_the_first_step() -> None:
    generator, reference = seeded(), seeded()
    list(Feed(ROWS, KINDS, PLAIN, 0).epoch(1, 4, reference))
    batches = Feed(ROWS, KINDS, PLAIN, 0).epoch(1, 4, generator)
    assert torch.equal(generator.get_state(), reference.get_state())
    next(iter(batches))
    assert torch.equal(generator.get_state(), reference.get_state())


def test_the_values_of_chance_know_nothing_of_each_other() -> None:
    feed = Feed(torch.arange(4000), KINDS, PLAIN, 0)
    chance = whole(drawn(feed, size=400), "chance")
    correlations = torch.corrcoef(chance) - torch.eye(4)
    assert correlations.abs().max() < 4 / 4000**0.5
    assert (chance.mean(1) - 0.5).abs().max() < 4 * (1 / 12 / 4000) ** 0.5


def test_restricted_rows_show_the_chosen_views_alone() -> None:
    chosen = torch.randint(KINDS.count, (31, 3), generator=seeded(9))
    batches = drawn(Feed(ROWS, KINDS, PLAIN, 0, chosen=chosen), size=11)
    rows, places, views = (whole(batches, name) for name in ("rows", "places", "views"))
    assert torch.equal(views, chosen[rows, places])
    assert set(places.tolist()) == {0, 1, 2}


# --- alternating flips


def test_over_two_epochs_every_image_is_mirrored_exactly_once() -> None:
    feed = Feed(ROWS, KINDS, ALTERNATING, 0)
    epochs = [mirrored(feed, number, seed=number) for number in range(1, 7)]
    for one, next_one in itertools.pairwise(epochs):
        assert one.keys() == next_one.keys() == set(ROWS.tolist())
        assert all(one[row] != next_one[row] for row in one)
    assert {True, False} == set(epochs[0].values())
    # by chance alone it would be another half each time
    plain = [mirrored(Feed(ROWS, KINDS, PLAIN, 0), 1, seed=seed) for seed in (1, 2)]
    assert any(plain[0][row] == plain[1][row] for row in plain[0])


def test_the_crops_stay_a_matter_of_chance() -> None:
    feed, generator = Feed(torch.arange(3600), KINDS, ALTERNATING, 0), seeded()
    batches = list(feed.epoch(1, 3600, generator))
    counts = torch.bincount(whole(batches, "views") // 2, minlength=9)
    # 400 each, sd = sqrt(3600 * 1/9 * 8/9) = 18.9
    assert (counts - 400).abs().max() < 4 * 18.9


def test_halves_are_those_of_the_seed_and_not_of_the_epoch_before() -> None:
    first = mirrored(Feed(ROWS, KINDS, ALTERNATING, 0), 1, seed=1)
    # as a resumed run: a fresh feed, another state of the generator, another order
    resumed = mirrored(Feed(ROWS, KINDS, ALTERNATING, 0), 3, seed=2)
    assert resumed == first
    assert any(mirrored(Feed(ROWS, KINDS, ALTERNATING, seed), 1) != first for seed in (1, 2))


def test_halves_are_halves_of_the_rows_and_follow_them_into_every_order() -> None:
    feed = Feed(torch.arange(1000), KINDS, ALTERNATING, 5)
    shown = mirrored(feed, 1, size=1000)
    assert abs(sum(shown.values()) - 500) < 4 * (1000 / 4) ** 0.5
    # rows that wait in one epoch keep their half
    partly = mirrored(feed, 3, seed=8, size=300)
    assert len(partly) == 900 and all(shown[row] == flip for row, flip in partly.items())


# --- what is sent from the host


def sent(feed_options: dict[str, Any], size: int = 4) -> tuple[list[Batch], list[tuple[Any, Any]]]:
    asked = list[tuple[Any, Any]]()

    def fetch(rows: Indexes, places: Indexes) -> tuple[Tensor | None, Tensor | None]:
        asked.append((rows.tolist(), places.tolist()))
        return torch.from_numpy(rows) * 10, torch.from_numpy(places) + 0.5

    return drawn(Feed(ROWS, KINDS, PLAIN, 0, fetch=fetch, **feed_options), size=size), asked


@pytest.mark.parametrize("size", [4, 11])
def test_each_batch_brings_what_was_fetched_for_its_rows(size: int) -> None:
    batches, asked = sent({}, size)
    assert same(batches, drawn(Feed(ROWS, KINDS, PLAIN, 0), size=size))
    assert asked == [(batch.rows.tolist(), batch.places.tolist()) for batch in batches]
    for batch in batches:
        assert batch.pixels is not None and batch.targets is not None
        assert torch.equal(batch.pixels, batch.rows * 10)
        assert torch.equal(batch.targets, batch.places + 0.5)


def test_the_next_batch_is_fetched_while_one_computes_and_no_more() -> None:
    asked = list[int]()

    def fetch(rows: Indexes, places: Indexes) -> tuple[Tensor | None, Tensor | None]:
        asked.append(len(asked))
        return None, None

    batches = Feed(ROWS, KINDS, PLAIN, 0, fetch=fetch).epoch(1, 2, seeded())
    for step, _ in enumerate(batches):
        # what is fetched ahead may have begun or not
        assert step + 1 <= len(asked) <= step + 2
    assert len(asked) == 5


def test_what_fails_in_a_fetch_ends_the_epoch() -> None:
    def fetch(rows: Indexes, places: Indexes) -> tuple[Tensor | None, Tensor | None]:
        raise OSError("the drive is gone")

    batches: Iterator[Batch] = Feed(ROWS, KINDS, PLAIN, 0, fetch=fetch).epoch(1, 4, seeded())
    with pytest.raises(OSError, match="the drive is gone"):
        next(iter(batches))
