"""The public data sets in their real formats, a few images each, and a folder: no network."""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from igkd_search import downloads

Bytes = NDArray[np.uint8]

NAMES = tuple(f"kind_{i}" for i in range(100))
SIZES: Mapping[str, tuple[int, int]] = {
    "cifar10": (50, 4),
    "cifar100": (500, 7),
    "svhn": (50, 10),
    "fashion_mnist": (50, 10),
}
"""Images of the training and of the test part, as written here."""


def make_images(count: int, seed: int, size: int = 32) -> Bytes:
    shape = (count, 3, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def cifar10_file(count: int, seed: int) -> bytes:
    """Records of a label, then 1024 red, green and blue bytes; labels go round from `seed`."""
    images = make_images(count, seed)
    return b"".join(
        bytes([(seed + i) % 10]) + image[0].tobytes() + image[1].tobytes() + image[2].tobytes()
        for i, image in enumerate(images)
    )


def cifar100_file(count: int, seed: int) -> bytes:
    """As cifar10_file, but before the fine label stands a coarse one, here always 19."""
    images = make_images(count, seed)
    return b"".join(bytes([19, i % 100]) + image.tobytes() for i, image in enumerate(images))


def svhn_labels(count: int) -> NDArray[np.uint8]:
    return (np.arange(count) % 10 + 1).astype(np.uint8)


def write_cifar10(cache: Path) -> None:
    folder = cache / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(cifar10_file(10, i))
    (folder / "test_batch.bin").write_bytes(cifar10_file(4, 6))


def write_cifar100(cache: Path) -> None:
    folder = cache / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(cifar100_file(500, 0))
    (folder / "test.bin").write_bytes(cifar100_file(7, 1))
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n\n")


def write_svhn(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", 50, 0), ("test", 10, 1)):
        images = make_images(count, seed).transpose(2, 3, 1, 0)
        values = {"X": images, "y": svhn_labels(count)[:, None]}
        savemat(cache / f"{part}_32x32.mat", values, do_compression=True)


def fashion_images(count: int, seed: int) -> Bytes:
    return make_images(count, seed, 28)[:, 0]


def write_fashion_mnist(cache: Path) -> None:
    folder = cache / "fashion_mnist"
    folder.mkdir(parents=True)
    for part, count, seed in (("train", 50, 0), ("t10k", 10, 1)):
        for kind, values in (
            ("images-idx3", fashion_images(count, seed)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            sizes = np.array(values.shape, ">u4").tobytes()
            raw = bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw))


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "fashion_mnist": write_fashion_mnist,
    "svhn": write_svhn,
}


def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take whatever lies there for the file of the release: its MD5 cannot be had by hand."""
    monkeypatch.setattr(
        "torchvision.datasets.utils.check_integrity", lambda path, md5: Path(path).is_file()
    )


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the releases of CIFAR hold as few records as are written here."""
    batches = {f"data_batch_{i}.bin": 10 for i in range(1, 6)}
    monkeypatch.setitem(downloads.CIFAR10.records, "train", batches)
    monkeypatch.setitem(downloads.CIFAR10.records, "test", {"test_batch.bin": 4})
    monkeypatch.setitem(downloads.CIFAR100.records, "train", {"train.bin": 500})
    monkeypatch.setitem(downloads.CIFAR100.records, "test", {"test.bin": 7})
