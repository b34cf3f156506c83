"""A study's trials as Plotly figures, for the dashboard and the report alike.

A thousand trials are a thousand points of a few traces, never traces of their own, and no figure
carries Plotly's template, so the JSON stays small. Colours are told apart by colour-blind readers,
and symbols by those who print. Each figure of a study without any trial is an empty one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from igkd_search import paper, results
from igkd_search.results import Row

COMPLETE, PRUNED, FAILED = "#0f6fb5", "#b9770e", "#c0392b"
BEST, TEACHER, PAPER, MUTED = "#111827", "#5f6470", "#8e44ad", "#7c828d"
EMPTY = "#eef0f3"  # of a cell that counts nothing
"""The colours by role; the report's page turns them to lighter ones in the dark."""
LABELS = {
    "kd_weight": "KD weight",
    "overlay_probability": "overlay probability",
    "overlay_strength": "overlay strength",
    "learning_rate": "learning rate",
}
ACCURACY = "validation accuracy"
TOO_SLOW = "too slow"
_WHERE = "<br>%{xaxis.title.text}: %{x}<extra></extra>"
_CROWD = 200  # points, from which on they are drawn smaller

Point = tuple[Any, float]


def for_dashboard(
    summary: Mapping[str, Any], rows: Sequence[Row], question: Mapping[str, Any]
) -> dict[str, go.Figure]:
    """Three figures by a name that is both a title and a legal HTML id.

    `summary` is that of `results.summary`, `question` the stored one (plain JSON).
    """
    return {
        "Accuracy-against-latency": accuracy_against_latency(summary, rows),
        "Accuracy-against-KD-weight-and-overlay-probability": against_both(summary, rows, question),
        "Epochs-that-pruning-saved": epochs_saved(rows, question),
    }


def label(name: str) -> str:
    """A parameter's name as people write it."""
    return LABELS.get(name, name.replace("_", " "))


# --- the figures


