"""The `arrays` source: the user's own images as four .npy files, memory-mapped, never unpickled."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from igkd_search.errors import DataError
from igkd_search.sources import Part, Pixels, Place, in_colour


def arrays(part: str) -> Callable[[Place], Part]:
    """Read `train` or `test`: uint8 (N, 3, H, W), or (N, H, W) for grey, and one integer each."""

    def read(place: Place) -> Part:
        images = _read_array(_path(place, f"{part}_images"))
        labels = _read_array(_path(place, f"{part}_labels"))
        where = _path(place, f"{part}_images")
        grey = images.ndim == 3
        if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[1] == 3)):
            raise DataError(
                f"{where}: found {images.dtype} {images.shape}; allowed is uint8 (N, 3, H, W), or "
                "(N, H, W) for grey images"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            raise DataError(
                f"{_path(place, f'{part}_labels')}: found {labels.dtype} {labels.shape}; "
                f"allowed is one integer for each of the {len(images)} images, ({len(images)},)"
            )
        if not len(images):
            raise DataError(f"{where}: holds no image")
        pixels = cast(Pixels, images)
        return in_colour(pixels) if grey else pixels, labels.astype(np.int64)

    return read


def check_test_arrays(place: Place) -> None:
    """DataError unless the files of the test part exist; they are not opened."""
    for name in ("test_images", "test_labels"):
        path = _path(place, name)
        if not path.is_file():
            raise DataError(f"{path}: no such file; the arrays source needs a test part as well")


def _path(place: Place, name: str) -> Path:
    assert place.path is not None
    return Path(place.path).expanduser().absolute() / f"{name}.npy"


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
