"""What of trials a report shows in pictures: the winner's curves, overlays of it and a few others.

Trials keep them as documents (`artifacts`), so a study from before that has none. The page draws
them itself: in its own colours, and without matplotlib, which would take longer than all the rest.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from igkd_search import artifacts, database
from igkd_search.results import Row

OTHERS = 5
"""Trials besides the winner whose overlays are shown."""
MOST_LETTERS = 1_500_000
"""A page of less than 5 MB holds so many of images beside Plotly and its charts."""
CURVES, OVERLAYS = "learning_curves", "overlays"
_KEYS = {
    CURVES: {"epoch", "loss", "validation_loss"},
    OVERLAYS: {"rows", "labels", "overlaid", "control"},
}
_HEAT = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""What maps are coloured in, from 0 to 1: it rises in lightness, for all eyes and in print."""


def choose(
    base: database.Database, name: str, rows: Sequence[Row], best: Mapping[str, Any] | None
) -> dict[tuple[int, str], Any]:
    """(trial, kind) -> its document, the winner's first; {} of a study that keeps none."""
    winner = None if best is None else best["number"]
    others = spread([row for row in rows if row.number != winner], OTHERS)
    wanted = [] if winner is None else [(winner, CURVES), (winner, OVERLAYS)]
    found: dict[tuple[int, str], Any] = {}
    room = MOST_LETTERS
    for number, kind in [*wanted, *((number, OVERLAYS) for number in others)]:
        kept = artifacts.documents_of(base, name, number, [kind]).get(kind, {})
        size = sum(map(len, kept.get("rows", {}).values()))
        # another release may have kept them in its own way
        if _KEYS[kind] <= kept.keys() and size <= room:
            found[number, kind] = kept
            room -= size
    return found


def spread(rows: Sequence[Row], count: int) -> list[int]:
    """So many finished trials, from the least to the largest overlay probability."""
    finished = [row for row in rows if row.state in ("complete", "pruned")]
    ordered = sorted(finished, key=lambda row: (_probability(row), row.number))
    if len(ordered) > count:
        step = (len(ordered) - 1) / (count - 1)
        ordered = [ordered[round(index * step)] for index in range(count)]
    return [row.number for row in ordered]


def strips(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of what a student saw, each a PNG as a data URL: view, map (coloured), seen."""
    control = document["control"]
    maps = {"none": "teacher's map", "dim": "map, not used"}.get(control, f"map, {control}")
    named = {"view": "view", "map": maps, "seen": "seen by the student"}
    found = []
    for row, says in named.items():
        content = base64.b64decode(document["rows"][row])
        found.append({"says": says, "url": _url(_coloured(content) if row == "map" else content)})
    return found


def _coloured(content: bytes) -> bytes:
    """A grey PNG in the colours of heat."""
    with Image.open(io.BytesIO(content)) as image:
        grey = image.convert("L")
    coloured = Image.frombytes("P", grey.size, grey.tobytes())
    coloured.putpalette(_palette())
    written = io.BytesIO()
    coloured.save(written, "PNG", optimize=True)
    return written.getvalue()


def _palette() -> bytes:
    """Red, green and blue of 256 shades."""
    shades = []
    for shade in range(256):
        place, part = divmod(shade * (len(_HEAT) - 1), 255)
        low, high = _HEAT[place], _HEAT[min(place + 1, len(_HEAT) - 1)]
        shades += [a + (b - a) * part // 255 for a, b in zip(low, high, strict=True)]
    return bytes(shades)


def _url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _probability(row: Row) -> float:
    return float(row.parameters.get("overlay_probability") or 0.0)
