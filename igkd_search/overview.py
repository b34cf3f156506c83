"""What `igkd status` shows to people: the dict of `progress` on a terminal of any size, or a line.

Budget, best, pace and advice stand above a table of the workers and what each of them does. 80
columns are enough for that, and a wider terminal shows what is being tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from igkd_search import amounts, console

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_WIDE = 120
"""Columns from which on the configurations that run are shown too."""
_FORGOTTEN_SECONDS = 86400.0
"""Workers that fell silent longer ago, and have no trial, are only counted."""
_ORDER = ("dead", "silent", "training", "waiting")
"""What somebody should look after comes first, for a small terminal shows no more."""
_STYLES = {"dead": "red", "silent": "yellow"}


def print_status(found: Mapping[str, Any]) -> None:
    """Print what `progress.describe` has found, all workers of it."""
    console.print_view(view(found, console.terminal("stdout").width))


def line(found: Mapping[str, Any]) -> str:
    """The most important of it in one line."""
    budget, best = found["budget"], found["best"]
    words = [
        f"{budget['done']} of {budget['trials']} trials done, {budget['running']} running"
        + (f", {sum(found['failures'].values())} failed" if found["failures"] else ""),
        f"workers: {_crew(found)}",
        "" if best is None else f"best {best['accuracy']:.1%} (trial {best['trial']})",
        _rate(found),
        "the search has ended" if found["ended"] else _left(found),
        found["stopped"] or "",
    ]
    return "; ".join(filter(None, words))


def note(found: Mapping[str, Any]) -> str:
    """Best and workers as a word beside a bar that shows budget and time left itself."""
    best = found["best"]
    shown = "no best yet" if best is None else f"best {best['accuracy']:.1%}"
    failed = sum(found["failures"].values())
    alive = sum(worker["state"] in ("training", "waiting") for worker in found["workers"])
    words = [shown, f"{alive} worker{'s' if alive != 1 else ''}", f"{failed} failed"]
    return ", ".join(words if failed else words[:2])


def outline(found: Mapping[str, Any]) -> list[Any]:
    """What makes a further line worth reading; not what moves by itself, as times and epochs do."""
    kept = ("budget", "failures", "best", "deaths", "stopped", "ended")
    return [*(found[name] for name in kept), _crew(found)]


def view(found: Mapping[str, Any], width: int, height: int | None = None, note: str = "") -> Group:
    """All of it for a terminal this wide; a `height` cuts the table, a `note` is a warning."""
    from rich.console import Group
    from rich.text import Text

    title = Text(f"study {found['study']}", style="bold")
    top: list[RenderableType] = [title, _head(found, note, bar=height is not None)]
    rows, more = _rows(found), 0
    if height is not None:
        out = console.terminal("stdout")
        taken = len(out.render_lines(Group(*top), out.options.update_width(width)))
        # but for an empty line, the head of the table and the line below it
        room = max(height - taken - 4, 1)
        rows, more = rows[:room], len(rows) - room
    if rows:
        top += [Text(""), _table(rows, width)]
    return Group(*top, *[Text(f"... and {more} more")] * (more > 0))


def _pairs(found: Mapping[str, Any]) -> dict[str, str]:
    """What the lines above the table say, by name."""

    budget, best = found["budget"], found["best"]
    queued = f", {budget['queued']} queued" if budget["queued"] else ""
    return {
        "budget": f"{budget['done']} of {budget['trials']} trials done, "
        f"{budget['running']} running, {budget['open']} open{queued}",
        "stopped": found["stopped"] or "",
        "states": _counted(found["states"]),
        "failures": _counted(found["failures"]),
        "proposed by": _counted(found["proposed_by"]),
        "best": "none yet"
        if best is None
        else f"trial {best['trial']}, {best['accuracy']:.1%} on validation",
        "": "" if best is None else _configuration(best["parameters"]),
        "front": _front(found["front"] or []),
        "rate": _rate(found),
        "time": f"{amounts.span(found['seconds']['searched'])} searched"
        + ("" if found["ended"] else f", {_left(found)}"),
        "workers": _crew(found),
        "deaths": f"{found['deaths']} of the attempts at trials" if found["deaths"] else "",
    }


def _head(found: Mapping[str, Any], note: str, bar: bool) -> Table:
    """Named lines, then what is wrong; a bar below the budget where that is drawn anew."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, justify="left")
    grid.add_column(overflow="fold")
    for name, value in _pairs(found).items():
        if value:
            grid.add_row(f"  {name}", Text(value))
        if name == "budget" and bar:
            budget = found["budget"]
            shown = ProgressBar(total=budget["trials"], completed=budget["done"], width=60)
            grid.add_row("", shown)
    for each in filter(None, [note, *found["advice"]]):
        grid.add_row(Text("  !", style="yellow"), Text(each, style="yellow"))
    return grid


