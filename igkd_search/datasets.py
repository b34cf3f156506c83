"""A source name -> uint8 images, labels, a stratified split and a fingerprint.

`load` opens the training part alone and only checks that the test part exists; `load_test` is the
one way to the test part, and only final training calls it.
"""

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from igkd_search import (
    arrays,
    augment,
    decoding,
    downloads,
    image_folder,
    memory,
    shards,
    sources,
    spec,
    splits,
    stages,
    vault,
)
from igkd_search.errors import DataError
from igkd_search.sources import Labels, Pixels, Place, Source

log = logging.getLogger(__name__)

Part = sources.Part
"""Images uint8 (N, 3, H, W) and labels int64 (N,)."""

_SHARD = 256  # images decoded between two words on the progress; the most that a kill costs


@dataclass(frozen=True)
class Dataset:
    """The training part of a source; row i is the same image in every bank.

    images uint8 (N, 3, H, W); labels int64 (N,); fit_rows and validation_rows are ascending,
    disjoint and cover all N. `mean` and `sd` (3,) are those of the fit rows in [0, 1], or 0 and 1
    where images are not normalised.
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
    class_names: tuple[str, ...]
    """What people call each class; the numbers themselves where the source has no names."""
    entries: tuple[str, ...] = ()
    """The vault's entries that the images were read from, "kind/digest"."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


def check(data: spec.Data, home: Path) -> None:
    """DataError for what is wrong with the labels of a source in `CACHED`; writes nothing."""
    source, place = SOURCES[data.source], _place(data, home, _store(home))
    if source.labels is not None:
        _rows(source.labels(place), data, len(source.class_names(place)))


def load(data: spec.Data, home: Path) -> Dataset:
    """The training part, split; downloads go to `home`/data, decoded images to `home`/vault.

    DataError when it is missing, misshapen or mislabelled. The test part is not opened.
    """
    store = _store(home)
    source, place = SOURCES[data.source], _place(data, home, store)
    images, labels = source.training(place)
    source.check_test(place)
    names = source.class_names(place)
    kept, fit_rows, validation_rows, classes = _rows(labels, data, len(names))
    if len(kept) < len(labels):
        images, labels = images[kept], labels[kept]
    mean, sd = _statistics(images, fit_rows) if data.normalise else _identity(images)
    return Dataset(
        images=images,
        labels=labels,
        fit_rows=fit_rows,
        validation_rows=validation_rows,
        classes=classes,
        views=_views(data, source),
        fingerprint=_fingerprint(data, images, labels, fit_rows, validation_rows),
        mean=mean,
        sd=sd,
        class_names=names or tuple(map(str, range(classes))),
        entries=store.opened,
    )


def load_test(data: spec.Data, home: Path, classes: int) -> Part:
    """The test part: images uint8 (N, 3, H, W), labels int64 (N,). Read once a finished model."""
    images, labels = SOURCES[data.source].test(_place(data, home, _store(home)))
    splits.check_labels(labels, classes, "test labels", every_class=False)
    log.info("test set opened: %d images", len(images))
    return images, labels


def count_duplicates(training: Pixels, test: Pixels) -> int:
    """How many test images (M, C, H, W) occur, pixel for pixel, in the training part (N, C, H, W).

    Compared by a digest of each image, so beside the images it takes 100 bytes for each of them.
    """
    if training.shape[1:] != test.shape[1:]:
        return 0
    known = {hashlib.sha256(image.tobytes()).digest() for image in training}
    return sum(hashlib.sha256(image.tobytes()).digest() in known for image in test)


def _store(home: Path) -> vault.Vault:
    return vault.Vault(home / "vault")


def _place(data: spec.Data, home: Path, store: vault.Vault) -> Place:
    return Place(data.path, home / "data", store, data.image_size or spec.IMAGE_SIZE)


