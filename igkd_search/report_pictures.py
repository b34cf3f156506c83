"""Which pictures of trials a report shows: those of the winner, and overlays of a few others.

Trials keep them as artifacts, so a study from before that has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from igkd_search import artifacts, database
from igkd_search.results import Row

OTHERS = 5
"""Trials besides the winner whose overlays are shown."""
MOST_BYTES = 1_200_000
"""A page of less than 5 MB holds these beside Plotly and its charts."""
OVERLAYS = "overlays.png"


def choose(
    base: database.Database, name: str, rows: Sequence[Row], best: Mapping[str, Any] | None
) -> dict[tuple[int, str], bytes]:
    """(trial, file name) -> PNG, the winner's first; {} of a study that keeps none."""
    found: dict[tuple[int, str], bytes] = {}
    room = MOST_BYTES
    winner = None if best is None else best["number"]
    if winner is not None:
        for file, content in artifacts.of_trial(base, name, winner).items():
            if len(content) <= room:
                found[winner, file] = content
                room -= len(content)
    for number in spread([row for row in rows if row.number != winner], OTHERS):
        drawn = artifacts.of_trial(base, name, number).get(OVERLAYS)
        if drawn is not None and len(drawn) <= room:
            found[number, OVERLAYS] = drawn
            room -= len(drawn)
    return found


def spread(rows: Sequence[Row], count: int) -> list[int]:
    """So many finished trials, from the least to the largest overlay probability."""
    finished = [row for row in rows if row.state in ("complete", "pruned")]
    ordered = sorted(finished, key=lambda row: (_probability(row), row.number))
    if len(ordered) > count:
        step = (len(ordered) - 1) / (count - 1)
        ordered = [ordered[round(index * step)] for index in range(count)]
    return [row.number for row in ordered]


def _probability(row: Row) -> float:
    return float(row.parameters.get("overlay_probability") or 0.0)
