"""A report as one HTML file that opens offline, with no request to anything.

Plotly's 4.8 MB are in it once, compressed; a few lines of script inflate them and draw. Where that
cannot be done, each chart is still said in words, and the tables and pictures need no script.
"""

import base64
import functools
import gzip
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import jinja2
import plotly

from igkd_search import (
    amounts,
    charts,
    latency_table,
    report_captions,
    report_charts,
    report_pictures,
)
from igkd_search.report import Report

TOP_TRIALS = 10
DARK = {
    charts.COMPLETE: "#6cb8f0",
    charts.PRUNED: "#e0a94a",
    charts.FAILED: "#ff8f7f",
    charts.BEST: "#f4f1ea",
    charts.TEACHER: "#b3b1aa",
    charts.PAPER: "#cf9be8",
    charts.MUTED: "#8b919c",
    charts.EMPTY: "#242931",
    "#ffffff": "#16181d",
}
"""The colours of charts -> what they are in the dark."""
_TEMPLATE = "report.html.j2"
_CHOSEN = "overlaid ones are shown first, so their number says nothing of the probability"


def render(report: Report) -> str:
    """The page; every text of the study is escaped."""
    content = report.content
    kept = next(
        (each for (_, kind), each in report.pictures.items() if kind == report_pictures.CURVES),
        None,
    )
    figures = report_charts.draw(content, report.rows, kept)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("igkd_search", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": amounts.percent,
        "ms": amounts.milliseconds,
        "times": amounts.times,
        "count": amounts.count,
        "value": amounts.value,
        "span": amounts.span,
        "label": charts.label,
        "heading": report_captions.heading,
    }
    return environment.get_template(_TEMPLATE).render(
        **content,
        question=report_captions.question(content),
        progress=report_captions.progress(content),
        several=amounts.several,
        captions=report_captions.of(content, list(figures), kept),
        slices=[name for name in figures if name.startswith("slice-")],
        figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
        dark=DARK,
        plotly=_plotly(),
        whiskers=_whiskers(content["answer"]),
        top=[content["trials"][number] for number in content["ranking"][:TOP_TRIALS]],
        no_answer=report_captions.no_answer(content),
        trust=report_captions.trust(content["answer"]) if content["answer"] else "",
        searched=report_charts.searched(report.rows),
        overlays=_overlays(report),
        latency=_latency(content),
    )


def _latency(content: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of both tables of `igkd latency`, or of what the search has measured; their words."""
    found, answer = content["timings"], content["answer"]
    head, costs = latency_table.HEAD, latency_table.COSTS
    if found is None:
        rows = latency_table.of_search(answer["latency"] if answer else {})
        said = latency_table.MEANS_OF_SEARCH
        return {"head": head, "rows": latency_table.timing_rows(rows), "said": said}
    return {
        "head": head,
        "rows": latency_table.timing_rows(found),
        "said": latency_table.MEANS,
        "costs_head": costs,
        "costs": latency_table.cost_rows(found),
        "counted": latency_table.COUNTED,
        "notes": latency_table.notes(found),
    }


@functools.cache
def _plotly() -> str:
    """Plotly's script, compressed (the same bytes every time), as base64."""
    package = importlib.resources.files(plotly)
    script = package.joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()


def _whiskers(answer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Where student and teacher with their intervals lie on a common scale, in % of its width."""
    if answer is None:
        return []
    shown = [
        (name, answer[f"{prefix}accuracy"], answer[f"{prefix}interval"])
        for name, prefix in (("student", ""), ("teacher", "teacher_"))
        if answer[f"{prefix}interval"] is not None
    ]
    if not shown:
        return []
    low: float = min(interval["low"] for _, _, interval in shown)
    high: float = max(interval["high"] for _, _, interval in shown)
    room: float = (high - low) or 1.0

    def at(share: float) -> float:
        return round(4 + 92 * (share - low) / float(room), 2)

    return [
        {
            "name": name,
            "accuracy": accuracy,
            "interval": interval,
            "dot": at(accuracy),
            "left": at(interval["low"]),
            "width": round(at(interval["high"]) - at(interval["low"]), 2),
        }
        for name, accuracy, interval in shown
    ]


def _overlays(report: Report) -> list[dict[str, Any]]:
    """What each of some trials trained on: strips of images, their labels, which were overlaid."""
    names = list(((report.content["summary"]["student"] or {}).get("class_accuracy")) or ())
    found = []
    for picture in report.content["pictures"]:
        if picture["kind"] != report_pictures.OVERLAYS:
            continue
        document = report.pictures[picture["trial"], picture["kind"]]
        labels = [
            names[label] if label < len(names) else str(label) for label in document["labels"]
        ]
        laid = sum(document["overlaid"])
        found.append(
            {
                **picture,
                "strips": report_pictures.strips(document),
                "labels": list(zip(labels, document["overlaid"], strict=True)),
                "says": f"{len(labels)} training images, {laid} of them overlaid; {_CHOSEN}",
            }
        )
    return found
