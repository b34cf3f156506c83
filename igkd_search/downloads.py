"""The public data sets: downloaded once by torchvision, held to their MD5, read without pickle.

CIFAR comes as its binary release, since the Python one is a pickle. It is unpacked beside its place
and moved there file by file, so that a kill leaves no half file that looks whole; each file must
then have its exact size. SVHN and Fashion-MNIST are read from the very files that were downloaded,
whose MD5 is checked at every load.
"""

import gzip
import math
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from igkd_search.errors import DataError
from igkd_search.sources import Part, Pixels, Place, in_colour

PartName = Literal["train", "test"]


@dataclass(frozen=True)
class Cifar:
    """A binary release: records of label bytes, of which the last counts, and 3x32x32 pixels."""

    url: str
    md5: str
    folder: str
    label_bytes: int
    records: Mapping[PartName, Mapping[str, int]]
    """Part -> file -> how many records it holds."""


CIFAR10 = Cifar(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    label_bytes=1,
    records={
        "train": {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
        "test": {"test_batch.bin": 10_000},
    },
)
CIFAR100 = Cifar(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    label_bytes=2,  # coarse, then fine
    records={"train": {"train.bin": 50_000}, "test": {"test.bin": 10_000}},
)
CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100_NAMES = "fine_label_names.txt"


def cifar(release: Cifar, part: PartName) -> Callable[[Place], Part]:
    """Read one part of CIFAR-10 or CIFAR-100; the latter's labels are the 100 fine ones."""

    def read(place: Place) -> Part:
        folder = _unpacked(release, place.cache)
        files = release.records[part].items()
        values = np.concatenate([_records(release, folder / name, count) for name, count in files])
        images = values[:, release.label_bytes :].reshape(-1, 3, 32, 32).copy()
        return images, values[:, release.label_bytes - 1].astype(np.int64)

    return read


def cifar100_names(place: Place) -> tuple[str, ...]:
    """The 100 fine classes, as the release names them."""
    path = _unpacked(CIFAR100, place.cache) / _CIFAR100_NAMES
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != 100:
        raise _damaged(path, f"found {len(names)} names; allowed are 100")
    return names


def _unpacked(release: Cifar, cache: Path) -> Path:
    folder = cache / release.folder
    names = [name for files in release.records.values() for name in files]
    names += [_CIFAR100_NAMES] if release is CIFAR100 else []
    if all((folder / name).is_file() for name in names):
        return folder
    archive = _download(release.url, release.md5, cache)
    with _locked(folder):
        if not all((folder / name).is_file() for name in names):
            _unpack(archive, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    partial = folder.with_name(f"{folder.name}.partial")
    try:
        extract_archive(archive, partial)
        folder.mkdir(exist_ok=True)
        for path in (partial / folder.name).iterdir():
            path.replace(folder / path.name)
        shutil.rmtree(partial)
    except OSError as error:
        raise DataError(
            f"{archive}: cannot be unpacked into {folder} ({error}); free space there, or choose "
            "another folder with --home or IGKD_HOME"
        ) from error


def _records(release: Cifar, path: Path, count: int) -> Pixels:
    record = release.label_bytes + 3 * 32 * 32
    found = path.stat().st_size
    if found != count * record:
        raise DataError(
            f"{path}: found {found} bytes; allowed are {count * record}, {count} records of "
            f"{record}; delete {path.parent} to have it unpacked again"
        )
    return np.fromfile(path, dtype=np.uint8).reshape(count, record)


def svhn(part: PartName) -> Callable[[Place], Part]:
    """Read one part of SVHN's cropped digits; the release calls the digit 0 ten."""

    def read(place: Place) -> Part:
        from scipy.io import loadmat

        path = _svhn_file(part, place.cache)
        try:
            found = loadmat(path, variable_names=["X", "y"])
            images, labels = np.asarray(found["X"]), np.asarray(found["y"]).ravel()
        except Exception as error:  # whatever scipy makes of a damaged file
            raise _damaged(path, f"not a readable .mat file ({error!r})") from error
        if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
            raise _damaged(path, f"found {images.dtype} {images.shape} for {len(labels)} labels")
        digits = np.where(labels == 10, 0, labels).astype(np.int64)
        return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), digits

    return read


def _svhn_file(part: PartName, cache: Path) -> Path:
    from torchvision.datasets import SVHN

    url, _, md5 = SVHN.split_list[part]
    return _download(url, md5, cache)


def check_svhn_test(place: Place) -> None:
    """Download the test part unless it lies there, so that final training needs no network."""
    if not (place.cache / "test_32x32.mat").is_file():
        _svhn_file("test", place.cache)


def fashion_mnist(part: PartName) -> Callable[[Place], Part]:
    """Read one part of Fashion-MNIST: 28x28, grey in three channels."""

    def read(place: Place) -> Part:
        image_file, label_file = _fashion_files(part, place.cache)
        images, labels = _idx(image_file, 3), _idx(label_file, 1)
        if labels.shape != images.shape[:1] or images.shape[1:] != (28, 28):
            raise _damaged(image_file, f"found {images.shape} images for {labels.shape} labels")
        return in_colour(images), labels.astype(np.int64)

    return read


def fashion_names(place: Place) -> tuple[str, ...]:
    """The ten kinds of garment, as torchvision names them."""
    from torchvision.datasets import FashionMNIST

    return tuple(FashionMNIST.classes)


def check_fashion_test(place: Place) -> None:
    """Download the test part unless it lies there, so that final training needs no network."""
    folder = _fashion_folder(place.cache)
    if not all((folder / f"t10k-{end}.gz").is_file() for end in _IDX_FILES):
        _fashion_files("test", place.cache)


_IDX_FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _fashion_folder(cache: Path) -> Path:
    # a folder of its own, since MNIST's files have the same names
    return cache / "fashion_mnist"


def _fashion_files(part: PartName, cache: Path) -> list[Path]:
    from torchvision.datasets import FashionMNIST

    digests, prefix = dict(FashionMNIST.resources), {"train": "train", "test": "t10k"}[part]
    names = [f"{prefix}-{end}.gz" for end in _IDX_FILES]
    url = FashionMNIST.mirrors[0]
    return [_download(url + name, digests[name], _fashion_folder(cache)) for name in names]


def _idx(path: Path, dimensions: int) -> Pixels:
    """A gzipped idx file of bytes: two zeros, type 8, dimensions, their sizes, then the values."""
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"not a readable gzip file ({error})") from error
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(raw[4:start], ">u4").tolist()) if len(raw) >= start else ()
    if raw[:4] != bytes([0, 0, 8, dimensions]) or len(raw) != start + math.prod(shape):
        raise _damaged(path, f"not a whole idx file of {dimensions} dimensions")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _damaged(path: Path, found: str) -> DataError:
    return DataError(f"{path}: {found}; delete it to have it downloaded again")


def _download(url: str, md5: str, cache: Path) -> Path:
    """Return the file of that MD5 in `cache`, downloaded if none is there."""
    from torchvision.datasets import utils

    path = cache / url.rpartition("/")[2]
    try:
        with _locked(path):
            if not utils.check_integrity(str(path), md5):
                # to the side, and moved when whole: what lies in its place is never half a file
                aside = cache / f"{path.name}.partial"
                utils.download_url(url, str(aside), md5=md5)
                (aside / path.name).replace(path)
                aside.rmdir()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{url}: the download failed ({error}). Without a network, put {path.name} (MD5 {md5}) "
            f"into {cache}, or use source = 'arrays' with your own copy"
        ) from error
    return path


def _locked(path: Path) -> AbstractContextManager[Any]:
    # of many processes one downloads, the rest wait
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))
