"""The pictures of one trial, drawn from what was kept of it (`outcomes`, `pictures`)."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from igkd_search import figures

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#767676"  # told apart by all eyes
_COUNTED = 20  # classes up to which each count and name can be read
_NAME = 12  # letters of a class
_MAPS = {"none": "Integrated Gradients", "dim": "not used: darkening"}


def draw(kind: str, number: int, document: Any, class_names: Sequence[str] = ()) -> bytes:
    """The PNG of a document of this kind, kept of the trial of this number."""
    return figures.png(FIGURES[kind](number, document, class_names))


def learning_curves(number: int, document: Mapping[str, Any], _names: Sequence[str]) -> Figure:
    """Accuracy and losses by epoch; the weights as they are beside the averaged, where they differ.

    `document` holds a list a figure, as outcomes.curves writes it.
    """
    figure = figures.blank(7.2, 3.0)
    epochs, averaged = document["epoch"], document["raw_accuracy"] != document["accuracy"]
    left, right = figure.subplots(1, 2)
    _curve(left, epochs, document["accuracy"], "validation", _BLUE, "o")
    if averaged:
        _curve(left, epochs, document["raw_accuracy"], "without averaging", _GREY, "x")
        left.legend(frameon=False, fontsize=8)
    left.set_title(f"accuracy {document['accuracy'][-1]:.1%}", fontsize=10, loc="left")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    _curve(right, epochs, document["loss"], "training, of what is learnt", _ORANGE, "s")
    _curve(right, epochs, document["validation_loss"], "validation, cross entropy", _BLUE, "o")
    right.legend(frameon=False, fontsize=8)
    right.set_title("loss", fontsize=10, loc="left")
    figure.suptitle(f"Trial {number}: learning curves", fontsize=11, weight="bold")
    return figure


def _curve(
    axes: Axes, epochs: list[int], values: list[float], label: str, colour: str, marker: str
) -> None:
    few = len(epochs) <= 30
    axes.plot(epochs, values, label=label, color=colour, marker=marker if few else "", ms=4, lw=1.6)
    axes.set_xlabel("epochs completed", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    figures.dress(axes)


def confusion_matrix(number: int, document: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """How images of each class are answered, in shares of that class.

    `document` holds counts, a row for each true class, as outcomes.matrix writes it.
    """
    counts: NDArray[np.int64] = np.array(document["confusion"])
    classes, totals = len(counts), counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = min(max(3.6, 1.4 + 0.42 * classes), 7.5)
    figure = figures.blank(side, side)
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    scale = figure.colorbar(shown, ax=axes, shrink=0.7, format=PercentFormatter(1.0, decimals=0))
    scale.ax.tick_params(labelsize=8)
    accuracy = counts.trace() / max(counts.sum(), 1)
    title = f"Trial {number}: {accuracy:.1%} of {counts.sum():,} validation images"
    axes.set_title(title, fontsize=10, weight="bold")
    axes.set_xlabel("answered", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    if classes <= _COUNTED:
        _name_classes(axes, names if len(names) == classes else [str(i) for i in range(classes)])
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                place: Any = {"ha": "center", "va": "center", "fontsize": 7.5, "color": colour}
                axes.text(column, row, f"{count}", **place)
    return figure


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    shown = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names]
    long = max(map(len, shown)) > 3
    places = range(len(names))
    axes.set_xticks(places, shown, fontsize=8, rotation=90 if long else 0, parse_math=False)
    axes.set_yticks(places, shown, fontsize=8, parse_math=False)


def overlays(number: int, document: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """What the student saw in its first step, below the views and their maps.

    `document` is what pictures.seen writes.
    """
    labels, overlaid = document["labels"], document["overlaid"]
    rows = {name: unpacked(text, len(labels)) for name, text in document["rows"].items()}
    columns = [
        (names[label] if label < len(names) else str(label), "overlaid" if laid else "as it is")
        for label, laid in zip(labels, overlaid, strict=True)
    ]
    control = document["control"]
    strips = [
        figures.Strip("view", rows["view"], "as augmentation drew it"),
        figures.Strip("map", rows["map"][:, 0], _MAPS.get(control, f"control: {control}")),
        figures.Strip("seen", rows["seen"], "by the student", marked=True),
    ]
    cutout = f" · cutout {document['cutout']}" if document["cutout"] else ""
    sides = f" · at {document['resolution']} pixels" if document.get("resolution") else ""
    return figures.draw_gallery(
        f"Trial {number}: what its student saw, in the first step",
        f"overlay probability {document['probability']:.3g} · strength {document['strength']:.3g} "
        f"· exponent up to {document['exponent_max']:.3g}{cutout}{sides}",
        columns,
        strips,
    )


def unpacked(text: str, count: int) -> NDArray[np.float32]:
    """Images (B, C, H, W) in [0, 1] that lie side by side in a PNG."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        strip = np.asarray(image, dtype=np.float32) / 255
    strip = strip[..., None] if strip.ndim == 2 else strip
    images: NDArray[np.float32] = np.stack(np.split(strip, count, axis=1))
    return np.moveaxis(images, -1, 1)


FIGURES: dict[str, Callable[[int, Any, Sequence[str]], Figure]] = {
    "learning_curves": learning_curves,
    "confusion_matrix": confusion_matrix,
    "overlays": overlays,
}
"""Kind (artifacts.KINDS) -> its figure."""
