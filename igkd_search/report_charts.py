"""The charts of a report, drawn from its dict and its rows: those of `charts`, and others.

Each has a name that is its id in the page.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from igkd_search import charts
from igkd_search.importances import METHODS
from igkd_search.results import Row

_CROWD = 40  # curves, from which on they are drawn fainter
MOST_CLASSES = 100
"""Of more no single cell can be seen."""
_CLASSES_WITH_COUNTS = 20


def draw(
    content: Mapping[str, Any], rows: Sequence[Row], curves_of_best: Mapping[str, Any] | None = None
) -> dict[str, go.Figure]:
    """Figures by id, in the order of the page; only those that have something to show.

    `curves_of_best` is what the winner has kept of its epochs (`outcomes.curves`).
    """
    summary, question = content["summary"], content["provenance"]["question"]
    drawn: dict[str, go.Figure] = {}
    if any(row.accuracy is not None for row in rows):
        drawn["history"] = history(summary, rows)
    if any(row.state == "complete" and row.attributes.get("latency_ms") for row in rows):
        drawn["front"] = charts.accuracy_against_latency(summary, rows)
    if any(found["values"] for found in content["importances"].values()):
        drawn["importances"] = importances(content["importances"])
    for name in searched(rows):
        drawn[f"slice-{name}"] = charts.against(summary, rows, question, name)
        # the same signs in all of them: the page says once what they mean
        drawn[f"slice-{name}"].update_layout(showlegend=False, margin={"t": 12})
        drawn[f"slice-{name}"].update_yaxes(title=None)
    if content["curves"]["trials"]:
        drawn["curves"] = curves(content["curves"], summary["best"])
    if curves_of_best:
        drawn["losses"] = losses(curves_of_best)
    matrix = (summary["student"] or {}).get("confusion")
    if matrix and len(matrix) <= MOST_CLASSES:
        drawn["confusion"] = confusion(summary["student"])
    if content["students"]:
        drawn["compression"] = compression(content)
    if rows:
        drawn["saved"] = charts.epochs_saved(rows, question)
    return drawn


def searched(rows: Sequence[Row]) -> list[str]:
    """The parameters of trials that have shown an accuracy, in the order of the first of them."""
    names: dict[str, None] = {}
    for row in rows:
        if row.accuracy is not None:
            names |= dict.fromkeys(row.parameters)
    return list(names)


def history(summary: Mapping[str, Any], rows: Sequence[Row]) -> go.Figure:
    """Accuracy by trial number, and the best so far."""
    known = [row for row in rows if row.accuracy is not None]
    complete, over = charts.complete(known)
    pruned = [row for row in rows if row.state == "pruned"]
    running = [row for row in rows if row.state == "running"]
    shown = [row.accuracy or 0.0 for row in [*complete, *over] or pruned or running]
    teacher = summary["teacher"]["accuracy"]
    low, high = charts.span([*shown, *([teacher] if teacher else [])])
    figure = charts.empty("trial", charts.ACCURACY, (low, high))
    best = list(accumulate((row.accuracy or 0.0 for row in complete), max))
    until = [rows[-1].number] if best else []
    figure.add_scatter(
        x=[row.number for row in complete] + until,
        y=best + best[-1:],
        mode="lines",
        name="best so far",
        line={"color": charts.COMPLETE, "width": 2, "shape": "hv"},
        hovertemplate="best up to trial %{x}: %{y:.2%}<extra></extra>",
    )
    if teacher is not None and rows:
        charts.add_level(figure, teacher, "teacher", (rows[0].number, rows[-1].number))
    for part, name, colour, symbol in (
        (pruned, "pruned", charts.PRUNED, "x-thin-open"),
        (running, "running", charts.MUTED, "circle-open"),
        (over, charts.TOO_SLOW, charts.MUTED, "circle-open"),
        (complete, "complete", charts.COMPLETE, "circle"),
    ):
        charts.add_points(figure, part, lambda row: row.number, low, name, colour, symbol)
    charts.add_best(figure, summary, complete, lambda row: row.number)
    return figure


def importances(found: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """A bar for each parameter and method."""
    figure = charts.empty("share of what is explained", "", None)
    names = next(found[method]["values"] for method in METHODS if found[method]["values"])
    for (method, title), colour, pattern in zip(
        METHODS.items(), (charts.COMPLETE, charts.PRUNED), ("", "/"), strict=True
    ):
        values = found[method]["values"]
        if values:
            ordered = [name for name in reversed(names) if name in values]
            figure.add_bar(
                x=[round(values[name], 4) for name in ordered],
                y=[charts.label(name) for name in ordered],
                orientation="h",
                name=title,
                marker={"color": colour, "pattern": {"shape": pattern, "size": 5}},
                hovertemplate=f"{title}: %{{x:.1%}} for %{{y}}<extra></extra>",
            )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(showgrid=False, ticks="")
    return figure


def curves(found: Mapping[str, Any], best: Mapping[str, Any] | None) -> go.Figure:
    """Accuracy by epoch; a trace for all pruned trials, one for the others, and the winner's."""
    figure = charts.empty("epoch", charts.ACCURACY, None)
    winner = None if best is None else best["number"]
    others = [each for each in found["trials"] if each["trial"] != winner]
    pruned = [each for each in others if each["state"] == "pruned"]
    rest = [each for each in others if each["state"] == "complete"]
    unfinished = [each for each in others if each["state"] not in ("pruned", "complete")]
    own = [each for each in found["trials"] if each["trial"] == winner]
    for part, name, colour, width, dash in (
        (pruned, "pruned", charts.PRUNED, 1.1, "dot"),
        (unfinished, "failed or running", charts.MUTED, 1.1, "dashdot"),
        (rest, "complete", charts.COMPLETE, 1.1, "solid"),
        (own, f"best (trial {winner})", charts.BEST, 3, "solid"),
    ):
        if part:
            _add_curves(figure, part, name, colour, width, dash)
    ends = [(each["epochs"][-1], each["accuracy"][-1], each["trial"]) for each in pruned]
    if ends:
        figure.add_scatter(
            x=[end[0] for end in ends],
            y=[_short(end[1]) for end in ends],
            customdata=[end[2] for end in ends],
            mode="markers",
            name="where it was pruned",
            marker={"color": charts.PRUNED, "symbol": "x-thin-open", "size": 7},
            hovertemplate="trial %{customdata} pruned at epoch %{x}: %{y:.2%}<extra></extra>",
        )
    figure.update_yaxes(tickformat=".0%")
    return figure


