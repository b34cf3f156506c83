"""Classify images with a shipped student: numpy and onnxruntime, nothing else.

    python example.py image.png                              the most probable classes
    python example.py image.png --model student.int8.onnx    with the smaller, faster file

Reads PNG (not interlaced) and .npy by itself, and every other format where Pillow is installed. An
image of another size is treated as in training: the largest centred part of the model's shape,
resized with antialiasing; grey becomes three equal channels, transparency becomes white.

`igkd train` lays this file beside student.onnx as it is here; it may be copied and changed freely.
"""

import argparse
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type: grey, RGB, palette, ..
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# of Pillow's formats, those of training: some others start outside programs
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_LARGEST = 100_000_000  # pixels; more of them is a damaged or malicious file


class ImageError(Exception):
    """An image cannot be read; the message says why and what would do."""


# --- from a file to pixels (3, H, W)


def read(path: Path, side: int) -> Pixels:
    """The image in a file as uint8 (3, H, W); ImageError when it cannot be read.

    `side` is what it will be resized to: a JPEG that is far larger is decoded smaller, as in
    training.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        if path.suffix.lower() == ".npy":
            return _from_array(content)
        if content.startswith(_SIGNATURE) and not _is_interlaced(content):
            return _from_png(content)
        return _by_pillow(path, side)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _from_array(content: bytes) -> Pixels:
    try:
        found = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # whatever a damaged header makes its parser raise
        raise ImageError("not an array that numpy.save has written") from error
    if found.size == 0:
        raise ImageError(f"holds {found.dtype} {found.shape}, which is no pixels at all")
    if found.dtype == np.uint8 and found.ndim == 2:
        return np.repeat(found[None], 3, axis=0)
    if found.dtype == np.uint8 and found.ndim == 3 and 3 in (found.shape[0], found.shape[2]):
        pixels: Pixels = found if found.shape[0] == 3 else found.transpose(2, 0, 1)
        return pixels
    raise ImageError(
        f"holds {found.dtype} {found.shape}; wanted is one image, uint8 (H, W), (3, H, W) or "
        "(H, W, 3)"
    )


def _by_pillow(path: Path, side: int) -> Pixels:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImageError(
            "only PNG without interlacing and .npy are read here; convert it, or for other formats "
            "type: pip install pillow"
        ) from None
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with Image.open(path, formats=formats) as image:
            image.draft(None, (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F" or upright.mode[:1] == "I":
                return in_colour(_of_16_bits(np.asarray(upright)), 16)
            if upright.has_transparency_data:
                return in_colour(np.asarray(upright.convert("RGBA")).transpose(2, 0, 1), 8)
            return in_colour(np.asarray(upright.convert("RGB")).transpose(2, 0, 1), 8)
    except ImageError:
        raise
    except Exception as error:  # whatever a damaged file makes a decoder raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"cannot be decoded ({reason})") from error


def _of_16_bits(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError("has more than 16 bits a pixel; save it with 8 or 16")
    return values


def in_colour(samples: NDArray[Any], bits: int) -> Pixels:
    """Grey (H, W) or (1, H, W), grey and alpha, RGB or RGBA (C, H, W) as uint8 RGB (3, H, W)."""
    grey = samples.ndim == 2 or len(samples) == 1
    values = samples.reshape(-1, *samples.shape[-2:]).astype(np.int64)
    if bits == 16:
        # as Pillow does: grey is scaled, of colours the upper byte is kept
        values = (values * 255 + 32767) // 65535 if grey else values >> 8
    if len(values) in (2, 4):
        alpha = values[-1:]
        values = (values[:-1] * alpha + 255 * (255 - alpha) + 127) // 255
    return np.broadcast_to(values, (3, *values.shape[1:])).astype(np.uint8)


# --- PNG: https://www.w3.org/TR/png-3/


def _is_interlaced(content: bytes) -> bool:
    return len(content) > 28 and content[28] != 0


def _from_png(content: bytes) -> Pixels:
    chunks: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    for name, data in _chunks(content):
        chunks[name] = data
        if name == b"IDAT":
            parts.append(data)
    if b"IHDR" not in chunks or not parts or len(chunks[b"IHDR"]) != 13:
        raise ImageError("is a damaged PNG: it holds no pixels")
    width, height, bits, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    if bits not in _DEPTHS.get(kind, ()) or not 0 < width * height <= _LARGEST:
        raise ImageError(
            f"is no PNG of a known kind: {width}x{height}, colour type {kind}, {bits} bits"
        )
    samples = _samples(b"".join(parts), width, height, bits, _SAMPLES[kind])
    transparent = chunks.get(b"tRNS")
    if kind == 3:
        return _from_palette(samples[0], chunks.get(b"PLTE", b""), transparent or b"")
    if bits < 8:
        samples = samples * (255 // (2**bits - 1))
    named = kind == 2 or (kind == 0 and bits < 16)  # as Pillow does
    if named and transparent is not None and len(transparent) == 2 * len(samples):
        return in_colour(_with_alpha(samples, bits, transparent), 8)
    return in_colour(samples, max(bits, 8))


def _with_alpha(samples: NDArray[np.int64], bits: int, transparent: bytes) -> NDArray[np.int64]:
    """Grey or RGB in 8 bits with an alpha that is 0 where they are the colour named by tRNS.

    As Pillow does, whatever the bits, its lower bytes are compared with the values in 8 bits.
    """
    values = samples >> 8 if bits == 16 else samples
    named = np.frombuffer(transparent, ">u2").astype(np.int64)[:, None, None]
    named = named if bits == 1 else named & 255
    alpha = np.where((values == named).all(axis=0, keepdims=True), 0, 255)
    return np.concatenate([values, alpha])


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of each part of the file, in order."""
    place = len(_SIGNATURE)
    while place < len(content):
        if place + 12 > len(content):
            raise ImageError("is a damaged PNG: it ends early")
        length, name = struct.unpack(">I4s", content[place : place + 8])
        end = place + 8 + length
        data, check = content[place + 8 : end], content[end : end + 4]
        if check != struct.pack(">I", zlib.crc32(data, zlib.crc32(name))):
            raise ImageError("is a damaged PNG: a checksum does not match")
        yield name, data
        if name == b"IEND":
            return
        place = end + 4


