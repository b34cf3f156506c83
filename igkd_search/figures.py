"""Rows and arrays drawn as pictures: labelled strips of images and maps, as PNG, PDF or SVG.

Nothing here knows of studies. matplotlib's objects are used without pyplot, whose global state and
choice of a window system are no business of a library.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from igkd_search import vault
from igkd_search.errors import StudyError

# What a file would else carry of the moment it was written
_UNDATED: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None},
    ".png": {},
    ".svg": {"Date": None},
}
# Inches: a picture, between two, left of them, above them, at the edge, right of them for the scale
_CELL, _GAP, _LEFT, _TOP, _EDGE, _RIGHT = 1.0, 0.09, 1.45, 1.2, 0.2, 0.55
_LEAST_WIDTH = 6.5  # for the title over few columns
_COLOURS = "inferno"
_GREY, _ACCENT = "#595959", "#b3261e"


@dataclass(frozen=True)
class Strip:
    """One row of a gallery: images float (B, C, H, W), or maps (B, H, W), all in [0, 1]."""

    label: str
    pictures: NDArray[np.float32]
    note: str = ""
    """A second line below the label."""
    marked: bool = False
    """Whether the row is framed, as the one that counts."""


def check_format(path: Path) -> None:
    """StudyError unless pictures of this extension can be written."""
    if path.suffix.lower() not in _UNDATED:
        raise StudyError(
            f"{path}: '{path.suffix}' is no format that can be written; end the name in "
            f"{', '.join(_UNDATED)}"
        )


def draw_gallery(
    title: str, subtitle: str, columns: Sequence[tuple[str, str]], strips: Sequence[Strip]
) -> Figure:
    """A grid of pictures: one column a (name, note), one row a strip of len(columns) pictures.

    Pixels are shown as they are, whatever their number; maps in colours whose lightness grows with
    the value, beside the scale.
    """
    width = _LEFT + len(columns) * (_CELL + _GAP) + _RIGHT
    height = _TOP + len(strips) * (_CELL + _GAP) - _GAP + _EDGE
    figure = Figure(figsize=(max(width, _LEAST_WIDTH), height), facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, _EDGE, 0.38, title, size=13, weight="bold")
    _write(figure, _EDGE, 0.6, subtitle, size=8.5, color=_GREY)
    for column, (name, note) in enumerate(columns):
        middle = _LEFT + column * (_CELL + _GAP) + _CELL / 2
        size = min(10.0, 120 / max(len(name), 1))  # a long name gets smaller, not cut
        _write(figure, middle, _TOP - 0.25, name, size=size, weight="bold", ha="center")
        _write(figure, middle, _TOP - 0.08, note, size=8, color=_GREY, ha="center")
    for row, strip in enumerate(strips):
        assert len(strip.pictures) == len(columns), (len(strip.pictures), len(columns))
        _draw_strip(figure, _TOP + row * (_CELL + _GAP), strip)
    return figure


def _draw_strip(figure: Figure, top: float, strip: Strip) -> None:
    maps = strip.pictures.ndim == 3
    colour, weight = (_ACCENT, "bold") if strip.marked else ("black", "normal")
    frame, thickness = (_ACCENT, 1.6) if strip.marked else ("#bbbbbb", 0.5)
    _write(figure, _EDGE, top + _CELL / 2, strip.label, size=10, color=colour, weight=weight)
    _write(figure, _EDGE, top + _CELL / 2 + 0.17, strip.note, size=7.5, color=_GREY)
    for column, picture in enumerate(strip.pictures):
        axes = _place(figure, _LEFT + column * (_CELL + _GAP), top, _CELL, _CELL)
        shown = axes.imshow(
            picture if maps else np.moveaxis(picture, 0, -1),
            cmap=_COLOURS,
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=frame, linewidth=thickness)
    if maps:
        right = _LEFT + len(strip.pictures) * (_CELL + _GAP)
        scale = figure.colorbar(shown, cax=_place(figure, right, top, 0.08, _CELL), ticks=[0, 1])
        scale.outline.set_linewidth(0.5)
        scale.ax.tick_params(length=0, labelsize=7.5, pad=3)


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at so many inches from the left and from the top."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    across, down = figure.get_size_inches()
    # a class may be named $5: that is no formula
    figure.text(left / across, 1 - top / down, text, parse_math=False, **style)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def blank(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, drawn by nobody's window system."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes) -> None:
    """A pale grid behind what is drawn, and no frame but the two axes."""
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole, in the format that the name's extension says; StorageError if not."""
    check_format(path)
    suffix, content = path.suffix.lower(), io.BytesIO()
    figure.savefig(content, format=suffix[1:], dpi=200, metadata=_UNDATED[suffix])
    vault.write_whole(path, content.getvalue())