def accuracy_against_latency(summary: Mapping[str, Any], rows: Sequence[Row]) -> go.Figure:
    """Complete trials, those which none beats in both, the winner, and the teacher."""
    within, over = complete([row for row in rows if _latency(row) is not None])
    teacher = _teacher_point(summary)
    shown = [row.accuracy for row in [*within, *over] if row.accuracy is not None]
    low, high = span([*shown, *([teacher[1]] if teacher else [])])
    figure = empty("latency of the student, ms", ACCURACY, (low, high))
    add_points(figure, over, _latency, low, TOO_SLOW, MUTED, "circle-open")
    add_points(figure, within, _latency, low, "complete", COMPLETE, "circle")
    front = undominated(within)
    figure.add_scatter(
        x=[_latency(row) for row in front],
        y=[_rounded(row.accuracy) for row in front],
        mode="lines",
        name="Pareto front",
        line={"color": COMPLETE, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    add_best(figure, summary, within, _latency)
    if teacher:
        _add_teacher(figure, teacher)
    figure.update_xaxes(rangemode="tozero")
    return figure


def against(
    summary: Mapping[str, Any], rows: Sequence[Row], question: Mapping[str, Any], name: str
) -> go.Figure:
    """Accuracy against one parameter of the space, with the paper's choice of it."""
    figure = empty(label(name), ACCURACY, (0, 1))
    _add_slice(figure, summary, rows, question, name, "")
    return figure


def against_both(
    summary: Mapping[str, Any], rows: Sequence[Row], question: Mapping[str, Any]
) -> go.Figure:
    """The same of KD weight and overlay probability, side by side."""
    figure = empty(label("kd_weight"), ACCURACY, (0, 1))
    right = {"title": {"text": label("overlay_probability")}, "anchor": "y2", "domain": [0.54, 1]}
    figure.update_layout(
        xaxis={"domain": [0, 0.46]},
        xaxis2=_axis() | right,
        yaxis2=_axis() | {"anchor": "x2", "tickformat": ".1%", "matches": "y"},
    )
    _add_slice(figure, summary, rows, question, "kd_weight", "")
    _add_slice(figure, summary, rows, question, "overlay_probability", "2", legend=False)
    return figure


def epochs_saved(rows: Sequence[Row], question: Mapping[str, Any]) -> go.Figure:
    """Epochs trained until each trial, beside those that it would have been without pruning."""
    numbers = [row.number for row in rows]
    planned = question["trial"]["epochs"]
    trained = list(accumulate(row.epochs for row in rows))
    whole = list(accumulate(results.epochs_without_pruning(row, planned) for row in rows))
    figure = empty("trial", "epochs in all", None)
    figure.add_scatter(
        x=numbers,
        y=trained,
        name="trained",
        mode="lines",
        line={"color": COMPLETE, "width": 2.5, "shape": "hv"},
        hovertemplate="up to trial %{x}: %{y:,} epochs<extra></extra>",
    )
    figure.add_scatter(
        x=numbers,
        y=whole,
        name="without pruning",
        mode="lines",
        line={"color": MUTED, "width": 2, "dash": "dash", "shape": "hv"},
        fill="tonexty",
        fillcolor="rgba(140,150,165,0.16)",
        hovertemplate="without pruning: %{y:,}<extra></extra>",
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


# --- what they are made of


def complete(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Complete trials that keep the bounds on latency, and those that do not."""
    found = _in(rows, "complete")
    return [row for row in found if row.feasible], [row for row in found if not row.feasible]


def undominated(rows: Iterable[Row]) -> list[Row]:
    """Those which no other beats in accuracy and latency both, the fastest first.

    Of a study of one objective too, which has no front of its own (`results.front`).
    """
    known = [
        (_latency(row), -row.accuracy, row.number, row)
        for row in rows
        if row.accuracy is not None and _latency(row) is not None
    ]
    front: list[Row] = []
    best = math.inf
    for _, loss, _, row in sorted(known, key=lambda each: each[:3]):
        if loss < best:
            front.append(row)
            best = loss
    return front


def span(shown: Sequence[float]) -> tuple[float, float]:
    """Where an axis of accuracies begins and ends: at most of them, not at the few worst.

    Of four digits, as `_rounded` keeps them: what stands on the edge must not fall off it.
    """
    if not shown:
        return 0.0, 1.0
    ordered = sorted(shown)
    low, high = ordered[len(ordered) // 8], ordered[-1]
    room = max(high - low, 0.01)
    bottom, top = min(low - 0.6 * room, high - 0.02), high + 0.25 * room
    return round(max(0.0, bottom), 4), round(min(1.02, top), 4)


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade of a logarithmic axis; of many decades the first alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    found = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [each for each in found if 0.9 * low <= each <= 1.1 * high]


def add_points(
    figure: go.Figure,
    rows: Iterable[Row],
    x: Callable[[Row], Any],
    low: float,
    name: str,
    colour: str,
    symbol: str,
    **more: Any,
) -> None:
    """Add trials as points; those below the axis stand on it, as triangles that point down."""
    placed = [(x(row), row) for row in rows if row.accuracy is not None]
    known = [(where, row) for where, row in placed if where is not None]
    inside = [each for each in known if (each[1].accuracy or 0) >= low]
    below = [each for each in known if (each[1].accuracy or 0) < low]
    size, opacity = (7, 0.8) if len(known) <= _CROWD else (5, 0.6)
    for part, form, said in ((inside, symbol, name), (below, "triangle-down", f"{name}, lower")):
        if not part:
            continue
        figure.add_scatter(
            x=[_rounded(where) for where, _ in part],
            y=[_rounded(max(row.accuracy or 0.0, low)) for _, row in part],
            customdata=[[row.number, _rounded(row.accuracy)] for _, row in part],
            mode="markers",
            name=said,
            cliponaxis=False,
            marker={"color": colour, "symbol": form, "size": size, "opacity": opacity}
            | ({"line": {"width": 1.6}} if form.endswith("-open") else {}),
            hovertemplate=f"trial %{{customdata[0]}}: %{{customdata[1]:.2%}}{_WHERE}",
            **more,
        )


def _add_slice(
    figure: go.Figure,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    question: Mapping[str, Any],
    name: str,
    axis: str,
    legend: bool = True,
) -> None:
    """Trials over one parameter, on the axes x<axis> and y<axis> of a figure."""
    on: dict[str, Any] = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "showlegend": legend}

    def value(row: Row) -> Any:
        return _plain(row.parameters.get(name))

    known = [row for row in rows if value(row) is not None]
    (within, over), pruned = complete(known), _in(known, "pruned")
    shown = [row.accuracy for row in [*within, *over] or pruned if row.accuracy is not None]
    low, high = span(shown)
    add_points(figure, pruned, value, low, "pruned", PRUNED, "x-thin-open", **on)
    add_points(figure, over, value, low, TOO_SLOW, MUTED, "circle-open", **on)
    add_points(figure, within, value, low, "complete", COMPLETE, "circle", **on)
    add_best(figure, summary, known, value, **on)
    theirs = paper.CHOICE.get(name)
    if theirs is not None and known:
        figure.add_scatter(
            x=[theirs, theirs],
            y=[low, high],
            mode="lines",
            name="the paper's choice",
            line={"color": PAPER, "width": 2, "dash": "dot"},
            hovertemplate=f"the paper's choice: {theirs:g}<extra></extra>",
            **on,
        )
    span_of = (question["search"].get("space") or {}).get(name) or {}
    kind: dict[str, Any] = {}
    if span_of.get("log"):
        kind = {"type": "log", "tickvals": ticks(span_of["low"], span_of["high"])}
    if any(isinstance(value(row), str) for row in known):
        kind = {"type": "category"}
    figure.update_layout(
        {f"xaxis{axis}": kind, f"yaxis{axis}": {"range": [low, high], "tickformat": ".1%"}}
    )
    if not known:
        _note(figure, f"{label(name)} is not searched, or no trial has shown anything yet", axis)


def add_best(
    figure: go.Figure,
    summary: Mapping[str, Any],
    rows: Iterable[Row],
    x: Callable[[Row], Any],
    **more: Any,
) -> None:
    """Add the winner as a star, where it is among these trials."""
    best = summary.get("best")
    winner = [row for row in rows if best is not None and row.number == best["number"]]
    for row in winner:
        figure.add_scatter(
            x=[_rounded(x(row))],
            y=[_rounded(row.accuracy)],
            mode="markers",
            name=f"best (trial {row.number})",
            cliponaxis=False,
            marker={
                "color": BEST,
                "symbol": "star",
                "size": 14,
                "line": {"color": "#ffffff", "width": 1},
            },
            hovertemplate=f"best, trial {row.number}: %{{y:.2%}}{_WHERE}",
            **more,
        )


def add_level(figure: go.Figure, accuracy: float, name: str, over: tuple[int, int]) -> None:
    """Add an accuracy as a dashed line from one x to another."""
    figure.add_scatter(
        x=list(over),
        y=[_rounded(accuracy)] * 2,
        mode="lines",
        name=name,
        line={"color": TEACHER, "width": 1.5, "dash": "dash"},
        hovertemplate=f"{name}: %{{y:.2%}}<extra></extra>",
    )


def _add_teacher(figure: go.Figure, point: Point) -> None:
    figure.add_scatter(
        x=[_rounded(point[0])],
        y=[_rounded(point[1])],
        mode="markers",
        name="teacher",
        cliponaxis=False,
        marker={"color": TEACHER, "symbol": "diamond", "size": 13},
        hovertemplate="teacher: %{y:.2%}<br>in %{x} ms<extra></extra>",
    )


def _teacher_point(summary: Mapping[str, Any]) -> Point | None:
    teacher = summary["teacher"]
    timed = teacher["latency"].get("onnxruntime")
    known = timed is not None and teacher["accuracy"] is not None
    return (timed["median_ms"], teacher["accuracy"]) if known else None


def _in(rows: Iterable[Row], state: str) -> list[Row]:
    return [row for row in rows if row.state == state]


def _latency(row: Row) -> Any:
    return row.attributes.get("latency_ms")


def _plain(value: Any) -> Any:
    """A value as an axis can show it; None of a choice is one more word."""
    if isinstance(value, str):
        return escaped(value)
    return value if isinstance(value, int | float | None) and value is not True else str(value)


def escaped(text: str) -> str:
    """A text that Plotly, which knows some HTML, shall not take for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _rounded(value: Any) -> Any:
    """Five significant digits: more cannot be seen, and every point is written in JSON."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


# --- how they look


def _axis() -> dict[str, Any]:
    line = {"gridcolor": "rgba(128,134,145,0.22)", "linecolor": "rgba(128,134,145,0.6)"}
    return {**line, "zeroline": False, "showline": True, "ticks": "outside", "automargin": True}


def empty(x: str, y: str, accuracies: tuple[float, float] | None) -> go.Figure:
    """An empty figure with these axes; of a share of 1 with its range."""
    shares = {} if accuracies is None else {"range": list(accuracies), "tickformat": ".1%"}
    figure = go.Figure()
    figure.update_layout(
        template=None,
        margin={"l": 56, "r": 16, "t": 36, "b": 48},
        xaxis=_axis() | {"title": {"text": x, "standoff": 8}},
        yaxis=_axis() | {"title": {"text": y, "standoff": 12}} | shares,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hovermode="closest",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _note(figure: go.Figure, text: str, axis: str = "") -> None:
    """Say in the middle of an empty figure why it is empty."""
    figure.add_annotation(
        text=text,
        x=0.5,
        y=0.5,
        xref=f"x{axis} domain",
        yref=f"y{axis} domain",
        showarrow=False,
        font={"color": TEACHER},
    )
