"""Files of every kind that Pillow reads become upright, square colour images of one size."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from igkd_search import decoding

Bytes = NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(path: Path, size: int = 16) -> Bytes:
    """The one image, back as (size, size, 3); nothing may be wrong with it."""
    pixels, faults = decoding.decode_all([path], size)
    assert faults == [] and pixels.shape == (1, 3, size, size) and pixels.dtype == np.uint8
    found: Bytes = pixels[0].transpose(1, 2, 0)
    return found


def fault(path: Path) -> str:
    """What is said of a file that cannot be read."""
    _, [(row, reason)] = decoding.decode_all([path], 16)
    assert row == 0
    return reason


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_an_image_of_the_asked_size_stays_as_it_is(tmp_path: Path) -> None:
    path = saved(Image.fromarray(noise(16, 16)), tmp_path / "a.png")
    np.testing.assert_array_equal(decoded(path), noise(16, 16))


@pytest.mark.parametrize(("height", "width"), [(32, 80), (80, 32), (8, 20), (20, 8), (33, 47)])
def test_the_centre_of_the_shorter_side_is_kept(tmp_path: Path, height: int, width: int) -> None:
    # a white square in the middle of black: what is cut off is black on both sides
    pixels = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 255
    found = decoded(saved(Image.fromarray(pixels), tmp_path / "a.png"))
    assert found[2:-2, 2:-2].min() > 250
    assert abs(int(found[0].min()) - int(found[-1].min())) <= 128  # odd margins: half a pixel


def test_downscaling_averages_and_does_not_pick(tmp_path: Path) -> None:
    # a checkerboard of single pixels is grey from afar; without antialiasing it is black or white
    board = np.indices((128, 128)).sum(0) % 2 * np.uint8(255)
    found = decoded(saved(Image.fromarray(board.astype(np.uint8)), tmp_path / "a.png"))
    assert found.min() >= 120 and found.max() <= 135


@pytest.mark.parametrize("size", [8, 32])
def test_a_single_pixel_can_be_any_size(tmp_path: Path, size: int) -> None:
    path = saved(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "a.png")
    assert (decoded(path, size) == [1, 2, 3]).all()


def test_a_sliver_takes_no_more_memory_than_its_square(tmp_path: Path) -> None:
    path = saved(Image.new("L", (50_000, 1), 77), tmp_path / "a.png")
    assert (decoded(path, 512) == 77).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    turns: dict[int, Callable[[Bytes], Bytes]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(saved(stored, tmp_path / "a.png", exif=exif)), upright)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = noise(16, 16)[..., 0]
    found = decoded(saved(Image.fromarray(grey), tmp_path / "a.png"))
    assert all((found[..., channel] == grey).all() for channel in range(3))


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    bits = noise(16, 16)[..., 0] > 127
    found = decoded(saved(Image.fromarray(bits), tmp_path / "a.png"))
    np.testing.assert_array_equal(found[..., 0], bits * 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, name: str) -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    found = decoded(saved(Image.fromarray(deep), tmp_path / name))
    np.testing.assert_array_equal(found[..., 0].ravel(), np.arange(256))


def test_palette_images_have_the_colours_of_their_palette(tmp_path: Path) -> None:
    image = Image.fromarray(noise(16, 16)).quantize(8)
    found = decoded(saved(image, tmp_path / "a.png"))
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    pixels = np.dstack([noise(16, 16), np.full((16, 16), 255, np.uint8)])
    pixels[:8, :, 3] = 0
    found = decoded(saved(Image.fromarray(pixels), tmp_path / "a.png"))
    assert (found[:8] == 255).all()
    np.testing.assert_array_equal(found[8:], pixels[8:, :, :3])


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_transparent_entry_of_a_palette_is_white(tmp_path: Path, transparency: Any) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(0, (0, 0, 16, 8))
    found = decoded(saved(image, tmp_path / "a.png", transparency=transparency))
    assert (found[:8] == 255).all() and (found[8:] == [10, 20, 30]).all()


def test_printers_colours_become_those_of_a_screen(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (20, 20), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(decoded(path)[8, 8], [0, 255, 255], atol=3)


def test_of_a_sequence_the_first_image_is_taken(tmp_path: Path) -> None:
    first, second = Image.new("L", (16, 16), 0), Image.new("L", (16, 16), 255)
    path = saved(first, tmp_path / "a.gif", save_all=True, append_images=[second])
    assert decoded(path).max() == 0


def test_a_jpeg_decoded_smaller_looks_the_same(tmp_path: Path) -> None:
    # it is decoded at an eighth of its size, for speed
    smooth = Image.fromarray(noise(12, 12)).resize((600, 600), Image.Resampling.BICUBIC)
    path = saved(smooth, tmp_path / "a.jpg", quality=95)
    whole = np.asarray(smooth.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decoded(path) - whole).mean() < 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no image of a known format"),
        (b"no image at all", "no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert fault(tmp_path / "a.png") == said


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tif", "a.webp"])
def test_a_truncated_image_is_not_taken(tmp_path: Path, name: str) -> None:
    path = saved(Image.fromarray(noise(64, 64)), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert fault(path)


def test_a_missing_file_is_a_fault_of_that_file(tmp_path: Path) -> None:
    assert "No such file" in fault(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((16, 16), np.float32), "floating point pixels"),
        (np.full((16, 16), 70_000, np.int32), "more than 16 bits"),
        (np.full((16, 16), -1, np.int32), "more than 16 bits"),
    ],
)
def test_pixels_of_an_unknown_range_are_not_guessed(
    tmp_path: Path, values: NDArray[Any], said: str
) -> None:
    assert said in fault(saved(Image.fromarray(values), tmp_path / "a.tif"))


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG that claims to be this large and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    return path


def test_an_image_too_large_to_be_true_is_a_fault(tmp_path: Path) -> None:
    assert "exceeds limit" in fault(bomb(tmp_path / "a.png", 100_000, 100_000))


def test_no_warning_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # of an image that is large, but not too large to be true, Pillow warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    path = saved(Image.fromarray(noise(16, 16)), tmp_path / "a.png")
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path):
        pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoded(path)
    assert caught == []


def test_the_rows_of_faults_are_those_of_their_files(tmp_path: Path) -> None:
    paths = [saved(Image.new("L", (9, 9), 10 * i), tmp_path / f"{i}.png") for i in range(20)]
    for row in (3, 17):
        paths[row].write_bytes(b"")
    pixels, faults = decoding.decode_all(paths, 8)
    assert [row for row, _ in faults] == [3, 17]
    assert [int(image.max()) for image in pixels] == [
        0 if row in (3, 17) else 10 * row for row in range(20)
    ]


def test_only_raster_formats_that_can_be_read_count_as_images() -> None:
    assert {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm"} <= (
        decoding.extensions()
    )
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".txt", ".svg"} & decoding.extensions()


@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 40), st.integers(0, 255))
def test_a_plain_image_stays_plain_at_every_size(
    height: int, width: int, size: int, level: int
) -> None:
    image = Image.new("RGB", (width, height), (level, 0, 255 - level))
    assert (np.asarray(decoding.squared(image, size)) == [level, 0, 255 - level]).all()
