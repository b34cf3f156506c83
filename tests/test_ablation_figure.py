"""The picture shows every seed, each tested difference, and fills what is shown."""

import numpy as np
from matplotlib.lines import Line2D

from igkd_search import ablation, ablation_figure
from tests.test_ablation import FOUND, summary


def lines(panel: int, marker: str) -> list[Line2D]:
    axes = ablation_figure.draw(summary()).axes[panel]
    return [line for line in axes.get_lines() if line.get_marker() == marker]


def test_every_seed_is_a_ring() -> None:
    shown = [np.asarray(line.get_xdata()).tolist() for line in lines(0, "o")]
    assert shown == [sorted(100 * value for value in values) for values in FOUND.values()]


def test_equal_seeds_stand_on_each_other_and_no_axis_goes_beyond_all_right() -> None:
    found = summary({"baseline": [0.98, 1.0, 1.0, 0.96]})
    left = ablation_figure.draw(found).axes[0]
    rings = next(line for line in left.get_lines() if line.get_marker() == "o")
    places = zip(np.asarray(rings.get_xdata()), np.asarray(rings.get_ydata()), strict=True)
    assert len(set(places)) == 4
    assert left.get_xlim()[1] < 100.5


def test_the_arms_stand_from_top_to_bottom_as_they_were_given() -> None:
    left = ablation_figure.draw(summary()).axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == list(FOUND)
    assert left.yaxis_inverted()


def test_a_difference_is_filled_where_it_is_shown() -> None:
    filled = [line.get_markerfacecolor() != "white" for line in lines(1, "D")]
    shown = [one["p_holm"] <= 0.05 for one in summary()["differences"]]
    assert filled == shown and True in shown and False in shown


def test_what_has_no_interval_is_drawn_without() -> None:
    found = ablation.summarise({"baseline": [0.9], "kd": [0.95]}, images=100, tuned=None)
    figure = ablation_figure.draw(found)
    assert not [line for line in figure.axes[1].get_lines() if line.get_marker() == "None"][1:]
