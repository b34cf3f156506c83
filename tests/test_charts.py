"""What charts show of trials, in how little JSON, and that they bear a study that lacks a lot."""

import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest

from igkd_search import charts
from igkd_search.results import Row
from tests import trials


def drawn(rows: list[Row], question: dict[str, Any] | None = None) -> dict[str, go.Figure]:
    return charts.for_dashboard(trials.summary(rows), rows, question or trials.QUESTION)


def named(figure: go.Figure, name: str) -> Any:
    """The trace of this name."""
    (found,) = [trace for trace in figure.data if trace.name == name]
    return found


def test_names_are_titles_and_legal_ids() -> None:
    for name, figure in drawn(trials.many(5)).items():
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._:-]*", name)
        assert isinstance(figure, go.Figure)


def test_a_thousand_trials_are_few_traces_and_little_json() -> None:
    for name, figure in drawn(trials.many(1000)).items():
        assert len(figure.data) < 20
        assert len(figure.to_json()) < 150_000, name


def test_no_figure_carries_a_template() -> None:
    for figure in drawn([]).values():
        assert len(figure.to_json()) < 2_000
        assert json.loads(figure.to_json())["layout"]["template"] == {}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [trials.row(0, None, "running")],
        [trials.row(0, None, "failed", parameters={}, attributes={})],
        [trials.row(0, 0.5, attributes={}, parameters={"architecture": "resnet18"})],
        [trials.row(0, 0.5, parameters={"kd_weight": None, "ema_decay": True})],
    ],
)
def test_whatever_a_study_lacks_its_charts_are_drawn(rows: list[Row]) -> None:
    for figure in drawn(rows).values():
        json.loads(figure.to_json())


def test_a_study_without_figures_of_its_teacher_is_drawn_without() -> None:
    summary = trials.summary([]) | {"teacher": {"accuracy": None, "latency": {}}}
    figures = charts.for_dashboard(summary, [], {"trial": {"epochs": 3}, "search": {}})
    assert all(trace.name != "teacher" for figure in figures.values() for trace in figure.data)


def test_trials_stand_where_their_latency_and_accuracy_are() -> None:
    rows = [
        trials.row(number, accuracy, attributes={"latency_ms": ms})
        for number, (accuracy, ms) in enumerate([(0.9, 3.0), (0.8, 1.0), (0.7, 2.0), (0.89, 2.5)])
    ]
    figure = charts.accuracy_against_latency(trials.summary(rows), rows)
    assert list(named(figure, "complete").x) == [3.0, 1.0, 2.0, 2.5]
    assert list(named(figure, "Pareto front").y) == [0.8, 0.89, 0.9]
    assert (named(figure, "best (trial 0)").x[0], named(figure, "teacher").x[0]) == (3.0, 4.0)


def test_no_trial_is_left_out_for_being_bad() -> None:
    rows = [trials.row(number, 0.9 + number / 1001) for number in range(9)]
    rows.append(trials.row(9, 0.1, "pruned"))
    figure = charts.against(trials.summary(rows), rows, trials.QUESTION, "kd_weight")
    lower = named(figure, "pruned, lower")
    assert list(lower.customdata[0]) == [9, 0.1]
    # not a digit below, or Plotly leaves it out
    assert lower.y[0] == figure.layout.yaxis.range[0]


def test_the_choice_of_the_paper_is_marked_where_it_made_one() -> None:
    rows = trials.many(6)
    for name, value in {"kd_weight": 0.01, "temperature": 2.5, "overlay_probability": 0.1}.items():
        figure = charts.against(trials.summary(rows), rows, trials.QUESTION, name)
        assert list(named(figure, "the paper's choice").x) == [value, value]
    figure = charts.against(trials.summary(rows), rows, trials.QUESTION, "learning_rate")
    assert "the paper's choice" not in [trace.name for trace in figure.data]
    assert figure.layout.xaxis.type == "log"


def test_choices_are_words_on_an_axis() -> None:
    rows = [
        trials.row(number, 0.9, parameters={"control": value})
        for number, value in enumerate(["none", "<i>&"])
    ]
    figure = charts.against(trials.summary(rows), rows, trials.QUESTION, "control")
    assert figure.layout.xaxis.type == "category"
    assert list(named(figure, "complete").x) == ["none", "&lt;i>&amp;"]


def test_epochs_saved_are_those_of_the_summary() -> None:
    rows = trials.many(30)
    figure = charts.epochs_saved(rows, trials.QUESTION)
    assert named(figure, "trained").y[-1] == sum(row.epochs for row in rows)
    assert named(figure, "without pruning").y[-1] == 30 * trials.EPOCHS


def test_pruning_saved_nothing_of_trials_that_failed_or_run() -> None:
    rows = [trials.row(number, 0.9, epochs=3) for number in range(3)]
    rows += [
        trials.row(3 + place, 0.1, state, epochs=epochs)
        for place, (state, epochs) in enumerate(
            [("pruned", 1), ("failed", 2), ("running", 1), ("waiting", 0), ("discarded", 0)]
        )
    ]
    figure = charts.epochs_saved(rows, {"trial": {"epochs": 3}})
    assert named(figure, "without pruning").y[-1] - named(figure, "trained").y[-1] == 2


def test_trials_over_the_budget_are_apart_and_on_no_front() -> None:
    attributes = [{"latency_ms": ms} for ms in (1.0, 2.0)]
    rows = [
        trials.row(0, 0.8, attributes=attributes[0]),
        trials.row(1, 0.9, attributes=attributes[1], feasible=False),
    ]
    figure = charts.accuracy_against_latency(trials.summary(rows[:1]), rows)
    assert list(named(figure, "Pareto front").x) == list(named(figure, "complete").x) == [1.0]
    assert list(named(figure, "too slow").x) == [2.0]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_an_axis_holds_the_best_and_most_of_the_others(count: int) -> None:
    shown = [0.1 + 0.8 * index / count for index in range(count)]
    low, high = charts.span(shown)
    assert 0 <= low < max(shown) < high
    assert sum(low <= each <= high for each in shown) >= 0.8 * count
