"""A source name -> uint8 images, labels, a stratified split and a fingerprint.

`load` opens the training part alone and only checks that the test part exists; `load_test` is the
one way to the test part, and only final training calls it. Where a source has no test part of its
own (`digits`) a stratified 20 % is cut first, by a fixed seed.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from igkd_search import augment, spec
from igkd_search.errors import DataError

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Part = tuple[Pixels, Labels]
"""Images uint8 (N, 3, H, W) and labels int64 (N,)."""

_TEST_SHARE, _TEST_SEED = 0.2, 20250313


@dataclass(frozen=True)
class Dataset:
    """The training part of a source; row i is the same image in every bank.

    images uint8 (N, 3, H, W); labels int64 (N,); fit_rows and validation_rows are ascending,
    disjoint and cover all N. `mean` and `sd` (3,) are those of the fit rows in [0, 1].
    """

    images: Pixels
    labels: Labels
    fit_rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    classes: int
    views: augment.Views
    fingerprint: str
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class _Source:
    training: Callable[[spec.Data, Path], Part]
    test: Callable[[spec.Data, Path], Part]
    check_test: Callable[[spec.Data, Path], None]
    shift: int
    flip: bool


def load(data: spec.Data, cache: Path) -> Dataset:
    """The training part, split; downloads go to `cache`.

    DataError when it is missing, misshapen or mislabelled. The test part is not opened.
    """
    source = SOURCES[data.source]
    images, labels = source.training(data, cache)
    source.check_test(data, cache)
    classes = int(labels.max()) + 1 if data.classes is None else data.classes
    _check_labels(labels, classes, "training labels")
    if data.limit is not None:
        kept = _draw(labels, data.limit, data.seed, "data.limit")
        images, labels = images[kept], labels[kept]
    fit_rows, validation_rows = _split(labels, data)
    mean, sd = _statistics(images[fit_rows])
    views = augment.Views(
        shift=source.shift if data.shift is None else data.shift,
        flip=source.flip if data.flip is None else data.flip,
    )
    fingerprint = hashlib.sha256()
    for array in (images, labels, fit_rows, validation_rows):
        fingerprint.update(f"{array.dtype}{array.shape}".encode())
        fingerprint.update(np.ascontiguousarray(array).data)
    return Dataset(
        images=images,
        labels=labels,
        fit_rows=fit_rows,
        validation_rows=validation_rows,
        classes=classes,
        views=views,
        fingerprint=fingerprint.hexdigest(),
        mean=mean,
        sd=sd,
    )


def load_test(data: spec.Data, cache: Path, classes: int) -> Part:
    """The test part: images uint8 (N, 3, H, W), labels int64 (N,). Read once a finished model."""
    images, labels = SOURCES[data.source].test(data, cache)
    _check_labels(labels, classes, "test labels")
    log.info("test set opened: %d images", len(images))
    return images, labels


def _digits() -> tuple[Pixels, Labels]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1), digits.target.astype(np.int64)


def _digits_part(test: bool) -> Callable[[spec.Data, Path], Part]:
    def read(data: spec.Data, cache: Path) -> Part:
        images, labels = _digits()
        training_rows, test_rows = train_test_split(
            np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=_TEST_SEED
        )
        rows = np.sort(test_rows if test else training_rows)
        return images[rows], labels[rows]

    return read


def _arrays_part(part: str) -> Callable[[spec.Data, Path], Part]:
    def read(data: spec.Data, cache: Path) -> Part:
        images = _read_array(_array_path(data, f"{part}_images"))
        labels = _read_array(_array_path(data, f"{part}_labels"))
        where = _array_path(data, f"{part}_images")
        grey = images.ndim == 3
        if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[1] == 3)):
            raise DataError(
                f"{where}: found {images.dtype} {images.shape}; allowed is uint8 (N, 3, H, W), or "
                "(N, H, W) for grey images"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            raise DataError(
                f"{_array_path(data, f'{part}_labels')}: found {labels.dtype} {labels.shape}; "
                f"allowed is one integer for each of the {len(images)} images, ({len(images)},)"
            )
        if not len(images):
            raise DataError(f"{where}: holds no image")
        pixels = cast(Pixels, images)
        return np.repeat(pixels[:, None], 3, axis=1) if grey else pixels, labels.astype(np.int64)

    return read


def _check_test_arrays(data: spec.Data, cache: Path) -> None:
    for name in ("test_images", "test_labels"):
        path = _array_path(data, name)
        if not path.is_file():
            raise DataError(f"{path}: no such file; the arrays source needs a test part as well")


def _array_path(data: spec.Data, name: str) -> Path:
    assert data.path is not None
    return Path(data.path).expanduser().absolute() / f"{name}.npy"


def _read_array(path: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; data.path (or --data, or IGKD_DATA) must name the folder of "
            "train_images.npy, train_labels.npy, test_images.npy and test_labels.npy"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npy array: {error}") from error
    return array


_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


def _cifar10_part(files: list[str]) -> Callable[[spec.Data, Path], Part]:
    # The binary release, since the Python one is a pickle; torchvision downloads and checks it.
    def read(data: spec.Data, cache: Path) -> Part:
        folder = cache / "cifar-10-batches-bin"
        if not all((folder / name).is_file() for name in files):
            _download(_CIFAR10_URL, _CIFAR10_MD5, cache)
        records = np.concatenate([_cifar10_records(folder / name) for name in files])
        return records[:, 1:].reshape(-1, 3, 32, 32).copy(), records[:, 0].astype(np.int64)

    return read


def _cifar10_records(path: Path) -> Pixels:
    record = 1 + 3 * 32 * 32
    values = np.fromfile(path, dtype=np.uint8)
    if not len(values) or len(values) % record:
        raise DataError(
            f"{path}: {len(values)} bytes are no whole number of records of {record}; delete "
            f"{path.parent} to have it unpacked again"
        )
    return values.reshape(-1, record)


def _download(url: str, md5: str, cache: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(url, str(cache), md5=md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{url}: the download failed ({error}). Without a network, put the archive into "
            f"{cache}, or use source = 'arrays' with your own copy"
        ) from error


def _nothing_to_check(data: spec.Data, cache: Path) -> None:
    """The source carries its test part, or downloads it together with the rest."""


DOWNLOADED = ("cifar10",)
"""The sources that come over the network the first time."""

SOURCES: dict[str, _Source] = {
    "arrays": _Source(
        _arrays_part("train"), _arrays_part("test"), _check_test_arrays, shift=0, flip=False
    ),
    "cifar10": _Source(
        _cifar10_part([f"data_batch_{i}.bin" for i in range(1, 6)]),
        _cifar10_part(["test_batch.bin"]),
        _nothing_to_check,
        shift=4,
        flip=True,
    ),
    # a mirrored 2 is no digit; 8x8 images bear a shift of one pixel
    "digits": _Source(
        _digits_part(test=False), _digits_part(test=True), _nothing_to_check, shift=1, flip=False
    ),
}


def _check_labels(labels: Labels, classes: int, what: str) -> None:
    found = np.unique(labels)
    if found[0] < 0 or found[-1] >= classes:
        wrong = [int(label) for label in found if not 0 <= label < classes]
        raise DataError(f"{what}: found {wrong[:5]}; allowed are 0 to {classes - 1}")
    missing = sorted(set(range(classes)) - set(found.tolist()))
    if missing and what.startswith("training"):
        raise DataError(
            f"{what}: no image of the classes {missing[:5]} of {classes}; labels must be 0 to "
            "classes - 1 without a gap"
        )


def _draw(labels: Labels, count: int, seed: int, what: str) -> NDArray[np.int64]:
    if count == len(labels):
        return np.arange(count)
    return _stratified(labels, count, seed, what)[0]


def _split(labels: Labels, data: spec.Data) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    share = data.validation
    count = round(share * len(labels)) if share < 1 else int(share)
    held_out, rest = _stratified(labels, count, data.seed, "data.validation")
    return rest, held_out


def _stratified(
    labels: Labels, count: int, seed: int, what: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def _statistics(images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # from exact integer counts: the same on every host, and no float copy of the images
    values = np.arange(256) / 255
    mean, sd = [], []
    for channel in range(images.shape[1]):
        share = np.bincount(images[:, channel].ravel(), minlength=256) / images[:, channel].size
        mean.append(share @ values)
        sd.append(np.sqrt(share @ (values - mean[-1]) ** 2))
    return np.array(mean, np.float32), np.maximum(np.array(sd, np.float32), np.float32(1 / 255))


def reader_of(data: Dataset, device: torch.device, maps: Tensor | None = None) -> augment.Reader:
    """The images of the training part on a device, with maps (N, H, W) or without."""
    mean, sd = (torch.from_numpy(values).to(device) for values in (data.mean, data.sd))
    return augment.Reader.of(torch.tensor(data.images), maps, data.views, mean, sd)


def sample_rows(count: int, size: int) -> NDArray[np.int64]:
    """At most `size` of `count` rows, evenly spaced, first and last among them."""
    return np.unique(np.linspace(0, count - 1, size).astype(np.int64))
