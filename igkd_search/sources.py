"""What a source of images is: what it may read, what it gives, and which views of it are legal.

The sources are entries of one dict, `datasets.SOURCES`. Each has a function for the training part
and another for the test part, so that a search cannot read the latter by accident.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Part = tuple[Pixels, Labels]
"""Images uint8 (N, 3, H, W) and labels int64 (N,)."""

TEST_SHARE, TEST_SEED = 0.2, 20250313
"""How a test part is cut, before anything else, where a source has none of its own."""


class Store(Protocol):
    """Where decoded images are kept: the vault."""

    def entry(self, kind: str, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """The folder of the entry of these inputs, built unless it is there."""


@dataclass(frozen=True)
class Place:
    """Where a source reads and writes."""

    path: str | None
    """The user's own folder, `data.path`."""
    cache: Path
    """Downloads lie here."""
    store: Store
    """Decoded images lie here."""
    image_size: int
    """Height and width, in pixels, of the images that are decoded."""


def _nothing_to_check(place: Place) -> None:
    """The source carries its test part, or downloads it together with the rest."""


def _no_names(place: Place) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Source:
    """One source; every function of it raises DataError when something is missing or damaged."""

    training: Callable[[Place], Part]
    test: Callable[[Place], Part]
    shift: int | None
    """Legal shift in pixels; None: nothing is known of such images, so they are not moved."""
    check_test: Callable[[Place], None] = _nothing_to_check
    """Makes sure that the test part is there, without reading it."""
    class_names: Callable[[Place], tuple[str, ...]] = _no_names
    """Names in the order of the labels, read after the training part; () when there are none."""
    labels: Callable[[Place], Labels] | None = None
    """Labels of the training part (N,), where they are known before its images are decoded."""


def digits(test: bool) -> Callable[[Place], Part]:
    """One part of scikit-learn's 1,797 digits: 8x8, grey in three channels, 16 levels to 255."""

    def read(place: Place) -> Part:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        found = load_digits()
        grey = np.rint(found.images * (255 / 16)).astype(np.uint8)
        labels = found.target.astype(np.int64)
        parts = train_test_split(
            np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=TEST_SEED
        )
        rows = np.sort(parts[test])
        return in_colour(grey[rows]), labels[rows]

    return read


def in_colour(grey: Pixels) -> Pixels:
    """Grey images (N, H, W) as three equal channels (N, 3, H, W)."""
    return np.repeat(grey[:, None], 3, axis=1)
