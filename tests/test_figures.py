"""Pictures hold the pixels they were given, are written whole, and need no pyplot."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igkd_search import figures
from igkd_search.errors import StorageError, StudyError
from tests.children import child

COLUMNS = [("cat", "p = 0.900"), ("$5", "p = 1.000"), ("a class of a very long name", "")]
BLACK, WHITE = np.zeros((3, 3, 4, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)
MAPS = np.linspace(0, 1, 48, dtype=np.float32).reshape(3, 4, 4)
STRIPS = [
    figures.Strip("original", WHITE),
    figures.Strip("map", MAPS, "Integrated Gradients"),
    figures.Strip("overlay", BLACK, marked=True),
]


def draw(path: Path, strips: list[figures.Strip]) -> NDArray[np.uint8]:
    """The picture as read back: uint8 (H, W, 3)."""
    figures.save(figures.draw_gallery("tiny", "of a test", COLUMNS, strips), path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def strip_of(picture: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
    """The pixels within the pictures of one row, at 200 dots an inch."""
    top = round(200 * (figures._TOP + row * (figures._CELL + figures._GAP)))
    return picture[top + 10 : top + 190, round(200 * figures._LEFT) + 10 :][:, :180]


def test_rows_show_what_they_were_given(tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", STRIPS)
    assert (picture[:20] == 255).all(), "the ground is white"
    assert (strip_of(picture, 0) == 255).all()
    assert (strip_of(picture, 2) == 0).all()
    # four pixels across, none blended with its neighbour
    colours = {tuple(colour) for colour in strip_of(picture, 1).reshape(-1, 3)}
    assert len(colours) == 16
    assert picture.shape[0] > 200 * 3 and picture.shape[1] >= 200 * figures._LEAST_WIDTH


def test_lightness_grows_with_a_maps_value(tmp_path: Path) -> None:
    picture = strip_of(draw(tmp_path / "a.png", STRIPS), 1).astype(int)
    light = (picture @ np.array([299, 587, 114]))[20::45, 20::45].ravel()
    assert (np.diff(light) > 0).all()


def test_one_column_is_wide_enough_for_the_title(tmp_path: Path) -> None:
    strips = [figures.Strip("map", MAPS[:1])]
    figures.save(figures.draw_gallery("tiny", "", COLUMNS[:1], strips), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 200 * figures._LEAST_WIDTH


@pytest.mark.parametrize(
    ("name", "start"), [("a.pdf", b"%PDF"), ("a.SVG", b"<?xml"), ("a.png", b"\x89P")]
)
def test_the_extension_chooses_the_format(tmp_path: Path, name: str, start: bytes) -> None:
    figures.save(figures.draw_gallery("tiny", "", COLUMNS, STRIPS), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a", "png"])
def test_another_extension_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match=r"end the name in .pdf, .png, .svg"):
        figures.check_format(tmp_path / name)


def test_a_picture_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        figures.save(figures.draw_gallery("tiny", "", COLUMNS, STRIPS), tmp_path / "gone" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    figure = figures.draw_gallery("tiny", "", COLUMNS, STRIPS)
    for name in ("a.png", "b.png", "a.pdf", "b.pdf"):
        figures.save(figure, tmp_path / name)
    for suffix in ("png", "pdf"):
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second


def test_pyplot_is_not_loaded() -> None:
    code = "import sys, igkd_search.figures; print('matplotlib.pyplot' in sys.modules)"
    output, trouble = child(code).communicate()
    assert output == "False\n", trouble