def _add_curves(
    figure: go.Figure,
    part: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
    width: float,
    dash: str,
) -> None:
    """All of them as one trace, with a gap between each two."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    numbers: list[int | None] = []
    for each in part:
        xs += [*each["epochs"], None]
        ys += [*map(_short, each["accuracy"]), None]
        numbers += [each["trial"]] * len(each["epochs"]) + [None]
    figure.add_scatter(
        x=xs,
        y=ys,
        customdata=numbers,
        mode="lines",
        name=name,
        opacity=1 if width > 2 else 0.7 if len(part) < _CROWD else 0.4,
        line={"color": colour, "width": width, "dash": dash},
        hovertemplate="trial %{customdata}, epoch %{x}: %{y:.2%}<extra></extra>",
    )


def losses(kept: Mapping[str, Any]) -> go.Figure:
    """The winner's losses by epoch."""
    figure = charts.empty("epoch", "loss", None)
    for key, name, colour, dash, symbol in (
        ("loss", "training, of what is learnt", charts.PRUNED, "dash", "square"),
        ("validation_loss", "validation, cross entropy", charts.COMPLETE, "solid", "circle"),
    ):
        figure.add_scatter(
            x=kept["epoch"],
            y=list(map(_short, kept[key])),
            mode="lines+markers" if len(kept["epoch"]) <= _CROWD else "lines",
            name=name,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"symbol": symbol, "size": 6},
            hovertemplate=f"{name}: %{{y:.4f}} after epoch %{{x}}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def confusion(student: Mapping[str, Any]) -> go.Figure:
    """How images of each class are answered: shares of the class as colour, counts as text."""
    counts, names = student["confusion"], list(student["class_accuracy"])
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    places = list(range(len(counts)))
    figure = charts.empty("answered", "true class", None)
    few = len(counts) <= _CLASSES_WITH_COUNTS
    figure.add_heatmap(
        x=places,
        y=places,
        z=[[round(share, 4) for share in row] for row in shares],
        text=[[count or "" for count in row] for row in counts],
        texttemplate="%{text}" if few else None,
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        colorscale=[[0, charts.EMPTY], [1, charts.COMPLETE]],
        showscale=False,
        hovertemplate="%{text} images of the class %{y} are taken for %{x} (%{z:.1%} of it)"
        "<extra></extra>",
    )
    named = {"tickvals": places, "ticktext": list(map(charts.escaped, names))} if few else {}
    figure.update_xaxes(showgrid=False, constrain="domain", **named)
    figure.update_yaxes(
        showgrid=False, autorange="reversed", scaleanchor="x", constrain="domain", **named
    )
    return figure


