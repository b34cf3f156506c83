"""Both panels hold the mean curve of each order, as it was measured."""

import numpy as np

from igkd_search import faithfulness_figure
from tests.test_faithfulness import linear, measure, weights


def test_each_order_is_a_curve_with_its_area() -> None:
    found = measure(linear(weights(0)), linear(weights(1)))
    panels = faithfulness_figure.draw(found).axes
    for axes, name in zip(panels, ("deletion", "insertion"), strict=True):
        shown = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}
        for order, (says, *_) in faithfulness_figure._ORDERS.items():
            curve = found[name][order]
            label = f"{says}: area {curve['area']['mean']:.3f}"
            assert shown[label].tolist() == curve["mean"]
