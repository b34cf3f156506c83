"""The public data sets, written by hand in their real formats, a few images each; no network."""

import gzip
import io
import tarfile
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from igkd_search import spec
from igkd_search.augment import Views
from igkd_search.datasets import DOWNLOADED, load, load_test
from igkd_search.errors import DataError
from tests import releases
from tests.releases import (
    NAMES,
    SIZES,
    WRITERS,
    fashion_images,
    make_images,
    svhn_labels,
    write_cifar10,
    write_cifar100,
    write_fashion_mnist,
    write_svhn,
)

Bytes = NDArray[np.uint8]
Asked = list[tuple[str, str, str]]
"""Each download: URL, folder, MD5."""

CIFAR10, CIFAR100 = spec.Data(source="cifar10"), spec.Data(source="cifar100")
SVHN, FASHION = spec.Data(source="svhn"), spec.Data(source="fashion_mnist")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where downloads go in a home folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    releases.shrink(monkeypatch)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Every download that was asked for, all of which fail; what lies there counts as whole."""
    found: Asked = []

    def refused(url: str, root: str, md5: str) -> None:
        found.append((url, root, md5))
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refused)
    releases.trust(monkeypatch)
    return found


def refusal(load_it: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        load_it()
    return str(caught.value)


def test_every_download_is_written_here() -> None:
    assert set(WRITERS) == set(SIZES) == set(DOWNLOADED)


@pytest.mark.parametrize("source", DOWNLOADED)
def test_both_parts_are_read_and_differ(cache: Path, source: Any) -> None:
    WRITERS[source](cache)
    data = load(spec.Data(source=source), cache.parent)
    images, labels = load_test(spec.Data(source=source), cache.parent, data.classes)
    assert (len(data.images), len(images)) == SIZES[source]
    assert data.images.dtype == images.dtype == np.uint8 and images.shape[1] == 3
    assert data.labels.dtype == labels.dtype == np.int64
    assert not {image.tobytes() for image in data.images} & {image.tobytes() for image in images}
    assert len(data.class_names) == data.classes == (100 if source == "cifar100" else 10)


def test_cifar10_is_read_in_the_order_of_its_batches(cache: Path, asked: Asked) -> None:
    write_cifar10(cache)
    data = load(CIFAR10, cache.parent)
    batches = range(1, 6)
    np.testing.assert_array_equal(
        data.images, np.concatenate([make_images(10, i) for i in batches])
    )
    assert data.labels.tolist() == [(i + j) % 10 for i in batches for j in range(10)]
    assert data.views == Views(shift=4, flip=True)
    assert data.class_names[:2] == ("airplane", "automobile") and data.class_names[9] == "truck"
    images, labels = load_test(CIFAR10, cache.parent, 10)
    np.testing.assert_array_equal(images, make_images(4, 6))
    assert labels.tolist() == [6, 7, 8, 9]
    assert asked == []  # what lies there needs no network


def test_cifar100_has_its_fine_labels_and_their_names(cache: Path) -> None:
    write_cifar100(cache)
    data = load(CIFAR100, cache.parent)
    np.testing.assert_array_equal(data.images, make_images(500, 0))
    assert data.labels.tolist() == [*range(100)] * 5
    assert data.views == Views(shift=4, flip=True) and data.class_names == NAMES
    images, labels = load_test(CIFAR100, cache.parent, 100)
    np.testing.assert_array_equal(images, make_images(7, 1))
    assert labels.tolist() == [*range(7)]


def test_the_ten_of_svhn_is_a_zero(cache: Path) -> None:
    write_svhn(cache)
    data = load(SVHN, cache.parent)
    np.testing.assert_array_equal(data.images, make_images(50, 0))
    assert data.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 5
    assert data.views == Views(shift=2, flip=False) and data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(load_test(SVHN, cache.parent, 10)[0], make_images(10, 1))


def test_fashion_mnist_is_grey_in_three_channels(cache: Path) -> None:
    write_fashion_mnist(cache)
    data = load(FASHION, cache.parent)
    assert data.image_shape == (3, 28, 28)
    for channel in range(3):
        np.testing.assert_array_equal(data.images[:, channel], fashion_images(50, 0))
    assert data.labels.tolist() == [*range(10)] * 5
    assert data.views == Views(shift=2, flip=True) and data.class_names[9] == "Ankle boot"
    images, labels = load_test(FASHION, cache.parent, 10)
    np.testing.assert_array_equal(images[:, 1], fashion_images(10, 1))
    assert labels.tolist() == [*range(10)]


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("cifar10", "cifar-10-batches-bin/test_batch.bin"),
        ("cifar100", "cifar-100-binary/test.bin"),
        ("fashion_mnist", "fashion_mnist/t10k-images-idx3-ubyte.gz"),
        ("fashion_mnist", "fashion_mnist/t10k-labels-idx1-ubyte.gz"),
        ("svhn", "test_32x32.mat"),
    ],
)
def test_a_search_does_not_open_the_test_part(cache: Path, source: Any, file: str) -> None:
    # bytes that no reader accepts: had they been read, this would fail
    WRITERS[source](cache)
    (cache / file).write_bytes(b"garbage")
    data = load(spec.Data(source=source), cache.parent)
    assert len(data.images) == SIZES[source][0]
    said = refusal(lambda: load_test(spec.Data(source=source), cache.parent, data.classes))
    assert said.startswith(f"{cache / file}: ") and "; delete " in said


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("svhn", "test_32x32.mat"),
        ("fashion_mnist", "fashion_mnist/t10k-images-idx3-ubyte.gz"),
        ("fashion_mnist", "fashion_mnist/t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_a_test_part_that_is_not_there_is_downloaded_by_the_search(
    cache: Path, source: Any, file: str
) -> None:
    WRITERS[source](cache)
    (cache / file).unlink()
    said = refusal(lambda: load(spec.Data(source=source), cache.parent))
    assert f"{Path(file).name}: the download failed" in said


@pytest.mark.parametrize("size", [0, 3073 * 4 + 100, 3073 * 9])
def test_a_truncated_batch_is_refused(cache: Path, size: int) -> None:
    write_cifar10(cache)
    batch = cache / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:size])
    assert refusal(lambda: load(CIFAR10, cache.parent)) == (
        f"{batch}: found {size} bytes; allowed are 30730, 10 records of 3073; delete "
        f"{batch.parent} to have it unpacked again"
    )


def test_the_names_of_cifar100_must_be_whole(cache: Path) -> None:
    write_cifar100(cache)
    path = cache / "cifar-100-binary" / "fine_label_names.txt"
    path.write_text("\n".join(NAMES[:60]))
    assert refusal(lambda: load(CIFAR100, cache.parent)) == (
        f"{path}: found 60 names; allowed are 100; delete it to have it downloaded again"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        gzip.compress(b"", mtime=0),
        gzip.compress(bytes([0, 0, 8, 3, 0]), mtime=0),
        gzip.compress(
            bytes([0, 0, 8, 3]) + np.array([30, 28, 28], ">u4").tobytes() + b"half", mtime=0
        ),
        gzip.compress(bytes([0, 0, 13, 3]) + np.array([1, 1, 1], ">u4").tobytes() + b"1", mtime=0),
        gzip.compress(
            bytes([0, 0, 8, 3]) + np.array([30, 2, 2], ">u4").tobytes() + bytes(120), mtime=0
        ),
        gzip.compress(bytes(1000), mtime=0)[:-20],
        gzip.compress(bytes(1000), mtime=0)[:20] + b"\xff" * 20,
    ],
)
def test_a_damaged_idx_file_is_refused(cache: Path, raw: bytes) -> None:
    write_fashion_mnist(cache)
    path = cache / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(raw)
    said = refusal(lambda: load(FASHION, cache.parent))
    assert said.startswith(f"{path}: ")
    assert said.endswith("; delete it to have it downloaded again")


@pytest.mark.parametrize(
    "values",
    [
        {"X": np.zeros((32, 32, 3, 9), np.uint8), "y": svhn_labels(10)},
        {"X": np.zeros((32, 32, 3, 10), np.float64), "y": svhn_labels(10)},
        {"X": np.zeros((10, 3, 32, 32), np.uint8), "y": svhn_labels(10)},
        {"X": np.zeros((32, 32, 3, 10), np.uint8)},
    ],
)
def test_a_mat_file_of_another_content_is_refused(cache: Path, values: dict[str, Any]) -> None:
    write_svhn(cache)
    path = cache / "train_32x32.mat"
    savemat(path, values)
    said = refusal(lambda: load(SVHN, cache.parent))
    assert said.startswith(f"{path}: ")
    assert said.endswith("; delete it to have it downloaded again")


@pytest.mark.parametrize(
    ("source", "url", "folder", "md5"),
    [
        (
            "cifar10",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            ".",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
        (
            "cifar100",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            ".",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
        (
            "svhn",
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            ".",
            "e26dedcc434d2e4c54c9b2d4a06d8373",
        ),
        (
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
            "fashion_mnist",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
    ],
)
def test_a_failed_download_says_what_to_do_without_a_network(
    cache: Path, asked: Asked, source: Any, url: str, folder: str, md5: str
) -> None:
    cache = cache / "made" / "data"
    place, name = cache / folder, url.rpartition("/")[2]
    assert refusal(lambda: load(spec.Data(source=source), cache.parent)) == (
        f"{url}: the download failed (<urlopen error no route to host>). Without a network, put "
        f"{name} (MD5 {md5}) into {place}, or use source = 'arrays' with your own copy"
    )
    assert asked == [(url, str(place / f"{name}.partial"), md5)]


def test_a_download_cut_short_is_not_taken_for_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(cache)
    whole = (cache / "test_32x32.mat").read_bytes()
    (cache / "test_32x32.mat").unlink()
    sizes = [len(whole) // 2, len(whole)]

    def cut(url: str, root: str, md5: str) -> None:
        Path(root).mkdir(exist_ok=True)
        size = sizes.pop(0)
        (Path(root) / "test_32x32.mat").write_bytes(whole[:size])
        if size < len(whole):
            raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.utils.download_url", cut)
    with pytest.raises(KeyboardInterrupt):
        load(SVHN, cache.parent)
    assert not (cache / "test_32x32.mat").exists()
    load(SVHN, cache.parent)
    assert (cache / "test_32x32.mat").read_bytes() == whole
    assert sizes == [] and not list(cache.glob("*.partial"))


def test_a_file_of_another_checksum_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # torchvision's own download, but without a network

    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    write_svhn(cache)  # small as it is, it cannot have the checksum of the release
    said = refusal(lambda: load(SVHN, cache.parent))
    assert "train_32x32.mat: the download failed (<urlopen error no route to host>)" in said


def write_archive(cache: Path, folder: str) -> None:
    """Pack the unpacked folder into the archive of its release, and remove it."""
    name = {"cifar-10-batches-bin": "cifar-10-binary", "cifar-100-binary": "cifar-100-binary"}
    with tarfile.open(cache / f"{name[folder]}.tar.gz", "w:gz") as archive:
        for path in sorted((cache / folder).iterdir()):
            member = tarfile.TarInfo(f"{folder}/{path.name}")
            member.size = path.stat().st_size
            archive.addfile(member, io.BytesIO(path.read_bytes()))
            path.unlink()
    (cache / folder).rmdir()


@pytest.mark.parametrize(
    ("source", "folder"),
    [("cifar10", "cifar-10-batches-bin"), ("cifar100", "cifar-100-binary")],
)
def test_an_archive_is_unpacked_once(cache: Path, asked: Asked, source: Any, folder: str) -> None:
    WRITERS[source](cache)
    question = spec.Data(source=source)
    before = load(question, cache.parent)
    write_archive(cache, folder)
    assert load(question, cache.parent).fingerprint == before.fingerprint
    assert len(load_test(question, cache.parent, before.classes)[1]) == SIZES[source][1]
    assert asked == []  # the archive lies there
    assert not list(cache.glob("*.partial"))


def test_an_archive_whose_unpacking_was_killed_is_unpacked_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache)
    before = load(CIFAR10, cache.parent).fingerprint
    write_archive(cache, "cifar-10-batches-bin")

    def killed(archive: Path, to: Path) -> None:
        # every file is there, the last one written is not whole
        write_cifar10(to)
        (to / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.utils.extract_archive", killed)
        with pytest.raises(KeyboardInterrupt):
            load(CIFAR10, cache.parent)
    assert load(CIFAR10, cache.parent).fingerprint == before
    assert len(load_test(CIFAR10, cache.parent, 10)[1]) == 4


def test_a_missing_file_of_an_unpacked_archive_is_unpacked_again(cache: Path) -> None:
    write_cifar10(cache)
    write_archive(cache, "cifar-10-batches-bin")
    before = load(CIFAR10, cache.parent).fingerprint
    (cache / "cifar-10-batches-bin" / "data_batch_2.bin").unlink()
    assert load(CIFAR10, cache.parent).fingerprint == before


def test_an_archive_that_cannot_be_unpacked_says_where_and_why(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache)
    write_archive(cache, "cifar-10-batches-bin")

    def full(archive: Path, to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", full)
    assert refusal(lambda: load(CIFAR10, cache.parent)) == (
        f"{cache}/cifar-10-binary.tar.gz: cannot be unpacked into "
        f"{cache}/cifar-10-batches-bin ([Errno 28] No space left on device); free space there, "
        "or choose another folder with --home or IGKD_HOME"
    )