def _rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A line of the table for each worker that matters, and each trial that nobody has."""
    trials = {trial["trial"]: trial for trial in found["running"]}
    present = [
        worker
        for worker in found["workers"]
        if worker["trial"] is not None or worker["silent"] < _FORGOTTEN_SECONDS
    ]
    present.sort(key=lambda worker: _ORDER.index(worker["state"]))
    rows = [
        {
            "host": worker["host"],
            "pid": str(worker["pid"]),
            "device": worker["device"],
            **_of_trial(trials.pop(worker["trial"], None), worker["state"]),
            "images/s": "" if worker["images_per_s"] is None else f"{worker['images_per_s']:,.0f}",
            "seen": _seen(worker),
            "style": _STYLES.get(worker["state"], ""),
        }
        for worker in present
    ]
    # what is left has no worker
    return rows + [{"host": "(nobody)", **_of_trial(trial)} for trial in trials.values()]


def _of_trial(trial: Mapping[str, Any] | None, otherwise: str = "") -> dict[str, str]:
    if trial is None:
        return {"trial": {"waiting": "waits", "training": "begins"}.get(otherwise, "")}
    accuracy = trial["accuracy"]
    return {
        "trial": str(trial["trial"]),
        "epochs": f"{trial['epochs']}/{trial['planned']}",
        "accuracy": "" if accuracy is None else f"{accuracy:.1%}",
        "try": str(trial["attempt"]) if trial["attempt"] > 1 else "",
        "configuration": _configuration(trial["parameters"]),
    }


def _table(rows: Sequence[Mapping[str, str]], width: int) -> Table:
    from rich.text import Text

    columns = ["host", "pid", "device", "trial", "epochs", "accuracy", "try", "images/s"]
    columns += ["seen", "configuration"] if width >= _WIDE else ["seen"]
    columns = [name for name in columns if any(row.get(name) for row in rows)]
    table = console.ruled_table()
    for name in columns:
        # only what may be cut is left to be cut
        cut = name in ("host", "device", "configuration")
        justify: Any = "left" if cut else "right"
        table.add_column(name, justify=justify, no_wrap=not cut, overflow="ellipsis")
    for row in rows:
        cells = [Text(row.get(name, ""), no_wrap=True, overflow="ellipsis") for name in columns]
        table.add_row(*cells, style=row.get("style", ""))
    return table


def _crew(found: Mapping[str, Any]) -> str:
    """How many workers are at work, and how many no more."""
    states = Counter(worker["state"] for worker in found["workers"])
    working = states["training"] + states["waiting"]
    words = {"at work": working, "silent": states["silent"], "dead": states["dead"]}
    words["left"] = found["left"]
    return ", ".join(f"{n} {word}" for word, n in words.items() if n or word == "at work")


def _front(front: Sequence[Mapping[str, Any]]) -> str:
    if not front:
        return ""
    fast = front[-1]
    latency = "" if fast["latency_ms"] is None else f" in {fast['latency_ms']:.3g} ms"
    trials = f"{len(front)} trial" if len(front) == 1 else f"{len(front)} trials"
    return f"{trials}, the fastest {fast['accuracy']:.1%}{latency}"


def _rate(found: Mapping[str, Any]) -> str:
    rate, words = found["rate"], []
    if (trials := rate["trials_per_hour"]) is not None:
        words.append(f"{trials:,.{0 if trials >= 10 else 1}f} trials/h")
    if rate["images_per_s"] is not None:
        words.append(f"{rate['images_per_s']:,.0f} images/s")
    return ", ".join(words)


def _left(found: Mapping[str, Any]) -> str:
    left = found["seconds"]["left"]
    if left is not None:
        return f"about {amounts.left(left)}"
    working = any(worker["state"] in ("training", "waiting") for worker in found["workers"])
    why = "until a trial has finished" if working else "since nobody is at work"
    return f"time left unknown {why}"


def _seen(worker: Mapping[str, Any]) -> str:
    if worker["state"] == "dead":
        return "dead"
    ago = amounts.span(worker["silent"])
    return f"silent {ago}" if worker["state"] == "silent" else f"{ago} ago"


def _configuration(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {amounts.value(value)}" for name, value in parameters.items())


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
