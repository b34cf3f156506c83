"""The picture of deletion and insertion: the mean curve in each order of pixels."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from igkd_search import figures

_ORDERS = {
    "student": ("its own map", "#0072b2", "-"),
    "teacher": ("the teacher's map", "#d55e00", "--"),
    "random": ("random order", "#767676", ":"),
}
_PANELS = {
    "deletion": ("Deletion: lower is better", "pixels replaced, in the order of a map"),
    "insertion": ("Insertion: higher is better", "pixels shown, in the order of a map"),
}


def draw(found: Mapping[str, Any]) -> Figure:
    """Both panels; `found` is what faithfulness.measure returns."""
    figure = figures.blank(8.4, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, (title, label)) in zip(panels, _PANELS.items(), strict=True):
        for order, (says, colour, dashes) in _ORDERS.items():
            curve = found[name][order]
            legend = f"{says}: area {curve['area']['mean']:.3f}"
            axes.plot(found["fractions"], curve["mean"], dashes, color=colour, lw=1.8, label=legend)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(label, fontsize=9)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(labelsize=8)
        figures.dress(axes)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("the student's probability of the label", fontsize=9)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(
        f"The student's answers as pixels go or come ({found['images']:,} images)", fontsize=10
    )
    return figure