def _samples(data: bytes, width: int, height: int, bits: int, count: int) -> NDArray[np.int64]:
    """The values (count, H, W) in the compressed rows, as they are stored."""
    step = max(1, count * bits // 8)  # bytes from a pixel to its neighbour
    across = -(-width * count * bits // 8) // step
    try:
        raw = zlib.decompressobj().decompress(data, height * (1 + across * step))
    except zlib.error as error:
        raise ImageError(f"is a damaged PNG ({error})") from error
    if len(raw) < height * (1 + across * step):
        raise ImageError("is a damaged PNG: rows are missing")
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + across * step)
    if rows[:, 0].max() > 4:
        raise ImageError("is a damaged PNG: unknown row filter")
    found = unfiltered(rows[:, 0], rows[:, 1:].reshape(height, across, step))
    flat = found.reshape(height, -1)
    if bits < 8:
        shifts = np.arange(8 - bits, -1, -bits)
        flat = ((flat[..., None] >> shifts) & (2**bits - 1)).reshape(height, -1)[:, :width]
    if bits == 16:
        flat = np.ascontiguousarray(flat).view(">u2")
    return flat.reshape(height, width, count).transpose(2, 0, 1).astype(np.int64)


def unfiltered(filters: Pixels, rows: Pixels) -> Pixels:
    """The bytes (H, W, step) of filtered rows; each depends on its left and upper neighbours.

    So all bytes on a diagonal from the lower left to the upper right are computed at once.
    """
    height, width, step = rows.shape
    found = np.zeros((height + 1, width + 1, step), np.int16)  # a margin of zeros above and left
    flat = found.reshape(-1, step)
    for diagonal in range(height + width - 1):
        first, last = max(0, diagonal - width + 1), min(height - 1, diagonal)
        y = np.arange(first, last + 1)
        x = diagonal - y
        place = (y + 1) * (width + 1) + x + 1
        left, up, corner = flat[place - 1], flat[place - width - 1], flat[place - width - 2]
        to_left, to_up = np.abs(up - corner), np.abs(left - corner)
        to_corner = np.abs(left + up - 2 * corner)
        nearer = np.where(to_up <= to_corner, up, corner)
        paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearer)
        guesses = [np.zeros_like(left), left, up, (left + up) >> 1, paeth]
        flat[place] = (rows[y, x] + np.choose(filters[y][:, None], guesses)) & 255
    return found[1:, 1:].astype(np.uint8)


