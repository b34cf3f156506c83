"""The charts of every kind of study: legal ids, few traces, nothing left out without a word."""

import re

import pytest

from igkd_search import report_charts
from tests import reports


@pytest.mark.parametrize("kind", reports.KINDS)
def test_a_study_has_the_charts_that_it_can_have(kind: str) -> None:
    found = reports.made(kind)
    drawn = report_charts.draw(found.content, found.rows)
    wanted = {
        "empty": set(),
        "running": {"history", "slice-kd_weight", "slice-overlay_strength", "curves", "saved"},
        "failed": {"history", "slice-kd_weight", "slice-overlay_strength", "curves", "saved"},
        "mixed": {"history", "front", "importances", "slice-kd_weight", "slice-overlay_strength"}
        | {"curves", "compression", "saved"},
        "over": {
            "history",
            "front",
            "slice-kd_weight",
            "slice-overlay_strength",
            "curves",
            "saved",
        },
        "pareto": {"history", "front", "slice-kd_weight", "slice-overlay_strength"}
        | {"compression", "saved"},
    }
    assert set(drawn) == wanted[kind]
    for name, figure in drawn.items():
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._:-]*", name)
        assert len(figure.data) < 12
        assert len(figure.to_json()) < 20_000


def test_the_best_so_far_only_rises_and_reaches_the_last_trial() -> None:
    found = reports.made("mixed")
    figure = report_charts.history(found.content["summary"], found.rows)
    (line,) = [trace for trace in figure.data if trace.name == "best so far"]
    assert list(line.y) == sorted(line.y)
    assert line.x[-1] == found.rows[-1].number
    assert line.y[-1] == found.content["answer"]["accuracy"]


def test_curves_are_apart_and_pruned_ones_end_in_a_cross() -> None:
    content = reports.made("mixed").content
    figure = report_charts.curves(content["curves"], content["summary"]["best"])
    by_name = {trace.name: trace for trace in figure.data}
    assert len(by_name["where it was pruned"].x) == 2
    assert list(by_name["pruned"].x).count(None) == 2
    best = content["answer"]["trial"]
    assert by_name[f"best (trial {best})"].y[2] == content["answer"]["accuracy"]


def test_a_curve_of_a_trial_that_failed_or_runs_is_not_called_complete() -> None:
    one = {"epochs": [1, 2], "accuracy": [0.1, 0.2]}
    states = ["complete", "failed", "running", "retried"]
    listed = [{"trial": place, "state": state, **one} for place, state in enumerate(states)]
    figure = report_charts.curves({"trials": listed}, None)
    numbers = {trace.name: list(trace.customdata[::3]) for trace in figure.data}
    assert numbers == {"complete": [0], "failed or running": [1, 2, 3]}


def test_a_matrix_of_answers_is_drawn_unless_its_cells_cannot_be_seen() -> None:
    found = reports.made("mixed")
    for classes, shown in ((2, True), (report_charts.MOST_CLASSES + 1, False)):
        student = {
            **found.content["summary"]["student"],
            "confusion": [[1] * classes for _ in range(classes)],
            "class_accuracy": {str(number): 1 / classes for number in range(classes)},
        }
        content = {**found.content, "summary": {**found.content["summary"], "student": student}}
        assert ("confusion" in report_charts.draw(content, found.rows)) is shown
    figure = report_charts.confusion(
        {"confusion": [[3, 1], [0, 0]], "class_accuracy": {"cat": 0.75, "<b>&": None}}
    )
    assert [list(row) for row in figure.data[0].z] == [[0.75, 0.25], [0.0, 0.0]]
    assert list(figure.layout.xaxis.ticktext) == ["cat", "&lt;b>&amp;"]


def test_the_sizes_of_the_paper_are_marked_and_only_what_it_measured_has_an_accuracy() -> None:
    figure = report_charts.compression(reports.made("mixed").content)
    by_name = {trace.name: trace for trace in figure.data}
    assert len(by_name["the paper's eight sizes"].x) == 8
    assert set(by_name["paper, CIFAR-10 test"].x) == {4.12}
    assert list(by_name["this study, validation"].x) == [4.0]
