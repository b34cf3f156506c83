"""A source is split by class, described and fingerprinted; its test part is left alone."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from igkd_search import datasets, memory, spec
from igkd_search.augment import Views
from igkd_search.datasets import count_duplicates, load, load_test, reader_of
from tests import releases, written
from tests.written import CLASSES, NOWHERE, TRAIN, arrays, make_images, make_labels, refusal

CPU = torch.device("cpu")
DIGITS = "830b357bd7dc3c521c4ffc325bee887740abfdadd0ffb4dff10e3eb085b8f7ff"
SOME_DIGITS = "649e807ab6ec46a2e5d08b982441b8ecca7d9109dba50f0c49ff882f99c75d41"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written.write_arrays(tmp_path)


def test_the_study_file_names_the_sources_that_there_are() -> None:
    assert set(get_args(spec.Source)) == set(datasets.SOURCES)


def test_loading_again_gives_the_same() -> None:
    one, again = load(spec.Data(), NOWHERE), load(spec.Data(), NOWHERE)
    assert one.fingerprint == again.fingerprint
    np.testing.assert_array_equal(one.fit_rows, again.fit_rows)
    other = load(spec.Data(seed=1), NOWHERE)
    assert not np.array_equal(one.validation_rows, other.validation_rows)
    assert one.fingerprint != other.fingerprint


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


@pytest.mark.parametrize(
    ("source", "shift", "flip"),
    [
        ("cifar10", 4, True),
        ("cifar100", 4, True),
        ("digits", 1, False),
        ("fashion_mnist", 2, True),
        ("svhn", 2, False),
    ],
)
def test_what_is_legal_for_a_source_is_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: spec.Source, shift: int, flip: bool
) -> None:
    releases.shrink(monkeypatch)
    releases.trust(monkeypatch)
    if source in releases.WRITERS:
        releases.WRITERS[source](tmp_path / "data")
    assert load(spec.Data(source=source), tmp_path).views == Views(shift, flip)
    assert flip == (source in spec.MIRRORED)
    # each half may be said alone
    assert load(spec.Data(source=source, shift=3), tmp_path).views == Views(3, flip)
    assert load(spec.Data(source=source, flip=not flip), tmp_path).views == Views(shift, not flip)


# --- on a device


def test_images_that_do_not_fit_stream_and_are_read_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "igkd_search")
    data = load(arrays(folder, shift=1, flip=True), NOWHERE)
    maps = make_images(TRAIN, seed=7)[:, 0]
    size = TRAIN * (6 + 2) * (5 + 2) * (3 + 1)
    caplog.clear()
    for free, streams in ((2 * size, False), (2 * size - 2, True)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        reader = reader_of(data, CPU, maps)
        assert (reader.packed is None) == streams
        assert (reader.images is data.images and reader.maps is maps) == streams
        said = [line for line in caplog.messages if "do not fit into cpu: they stream" in line]
        assert len(said) == int(streams)
    both = [reader_of(data, CPU, maps, resident=resident) for resident in (True, False)]
    assert [reader.packed is None for reader in both] == [False, True]
    rows, views = torch.arange(0, TRAIN, 7), torch.arange(9)
    (one, one_map), (other, other_map) = (reader.unit(rows, views) for reader in both)
    assert torch.equal(one, other) and torch.equal(one_map, other_map)
    assert len(caplog.messages) == 1  # what is asked for needs no word


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


def test_without_normalisation_networks_see_pixels_in_the_unit_interval(folder: Path) -> None:
    usual, plain = (load(arrays(folder, normalise=on), NOWHERE) for on in (True, False))
    reader = reader_of(plain, CPU)
    rows = torch.arange(9)
    seen = reader.unaugmented(rows)
    assert torch.equal(seen, torch.tensor(plain.images[:9]).float() / 255)
    # a teacher that saw the one must never answer for the other
    assert plain.fingerprint != usual.fingerprint


def test_a_search_does_not_open_the_test_arrays(folder: Path) -> None:
    # bytes that no reader accepts: had they been read, this would fail
    before = load(arrays(folder), NOWHERE).fingerprint
    for name in ("test_images.npy", "test_labels.npy"):
        (folder / name).write_bytes(b"nothing that numpy knows")
    assert load(arrays(folder), NOWHERE).fingerprint == before
    message = refusal(lambda: load_test(arrays(folder), NOWHERE, CLASSES))
    assert message.startswith(f"{folder}/test_images.npy: not a readable .npy array: ")


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