def _rows(
    labels: Labels, data: spec.Data, named: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Rows kept of all, fit and validation rows of those kept, and how many classes there are."""
    classes = data.classes or named or int(labels.max()) + 1
    splits.check_labels(labels, classes, "training labels", every_class=True)
    kept = np.arange(len(labels))
    if data.limit is not None:
        kept = splits.draw(labels, data.limit, data.seed, "data.limit")
    return kept, *splits.split(labels[kept], data.validation, data.seed), classes


def _views(data: spec.Data, source: Source) -> augment.Views:
    if source.shift is None and data.shift is None and data.flip is None:
        log.info(
            "source '%s': images are neither moved nor mirrored, since nothing is known of them; "
            "if that leaves their class as it is, say so with data.shift and data.flip",
            data.source,
        )
    return augment.Views(
        shift=(source.shift or 0) if data.shift is None else data.shift,
        flip=data.mirrored,
    )


def _fingerprint(data: spec.Data, *parts: NDArray[np.uint8] | NDArray[np.int64]) -> str:
    # how networks are shown the images is part of what they learn from
    found = hashlib.sha256(b"" if data.normalise else b"in [0, 1]")
    for array in parts:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _identity(images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    channels = images.shape[1]
    return np.zeros(channels, np.float32), np.ones(channels, np.float32)


def _statistics(
    images: Pixels, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # from exact integer counts: the same on every host, and no float copy of the images
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(rows), 1024):
        chunk = images[rows[start : start + 1024]]
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean, sd = [], []
    for share in counts / counts.sum(axis=1, keepdims=True):
        mean.append(share @ values)
        sd.append(np.sqrt(share @ (values - mean[-1]) ** 2))
    return np.array(mean, np.float32), np.maximum(np.array(sd, np.float32), np.float32(1 / 255))


def reader_of(
    data: Dataset,
    device: torch.device,
    maps: augment.Maps | None = None,
    resident: bool | None = None,
) -> augment.Reader:
    """The images of the training part on a device, with maps (N, H, W) or without.

    `resident` says whether all are kept there; by default they are where half of its free memory
    holds them, and are sent from the host batch by batch where it does not.
    """
    mean, sd = (torch.from_numpy(values).to(device) for values in (data.mean, data.sd))
    if resident is None:
        size = math.prod(augment.packed_shape(data.images, maps, data.views.shift))
        resident = memory.holds(device, size)
        if not resident:
            log.info("%.1f GB of images do not fit into %s: they stream", size / 1e9, device)
    make = augment.Reader.of if resident else augment.Reader.streaming
    return make(data.images, maps, data.views, mean, sd)


def sample_rows(count: int, size: int) -> NDArray[np.int64]:
    """At most `size` of `count` rows, evenly spaced, first and last among them."""
    return np.unique(np.linspace(0, count - 1, size).astype(np.int64))


def _folder_training(place: Place) -> Part:
    parts = image_folder.list_parts(_path(place))
    if parts.ignored:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in parts.ignored.most_common(5))
        log.info("%s: files that are no images are ignored: %s", place.path, kinds)
    if parts.cut:
        log.info("%s: %d images are set apart as test part", place.path, len(parts.test.labels))
    return _decoded(parts.training, "train", place), parts.training.labels


def _folder_test(place: Place) -> Part:
    files = image_folder.list_parts(_path(place)).test
    return _decoded(files, "test", place), files.labels


def _path(place: Place) -> str:
    assert place.path is not None
    return place.path


def _decoded(files: image_folder.Files, part: str, place: Place) -> Pixels:
    """The images of a part, memory-mapped; decoded unless the vault holds them already."""
    size = place.image_size
    inputs = {"files": files.digest(), "part": part, "image_size": size, **decoding.RECIPE}

    def build(folder: Path) -> None:
        shape = (len(files.names), 3, size, size)
        try:
            with stages.stage("images", len(files.names), "images") as stage:
                decode = image_folder.decoder(files, size, stage.advance)
                shards.fill(folder, "images", shape, np.uint8, _SHARD, decode, stage.advance)
        except DataError:
            for left in folder.iterdir():  # mended files are another entry: nothing continues this
                left.unlink()
            raise

    images: Pixels = shards.read_array(place.store.entry("images", inputs, build), "images")
    return images


DOWNLOADED = ("cifar10", "cifar100", "fashion_mnist", "svhn")
"""The sources that come over the network the first time."""

CACHED = (*DOWNLOADED, "folder")
"""The sources that write into the home folder the first time."""

SOURCES: dict[str, Source] = {
    "arrays": Source(
        arrays.arrays("train"),
        arrays.arrays("test"),
        shift=None,
        check_test=arrays.check_test_arrays,
    ),
    # the augmentation that every published result on CIFAR uses
    "cifar10": Source(
        downloads.cifar(downloads.CIFAR10, "train"),
        downloads.cifar(downloads.CIFAR10, "test"),
        shift=4,
        class_names=lambda place: downloads.CIFAR10_NAMES,
    ),
    "cifar100": Source(
        downloads.cifar(downloads.CIFAR100, "train"),
        downloads.cifar(downloads.CIFAR100, "test"),
        shift=4,
        class_names=downloads.cifar100_names,
    ),
    # a mirrored 2 is no digit; 8x8 images bear a shift of one pixel
    "digits": Source(sources.digits(test=False), sources.digits(test=True), shift=1),
    # garments have no left and right; centred on 28x28, their margins bear two pixels
    "fashion_mnist": Source(
        downloads.fashion_mnist("train"),
        downloads.fashion_mnist("test"),
        shift=2,
        check_test=downloads.check_fashion_test,
        class_names=downloads.fashion_names,
    ),
    "folder": Source(
        _folder_training,
        _folder_test,
        shift=None,
        class_names=lambda place: image_folder.class_names(_path(place)),
        labels=lambda place: image_folder.list_parts(_path(place)).training.labels,
    ),
    # a mirrored 2 is no digit; its neighbours stand beside it, and it must stay the central one
    "svhn": Source(
        downloads.svhn("train"),
        downloads.svhn("test"),
        shift=2,
        check_test=downloads.check_svhn_test,
    ),
}
