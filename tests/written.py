"""Arrays written by hand, how they are asked for, and what a split must be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from igkd_search import spec
from igkd_search.datasets import Dataset
from igkd_search.errors import DataError

Bytes = NDArray[np.uint8]
CLASSES, TRAIN, TEST = 3, 60, 12
NOWHERE = Path("/nonexistent")  # a cache that sources without downloads never open


def make_images(count: int, seed: int = 0, colour: bool = True) -> Bytes:
    shape = (count, 3, 6, 5) if colour else (count, 6, 5)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_labels(count: int) -> NDArray[np.int64]:
    """Classes 0, 1, 2 in turn, but half of all are 0."""
    return np.where(np.arange(count) % 2 == 0, 0, np.arange(count) % 4 // 2 + 1)


def write_arrays(folder: Path) -> Path:
    """The four files of 60 training and 12 test images, and their folder."""
    np.save(folder / "train_images.npy", make_images(TRAIN))
    np.save(folder / "train_labels.npy", make_labels(TRAIN))
    np.save(folder / "test_images.npy", make_images(TEST, seed=1))
    np.save(folder / "test_labels.npy", make_labels(TEST))
    return folder


def arrays(folder: Path, **options: Any) -> spec.Data:
    return spec.Data(source="arrays", path=str(folder), **options)


def refusal(load_it: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        load_it()
    return str(caught.value)


def shares(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    counts: NDArray[np.float64] = np.bincount(labels) / len(labels)
    return counts


def check_split(data: Dataset) -> None:
    """fit and validation rows are ascending, disjoint, cover all, and hold the same classes."""
    both = np.concatenate([data.fit_rows, data.validation_rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(len(data.labels)))
    assert (np.diff(data.fit_rows) > 0).all() and (np.diff(data.validation_rows) > 0).all()
    of_fit, of_validation = (
        shares(data.labels[data.fit_rows]),
        shares(data.labels[data.validation_rows]),
    )
    assert np.abs(of_fit - of_validation).max() < 1 / len(data.validation_rows)
