"""Labels checked, and rows drawn by class: the study's limit and its validation part."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from igkd_search.errors import DataError
from igkd_search.sources import Labels

Rows = NDArray[np.int64]


def check_labels(labels: Labels, classes: int, what: str, *, every_class: bool) -> None:
    """DataError, beginning with `what`, unless labels are 0 to classes - 1, and all if so asked."""
    found = np.unique(labels)
    if found[0] < 0 or found[-1] >= classes:
        wrong = [int(label) for label in found if not 0 <= label < classes]
        raise DataError(f"{what}: found {wrong[:5]}; allowed are 0 to {classes - 1}")
    missing = sorted(set(range(classes)) - set(found.tolist()))
    if missing and every_class:
        raise DataError(
            f"{what}: no image of the classes {missing[:5]} of {classes}; labels must be 0 to "
            "classes - 1 without a gap"
        )


def draw(labels: Labels, count: int, seed: int, what: str) -> Rows:
    """`count` rows drawn by class, ascending; DataError, beginning with `what`, if impossible."""
    if count == len(labels):
        return np.arange(count)
    return _stratified(labels, count, seed, what)[0]


def split(labels: Labels, validation: float, seed: int) -> tuple[Rows, Rows]:
    """Fit rows and validation rows, ascending; `validation` is a share below 1 or a count."""
    count = round(validation * len(labels)) if validation < 1 else int(validation)
    held_out, rest = _stratified(labels, count, seed, "data.validation")
    return rest, held_out


def _stratified(labels: Labels, count: int, seed: int, what: str) -> tuple[Rows, Rows]:
    """`count` rows drawn by class, and all others, both ascending."""
    classes = int(labels.max()) + 1
    if not classes <= count <= len(labels) - classes:
        raise DataError(
            f"{what}: {count} of {len(labels)} images asked for; with {classes} classes allowed "
            f"are {classes} to {len(labels) - classes}"
        )
    try:
        drawn, rest = train_test_split(
            np.arange(len(labels)), train_size=count, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(f"{what}: no stratified draw is possible: {error}") from error
    return np.sort(drawn), np.sort(rest)
