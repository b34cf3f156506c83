"""The picture of an ablation: seeds and mean of each arm, and its difference to the reference.

Two panels, since the overlap of two means' intervals is no test: the right one is what was tested.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igkd_search import ablation_text, amounts, figures

_BLUE, _GREY, _DARK = "#0072b2", "#8c8c8c", "#404040"  # controls are grey
_ROW, _REST = 0.36, 1.55  # inches: an arm, all else


def draw(found: Mapping[str, Any]) -> Figure:
    """A row an arm, in the order they were given; `found` is what ablation.summarise returns."""
    names = list(found["arms"])
    figure = figures.blank(8.4, _REST + _ROW * len(names))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1])
    for place, name in enumerate(names):
        _draw_arm(left, place, found["arms"][name], _colour(name))
    _draw_differences(right, found)
    _dress(left, right, found)
    return figure


def _colour(arm: str) -> str:
    return _GREY if ":" in arm else _BLUE


def _draw_arm(axes: Axes, place: int, arm: Mapping[str, Any], colour: str) -> None:
    """Seeds as rings above the line of the mean and its interval; equal ones on each other."""
    seeds = sorted(100 * value for value in arm["accuracies"])
    heights = [place - 0.17 - 0.1 * seeds[:index].count(x) for index, x in enumerate(seeds)]
    axes.plot(seeds, heights, "o", ms=5, mfc="none", mec=colour, mew=1.1, alpha=0.9)
    _draw_interval(axes, place + 0.13, arm, colour)
    axes.plot(100 * arm["mean"], place + 0.13, "D", ms=6, color=colour)


def _draw_interval(axes: Axes, height: float, one: Mapping[str, Any], colour: str) -> None:
    """A bar from `low` to `high`, no longer than that; none where they are not known."""
    if one["low"] is not None:
        ends = [100 * one[end] for end in ("low", "high")]
        axes.plot(ends, [height] * 2, "-", color=colour, lw=2, solid_capstyle="butt")


def _draw_differences(axes: Axes, found: Mapping[str, Any]) -> None:
    """Each arm's difference with the interval of Welch's test; filled where it is shown."""
    places = {name: place for place, name in enumerate(found["arms"])}
    for one in found["differences"]:
        place, colour = places[one["arm"]], _colour(one["arm"])
        _draw_interval(axes, place, one, colour)
        fill = colour if ablation_text.is_shown(one, found) else "white"
        axes.plot(100 * one["difference"], place, "D", ms=7, mfc=fill, mec=colour, mew=1.5)
        if one["p_holm"] is not None:
            axes.annotate(
                ablation_text.says_p(one["p_holm"]),
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_DARK,
            )


def _dress(left: Axes, right: Axes, found: Mapping[str, Any]) -> None:
    reference, names = found["reference"], list(found["arms"])
    left.set_yticks(range(len(names)), names, fontsize=9)
    left.invert_yaxis()
    left.axvline(100 * found["arms"][reference]["mean"], color=_DARK, lw=1, ls="--", zorder=1)
    right.axvline(0, color=_DARK, lw=1, ls="--", zorder=1)
    left.set_xlabel("test accuracy, %", fontsize=9)
    right.set_xlabel(f"points above {reference}", fontsize=9)
    ns = sorted({arm["n"] for arm in found["arms"].values()})
    seeds = f"{ns[0]} to {ns[-1]} seeds" if len(ns) > 1 else amounts.several(ns[0], "seed")
    left.set_title(f"rings: {seeds}; bars: 95% interval of the mean", fontsize=9, loc="left")
    right.set_title("95% interval, Holm's p; filled: shown", fontsize=9, loc="left")
    low, high = left.get_xlim()
    left.set_xlim(low, min(high, 100 + 0.02 * (high - low)))  # nothing is more than all right
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
