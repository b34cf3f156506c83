"""Sources read what they should, split it stratified, refuse what is wrong, and leave tests alone.

The digits are real, arrays are written by hand; test_downloads and test_image_folder do the rest.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from igkd_search import datasets, spec
from igkd_search.augment import Views
from igkd_search.datasets import Dataset, count_duplicates, load, load_test
from igkd_search.errors import DataError

Bytes = NDArray[np.uint8]
CLASSES, TRAIN, TEST = 3, 60, 12
DIGITS = "830b357bd7dc3c521c4ffc325bee887740abfdadd0ffb4dff10e3eb085b8f7ff"
SOME_DIGITS = "649e807ab6ec46a2e5d08b982441b8ecca7d9109dba50f0c49ff882f99c75d41"
NOWHERE = Path("/nonexistent")  # a cache that sources without downloads never open


def make_images(count: int, seed: int = 0, colour: bool = True) -> Bytes:
    shape = (count, 3, 6, 5) if colour else (count, 6, 5)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_labels(count: int) -> NDArray[np.int64]:
    """Classes 0, 1, 2 in turn, but half of all are 0."""
    return np.where(np.arange(count) % 2 == 0, 0, np.arange(count) % 4 // 2 + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "train_images.npy", make_images(TRAIN))
    np.save(tmp_path / "train_labels.npy", make_labels(TRAIN))
    np.save(tmp_path / "test_images.npy", make_images(TEST, seed=1))
    np.save(tmp_path / "test_labels.npy", make_labels(TEST))
    return tmp_path


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


def test_the_study_file_names_the_sources_that_there_are() -> None:
    assert set(get_args(spec.Source)) == set(datasets.SOURCES)


def test_digits_are_cut_into_1437_and_360() -> None:
    data = load(spec.Data(), NOWHERE)
    images, labels = load_test(spec.Data(), NOWHERE, data.classes)
    assert data.images.shape == (1437, 3, 8, 8) and data.images.dtype == np.uint8
    assert data.labels.shape == (1437,) and data.labels.dtype == np.int64
    assert images.shape == (360, 3, 8, 8) and labels.shape == (360,)
    assert data.classes == 10 and data.image_shape == (3, 8, 8)
    assert data.views == Views(shift=1, flip=False)
    assert (len(data.fit_rows), len(data.validation_rows)) == (1150, 287)
    check_split(data)
    assert np.abs(shares(labels) - shares(data.labels)).max() < 1 / 360


def test_digits_are_sklearns_each_in_one_part() -> None:
    data = load(spec.Data(), NOWHERE)
    images, labels = load_test(spec.Data(), NOWHERE, data.classes)
    assert (data.images[:, 0] == data.images[:, 1]).all()
    assert data.images.min() == 0 and data.images.max() == 255  # 16 grey levels become 255
    digits = load_digits()
    original = {
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    ours = [
        {(image[0].tobytes(), int(label)) for image, label in zip(*part, strict=True)}
        for part in [(data.images, data.labels), (images, labels)]
    ]
    assert len(original) == 1797  # no image is there twice, so a set can tell the parts apart
    assert ours[0] | ours[1] == original and not ours[0] & ours[1]


def test_the_test_part_of_digits_does_not_follow_the_studys_seed() -> None:
    one, other = spec.Data(seed=0), spec.Data(seed=1, validation=0.5, limit=100)
    assert (load_test(one, NOWHERE, 10)[0] == load_test(other, NOWHERE, 10)[0]).all()


def test_loading_again_gives_the_same() -> None:
    one, again = load(spec.Data(), NOWHERE), load(spec.Data(), NOWHERE)
    assert one.fingerprint == again.fingerprint
    np.testing.assert_array_equal(one.fit_rows, again.fit_rows)
    other = load(spec.Data(seed=1), NOWHERE)
    assert not np.array_equal(one.validation_rows, other.validation_rows)
    assert one.fingerprint != other.fingerprint


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


def test_statistics_are_those_of_the_fit_rows_alone(folder: Path) -> None:
    data = load(arrays(folder), NOWHERE)
    fit = data.images[data.fit_rows] / 255
    np.testing.assert_allclose(data.mean, fit.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.sd, fit.std((0, 2, 3)), rtol=1e-6)
    assert data.mean.dtype == data.sd.dtype == np.float32
    everything = data.images / 255
    assert np.abs(data.mean - everything.mean((0, 2, 3))).max() > 1e-6


def test_a_channel_without_contrast_can_still_be_divided_by(folder: Path) -> None:
    np.save(folder / "train_images.npy", np.full((TRAIN, 3, 4, 4), 51, np.uint8))
    data = load(arrays(folder), NOWHERE)
    np.testing.assert_allclose(data.mean, 0.2, rtol=1e-6)
    np.testing.assert_allclose(data.sd, 1 / 255, rtol=1e-6)


def test_views_follow_the_source_unless_the_study_says_otherwise(folder: Path) -> None:
    assert load(arrays(folder), NOWHERE).views == Views(shift=0, flip=False)
    assert load(arrays(folder, shift=2, flip=True), NOWHERE).views == Views(shift=2, flip=True)


def test_the_fingerprint_follows_pixels_labels_and_split_but_not_the_path(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = load(arrays(folder), NOWHERE).fingerprint
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for file in folder.glob("*.npy"):
        (elsewhere / file.name).write_bytes(file.read_bytes())
    assert load(arrays(elsewhere), NOWHERE).fingerprint == before

    images, labels = make_images(TRAIN), make_labels(TRAIN)
    images[-1, 2, 5, 4] ^= 1
    np.save(elsewhere / "train_images.npy", images)
    pixel = load(arrays(elsewhere), NOWHERE).fingerprint
    images[-1, 2, 5, 4] ^= 1
    np.save(elsewhere / "train_images.npy", images)
    labels[[0, 1]] = labels[[1, 0]]
    np.save(elsewhere / "train_labels.npy", labels)
    label = load(arrays(elsewhere), NOWHERE).fingerprint
    split = load(arrays(folder, seed=1), NOWHERE).fingerprint
    share = load(arrays(folder, validation=0.3), NOWHERE).fingerprint
    assert len({before, pixel, label, split, share}) == 5


def test_a_search_does_not_open_the_test_arrays(folder: Path) -> None:
    # bytes that no reader accepts: had they been read, this would fail
    before = load(arrays(folder), NOWHERE).fingerprint
    for name in ("test_images.npy", "test_labels.npy"):
        (folder / name).write_bytes(b"nothing that numpy knows")
    assert load(arrays(folder), NOWHERE).fingerprint == before
    message = refusal(lambda: load_test(arrays(folder), NOWHERE, CLASSES))
    assert message.startswith(f"{folder}/test_images.npy: not a readable .npy array: ")


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


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_an_array_of_objects_is_refused_and_never_unpickled(folder: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (folder / "sprung",))  # type: ignore[return-value]

    np.save(folder / f"{name}.npy", np.array([Trap()] * TRAIN, object), allow_pickle=True)
    message = refusal(lambda: load(arrays(folder), NOWHERE))
    assert message.startswith(f"{folder}/{name}.npy: not a readable .npy array: ")
    assert not (folder / "sprung").exists()


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


def test_classes_are_named_by_their_numbers_where_a_source_has_no_names(folder: Path) -> None:
    assert load(arrays(folder), NOWHERE).class_names == ("0", "1", "2")
    assert load(spec.Data(), NOWHERE).class_names == tuple("0123456789")


def test_fingerprints_stay_what_they_were() -> None:
    # a study goes on only on data of the same fingerprint
    assert load(spec.Data(), NOWHERE).fingerprint == DIGITS
    assert load(spec.Data(limit=100, validation=30, seed=3), NOWHERE).fingerprint == SOME_DIGITS


@pytest.mark.parametrize("options", [{}, {"shift": 1}, {"flip": False}])
def test_unmoved_images_are_explained_unless_the_study_speaks_of_it(
    folder: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    caplog.set_level("INFO", "igkd_search")
    load(arrays(folder, **options), NOWHERE)
    said = [line for line in caplog.messages if "neither moved nor mirrored" in line]
    assert len(said) == (0 if options else 1)
    assert all("data.shift and data.flip" in line for line in said)
    load(spec.Data(), NOWHERE)
    assert len(caplog.messages) == len(said)


def test_duplicates_are_test_images_that_are_in_the_training_part() -> None:
    training, test = make_images(20), make_images(6, seed=1)
    assert count_duplicates(training, test) == 0
    test[[1, 4, 5]] = training[[3, 3, 19]]
    assert count_duplicates(training, test) == 3
    test[4, 0, 0, 0] ^= 1  # one pixel is enough to differ
    assert count_duplicates(training, test) == 2
    test[0] = test[2]  # twice in the test part is no matter of the training part
    assert count_duplicates(training, test) == 2


def test_images_of_another_shape_are_no_duplicates() -> None:
    training = make_images(4)
    assert count_duplicates(training, training.reshape(4, 3, 5, 6)) == 0


def test_duplicates_are_found_whatever_the_order_in_memory() -> None:
    training = make_images(4)
    turned = np.asfortranarray(training)
    assert count_duplicates(turned, training) == 4