def _short(accuracy: float | None) -> float | None:
    """Four digits: more cannot be seen. None of an epoch that has none stays a gap."""
    return None if accuracy is None else round(accuracy, 4)


def compression(content: Mapping[str, Any]) -> go.Figure:
    """Accuracy over compression factor: ours, and the paper's as far as it gives numbers."""
    ours, paper = content["students"], content["paper"]
    figure = charts.empty("compression factor", "accuracy", None)
    figure.add_scatter(
        x=[round(each["compression"], 2) for each in ours if each["compression"]],
        y=[round(each["accuracy"], 4) for each in ours if each["compression"]],
        customdata=[
            [charts.escaped(each["architecture"]), each["trial"]]
            for each in ours
            if each["compression"]
        ],
        mode="markers",
        name="this study, validation",
        marker={"color": charts.COMPLETE, "size": 11},
        hovertemplate="%{customdata[0]} (trial %{customdata[1]}): %{y:.2%}<br>%{x:.2f} times fewer"
        " parameters<extra></extra>",
    )
    teacher = content["summary"]["teacher"]["accuracy"]
    if teacher is not None:
        figure.add_scatter(
            x=[1],
            y=[round(teacher, 4)],
            mode="markers",
            name="our teacher",
            marker={"color": charts.TEACHER, "symbol": "diamond", "size": 12},
            hovertemplate="our teacher: %{y:.2%}<extra></extra>",
        )
    _add_paper(figure, paper)
    figure.update_xaxes(
        type="log", tickvals=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], tickformat=","
    )
    figure.update_yaxes(tickformat=".0%")
    return figure


def _add_paper(figure: go.Figure, paper: Mapping[str, Any]) -> None:
    measured, arms = paper["arms_of_removed_blocks"], paper["arms"]
    sizes = [each["compression"] for each in paper["students"]]
    (at,) = [s["compression"] for s in paper["students"] if s["removed_blocks"] == measured]
    figure.add_scatter(
        x=[round(at, 2)] * len(arms),
        y=[arm["mean"] for arm in arms],
        error_y={"array": [arm["sd"] for arm in arms], "thickness": 1.2, "width": 4},
        customdata=[arm["name"] for arm in arms],
        mode="markers",
        name="paper, CIFAR-10 test",
        marker={"color": charts.PAPER, "symbol": "square", "size": 8},
        hovertemplate="paper, %{customdata}: %{y:.2%} (mean of 10 runs)<extra></extra>",
    )
    figure.add_scatter(
        x=[1],
        y=[paper["teacher"]["accuracy"]],
        mode="markers",
        name="the paper's teacher",
        marker={"color": charts.PAPER, "symbol": "diamond-open", "size": 11},
        hovertemplate="the paper's teacher: %{y:.2%}<extra></extra>",
    )
    figure.add_scatter(
        x=[round(size, 2) for size in sizes],
        y=[0.02] * len(sizes),
        yaxis="y2",
        customdata=[each["removed_blocks"] for each in paper["students"]],
        mode="markers",
        name="the paper's eight sizes",
        cliponaxis=False,
        marker={"color": charts.PAPER, "symbol": "line-ns-open", "size": 12, "line": {"width": 2}},
        hovertemplate="%{customdata} blocks removed: %{x:.2f} times smaller<extra></extra>",
    )
    # of all but one the size alone is held here (`paper`), so they stand on an axis of their own
    figure.update_layout(
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    )
