"""Arrays are read as they are, never unpickled; what is wrong with one is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

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


def test_colour_arrays_are_read_as_they_are(folder: Path) -> None:
    data = load(arrays(folder), NOWHERE)
    np.testing.assert_array_equal(data.images, make_images(TRAIN))
    np.testing.assert_array_equal(data.labels, make_labels(TRAIN))
    assert data.classes == CLASSES and data.image_shape == (3, 6, 5)
    check_split(data)
    images, labels = load_test(arrays(folder), NOWHERE, CLASSES)
    np.testing.assert_array_equal(images, make_images(TEST, seed=1))
    np.testing.assert_array_equal(labels, make_labels(TEST))


def test_grey_arrays_become_three_equal_channels(folder: Path) -> None:
    grey = make_images(TRAIN, colour=False)
    np.save(folder / "train_images.npy", grey)
    images = load(arrays(folder), NOWHERE).images
    assert images.shape == (TRAIN, 3, 6, 5)
    assert all((images[:, channel] == grey).all() for channel in range(3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_may_be_integers_of_any_size(folder: Path, dtype: type) -> None:
    np.save(folder / "train_labels.npy", make_labels(TRAIN).astype(dtype))
    assert load(arrays(folder), NOWHERE).labels.dtype == np.int64


@pytest.mark.parametrize("name", ["test_images", "test_labels"])
def test_a_search_checks_that_the_test_arrays_exist(folder: Path, name: str) -> None:
    (folder / f"{name}.npy").unlink()
    assert refusal(lambda: load(arrays(folder), NOWHERE)) == (
        f"{folder}/{name}.npy: no such file; the arrays source needs a test part as well"
    )


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_a_missing_array_is_named_with_what_to_type(folder: Path, name: str) -> None:
    (folder / f"{name}.npy").unlink()
    assert refusal(lambda: load(arrays(folder), NOWHERE)) == (
        f"{folder}/{name}.npy: no such file; data.path (or --data, or IGKD_DATA) must name the "
        "folder of train_images.npy, train_labels.npy, test_images.npy and test_labels.npy"
    )


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((TRAIN, 3, 4, 4), np.float32), f"float32 ({TRAIN}, 3, 4, 4)"),
        (np.zeros((TRAIN, 4, 4, 3), np.uint8), f"uint8 ({TRAIN}, 4, 4, 3)"),
        (np.zeros((TRAIN, 16), np.uint8), f"uint8 ({TRAIN}, 16)"),
        (np.zeros((TRAIN, 1, 3, 4, 4), np.uint8), f"uint8 ({TRAIN}, 1, 3, 4, 4)"),
        (np.zeros((), np.uint8), "uint8 ()"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(
    folder: Path, images: NDArray[Any], found: str
) -> None:
    np.save(folder / "train_images.npy", images)
    assert refusal(lambda: load(arrays(folder), NOWHERE)) == (
        f"{folder}/train_images.npy: found {found}; allowed is uint8 (N, 3, H, W), or (N, H, W) "
        "for grey images"
    )


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.zeros(TRAIN), f"float64 ({TRAIN},)"),
        (np.zeros(TRAIN - 1, np.int64), f"int64 ({TRAIN - 1},)"),
        (np.zeros((TRAIN, 1), np.int64), f"int64 ({TRAIN}, 1)"),
        (np.zeros(TRAIN, bool), f"bool ({TRAIN},)"),
    ],
)
def test_labels_of_another_shape_or_type_are_refused(
    folder: Path, labels: NDArray[Any], found: str
) -> None:
    np.save(folder / "train_labels.npy", labels)
    assert refusal(lambda: load(arrays(folder), NOWHERE)) == (
        f"{folder}/train_labels.npy: found {found}; allowed is one integer for each of the "
        f"{TRAIN} images, ({TRAIN},)"
    )


def test_empty_arrays_are_refused(folder: Path) -> None:
    np.save(folder / "train_images.npy", np.zeros((0, 3, 4, 4), np.uint8))
    np.save(folder / "train_labels.npy", np.zeros(0, np.int64))
    message = refusal(lambda: load(arrays(folder), NOWHERE))
    assert message == f"{folder}/train_images.npy: holds no image"


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_an_array_of_objects_is_refused_and_never_unpickled(folder: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (folder / "sprung",))  # type: ignore[return-value]

    np.save(folder / f"{name}.npy", np.array([Trap()] * TRAIN, object), allow_pickle=True)
    message = refusal(lambda: load(arrays(folder), NOWHERE))
    assert message.startswith(f"{folder}/{name}.npy: not a readable .npy array: ")
    assert not (folder / "sprung").exists()
