"""Controls are what they say: another's map, scattered values, darkening; each within its part."""

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from igkd_search import augment, controls, spec


def distinct_maps(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4)).astype(np.uint8)


def groups(count: int) -> tuple[NDArray[np.int64], ...]:
    """Fit and validation rows, as a split would give them."""
    rows = np.arange(count)
    return rows[rows % 4 != 0], rows[rows % 4 == 0]


def test_the_names_of_controls_are_all_served() -> None:
    maps = distinct_maps(8)
    results = {c: controls.apply(maps, c, groups(8), 0).tobytes() for c in get_args(spec.Control)}
    assert len(set(results.values())) == len(results) == 4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [8, 11, 40])
def test_each_row_is_paired_with_another_of_its_part(count: int, seed: int) -> None:
    other = controls.other_rows(groups(count), seed)
    assert sorted(other.tolist()) == list(range(count))
    assert (other != np.arange(count)).all()
    for part in groups(count):
        assert set(other[part]) == set(part)  # a search reads the fit rows alone


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_shuffled_gives_each_image_the_map_of_another(dtype: type) -> None:
    maps: augment.Maps = distinct_maps(20).astype(dtype)
    found = controls.apply(maps, "shuffled", groups(20), 3)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, maps[controls.other_rows(groups(20), 3)])
    assert not any(np.array_equal(a, b) for a, b in zip(found, maps, strict=True))


def test_random_scatters_the_values_of_each_map() -> None:
    maps = distinct_maps(20)
    found = controls.apply(maps, "random", groups(20), 0)
    for ours, theirs in zip(found, maps, strict=True):
        assert not np.array_equal(ours, theirs)
        np.testing.assert_array_equal(np.sort(ours.ravel()), np.sort(theirs.ravel()))


def test_dim_shows_nothing_and_none_the_map_itself() -> None:
    maps = distinct_maps(20)
    assert not controls.apply(maps, "dim", groups(20), 0).any()
    np.testing.assert_array_equal(controls.apply(maps, "none", groups(20), 0), maps)


@pytest.mark.parametrize("control", ["shuffled", "random"])
def test_a_control_is_the_same_for_the_same_seed(control: spec.Control) -> None:
    maps = distinct_maps(20)
    first, again, other = (controls.apply(maps, control, groups(20), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(maps, distinct_maps(20))  # left as they were