def _from_palette(indexes: NDArray[np.int64], palette: bytes, transparent: bytes) -> Pixels:
    colours = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
    if indexes.max() >= len(colours):
        raise ImageError("is a damaged PNG: colours are missing from its palette")
    alpha = np.full(len(colours), 255, np.uint8)
    given = np.frombuffer(transparent, np.uint8)[: len(colours)]
    alpha[: len(given)] = given
    return in_colour(np.column_stack([colours, alpha])[indexes].transpose(2, 0, 1), 8)


# --- from pixels to the size of the model, as Pillow's BILINEAR does it


def fitted(pixels: Pixels, height: int, width: int) -> Pixels:
    """The largest centred part of an image (3, H, W) with these proportions, resized to them."""
    rows, columns = pixels.shape[1:]
    scale = min(rows / height, columns / width)
    across = _resized(pixels, 2, (columns - scale * width) / 2, scale, width)
    return _resized(across, 1, (rows - scale * height) / 2, scale, height)


def _resized(pixels: Pixels, axis: int, start: float, scale: float, size: int) -> Pixels:
    """One axis as `size` weighted means, each of the pixels under a triangle around its place."""
    length, reach = pixels.shape[axis], max(scale, 1.0)
    centres = start + (np.arange(size) + 0.5) * scale
    distances = (np.arange(length) + 0.5 - centres[:, None]) / reach
    weights = np.maximum(0, 1 - np.abs(distances))
    weights /= weights.sum(axis=1, keepdims=True)
    summed = np.tensordot(weights, pixels, (1, axis))
    rounded: Pixels = np.floor(np.moveaxis(summed, 0, axis) + 0.5).clip(0, 255).astype(np.uint8)
    return rounded


# --- the model


def load(path: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A shipped model and the names of its classes; SystemExit when it is none."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    except OSError as error:
        raise SystemExit(f"error: {path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise SystemExit(f"error: {path}: not a student that igkd train has written") from error
    return session, names


def classify(session: onnxruntime.InferenceSession, path: Path) -> NDArray[np.float64]:
    """The probability of each class for the image in a file, of any size."""
    (given,) = session.get_inputs()
    _, _, height, width = given.shape
    pixels = fitted(read(path, max(height, width)), height, width)
    (logits,) = session.run(None, {given.name: pixels[None]})
    shifted = np.exp(logits[0].astype(np.float64) - logits.max())
    probabilities: NDArray[np.float64] = shifted / shifted.sum()
    return probabilities


def main(words: list[str] | None = None) -> None:
    """The command."""
    beside = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Classify images with a shipped student.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--model", type=Path, default=beside / "student.onnx")
    parser.add_argument("--top", type=int, default=3, help="how many classes are shown")
    options = parser.parse_args(words)
    model = options.model if options.model.exists() else beside / options.model
    session, names = load(model)
    for path in options.images:
        try:
            probabilities = classify(session, path)
        except ImageError as error:
            raise SystemExit(f"error: {error}") from error
        if len(options.images) > 1:
            print(path)
        for index in np.argsort(-probabilities, kind="stable")[: max(1, options.top)]:
            print(f"{probabilities[index]:7.2%}  {names[index]}")


if __name__ == "__main__":
    main()
