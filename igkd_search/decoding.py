"""An image file of any size and kind -> uint8 (3, S, S); many at once, on all cores.

Threads, since Pillow decodes and resizes without the interpreter's lock; processes were no faster.
Whatever a damaged file makes its decoder raise is that file's fault and is returned, not raised, so
that all of them can be listed at once.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]

RECIPE = {"pillow": int(PIL.__version__.partition(".")[0]), "version": 1}
"""Raise the version when the same file gives other pixels."""

# Raster formats only: of Pillow's others, some start outside programs and some have no decoder.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def extensions() -> frozenset[str]:
    """The file extensions, lower case and with their dot, that are taken for images."""
    formats = _formats()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def decode_all(paths: Sequence[Path], size: int) -> tuple[Pixels, list[tuple[int, str]]]:
    """Decode files to uint8 (N, 3, size, size); with it, row and reason of each that failed."""
    _formats()  # before the threads, which would all do it
    pixels = np.zeros((len(paths), 3, size, size), np.uint8)

    def fill(row: int) -> str | None:
        try:
            pixels[row] = decode(paths[row], size)
        except Exception as error:
            return _reason(error)
        return None

    with warnings.catch_warnings():
        # of large images and odd metadata; what cannot be decoded raises
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with ThreadPoolExecutor() as pool:
            reasons = list(pool.map(fill, range(len(paths))))
    return pixels, [(row, reason) for row, reason in enumerate(reasons) if reason is not None]


def decode(path: Path, size: int) -> Pixels:
    """One file as uint8 (3, size, size): upright, its shorter side resized, the centre cut out.

    Raises what Pillow raises when the file is no whole image. Of a sequence it is the first image.
    """
    with Image.open(path, formats=_formats()) as image:
        image.draft(
            None, (2 * size, 2 * size)
        )  # a JPEG may be decoded smaller: 2 to 4 times faster
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        colour = _in_colour(image)
    return np.asarray(squared(colour, size)).transpose(2, 0, 1)


def squared(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square of an image, resized with antialiasing to `size` pixels."""
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _in_colour(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        # on white, as a page shows it: the colour of transparent pixels is arbitrary
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a pixel; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return str(error).partition("\n")[0] or type(error).__name__
