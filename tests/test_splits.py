"""Labels are checked; limit and validation are drawn by class; what cannot be drawn is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igkd_search.datasets import load, load_test
from tests import written
from tests.written import (
    CLASSES,
    NOWHERE,
    TEST,
    TRAIN,
    arrays,
    check_split,
    make_images,
    make_labels,
    refusal,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written.write_arrays(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "classes", "message"),
    [
        (-1, None, "training labels: found [-1]; allowed are 0 to 2"),
        (-1, 3, "training labels: found [-1]; allowed are 0 to 2"),
        (7, 3, "training labels: found [7]; allowed are 0 to 2"),
        (
            7,
            None,
            "training labels: no image of the classes [3, 4, 5, 6] of 8; labels must be 0 to "
            "classes - 1 without a gap",
        ),
        (
            0,
            5,
            "training labels: no image of the classes [3, 4] of 5; labels must be 0 to "
            "classes - 1 without a gap",
        ),
    ],
)
def test_labels_outside_of_the_classes_are_refused(
    folder: Path, wrong: int, classes: int | None, message: str
) -> None:
    labels = make_labels(TRAIN)
    labels[0] = wrong
    np.save(folder / "train_labels.npy", labels)
    assert refusal(lambda: load(arrays(folder, classes=classes), NOWHERE)) == message


@pytest.mark.parametrize("wrong", [-1, 3])
def test_test_labels_outside_of_the_classes_are_refused(folder: Path, wrong: int) -> None:
    labels = make_labels(TEST)
    labels[3] = wrong
    np.save(folder / "test_labels.npy", labels)
    load(arrays(folder), NOWHERE)
    message = refusal(lambda: load_test(arrays(folder), NOWHERE, CLASSES))
    assert message == f"test labels: found [{wrong}]; allowed are 0 to 2"


def test_a_test_part_may_lack_a_class(folder: Path) -> None:
    np.save(folder / "test_labels.npy", np.zeros(TEST, np.int64))
    assert not load_test(arrays(folder), NOWHERE, CLASSES)[1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"limit": 61},
            "data.limit: 61 of 60 images asked for; with 3 classes allowed are 3 to 57",
        ),
        (
            {"limit": 2},
            "data.limit: 2 of 60 images asked for; with 3 classes allowed are 3 to 57",
        ),
        (
            {"validation": 58},
            "data.validation: 58 of 60 images asked for; with 3 classes allowed are 3 to 57",
        ),
        (
            {"validation": 0.01},
            "data.validation: 1 of 60 images asked for; with 3 classes allowed are 3 to 57",
        ),
    ],
)
def test_a_draw_that_cannot_be_stratified_is_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    assert refusal(lambda: load(arrays(folder, **options), NOWHERE)) == message


def test_a_class_of_one_image_cannot_be_split(folder: Path) -> None:
    labels = np.zeros(TRAIN, np.int64)
    labels[5] = 1
    np.save(folder / "train_labels.npy", labels)
    message = refusal(lambda: load(arrays(folder), NOWHERE))
    assert message.startswith("data.validation: no stratified draw is possible: ")


@pytest.mark.parametrize(("validation", "count"), [(0.2, 12), (0.5, 30), (15, 15)])
def test_validation_is_a_share_or_a_count(folder: Path, validation: float, count: int) -> None:
    data = load(arrays(folder, validation=validation), NOWHERE)
    assert len(data.validation_rows) == count
    check_split(data)


def test_a_limit_is_drawn_stratified_in_the_order_of_the_file(folder: Path) -> None:
    data = load(arrays(folder, limit=30), NOWHERE)
    assert len(data.images) == 30
    assert np.bincount(data.labels).tolist() == [15, 8, 7] or np.bincount(data.labels).tolist() == [
        15,
        7,
        8,
    ]
    whole = make_images(TRAIN)
    rows = [int(np.flatnonzero((whole == image).all((1, 2, 3)))[0]) for image in data.images]
    assert rows == sorted(set(rows))
    np.testing.assert_array_equal(data.labels, make_labels(TRAIN)[rows])
    check_split(data)
    other = load(arrays(folder, limit=30, seed=1), NOWHERE)
    assert not np.array_equal(other.images, data.images)


def test_a_limit_of_all_is_all(folder: Path) -> None:
    assert (load(arrays(folder, limit=TRAIN), NOWHERE).images == make_images(TRAIN)).all()
