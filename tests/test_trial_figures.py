"""Each kind of kept document becomes a PNG that says whose it is; odd ones too."""

import io
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from igkd_search import artifacts, documents, outcomes, pictures, spec, training, trial_figures
from tests.test_worker import record


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(each.get_text() for each in figure.findobj(Text) if isinstance(each, Text))


def curves(epochs: int) -> Any:
    return documents.load(outcomes.curves([record(i + 1, 0.5) for i in range(epochs)]))


def test_every_kind_that_is_kept_can_be_drawn() -> None:
    assert tuple(trial_figures.FIGURES) == artifacts.KINDS


@pytest.mark.parametrize("epochs", [1, 40])
def test_learning_curves(epochs: int) -> None:
    with Image.open(io.BytesIO(trial_figures.draw("learning_curves", 7, curves(epochs)))) as image:
        assert image.format == "PNG" and image.width > image.height
    figure = trial_figures.learning_curves(7, curves(epochs), ())
    assert "Trial 7" in texts(figure) and "accuracy 50.0%" in texts(figure)
    assert "without averaging" in texts(figure), "raw weights differ here"


def matrix(classes: int) -> Any:
    counts = [[3 if row == column else 0 for column in range(classes)] for row in range(classes)]
    counts[0][0], counts[0][1] = 1, 2
    return {"confusion": counts, "class_accuracy": [1.0] * classes}


def test_a_small_matrix_names_classes_and_counts() -> None:
    names = ("a $5 note", "x" * 40)
    found = texts(trial_figures.confusion_matrix(2, matrix(2), names))
    assert "Trial 2: 66.7% of 6 validation images" in found
    assert "a $5 note" in found and "x" * 11 + "…" in found
    assert "\n2\n" in found and "answered" in found


def test_a_large_matrix_shows_shares_alone_and_classes_may_be_empty() -> None:
    document = matrix(30)
    document["confusion"][5] = [0] * 30
    found = texts(trial_figures.confusion_matrix(2, document, [str(i) for i in range(30)]))
    assert "\n3\n" not in found


def test_the_overlays_say_what_the_maps_are(study: spec.Study, stock: training.Stock) -> None:
    document = documents.load(pictures.seen(study.trial, stock, 3, "shuffled"))
    figure = trial_figures.overlays(4, document, ("ant", "bee", "cat"))
    found = texts(figure)
    assert (
        "Trial 4" in found and "control: shuffled" in found and "overlay probability 0.5" in found
    )
    assert any(name in found for name in ("ant", "bee", "cat"))
    assert len(figure.axes) == 3 * pictures.COLUMNS + 1, "and the scale of the maps"
