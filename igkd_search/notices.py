"""What the commands of a study's life print for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from igkd_search import amounts, console

if TYPE_CHECKING:
    from igkd_search import copying, removal, repairs


def print_addition(found: dict[str, Any]) -> None:
    """Print what was queued as the last, its place, and whether there is room for it."""
    *before, added = found["waiting"] or [{}]
    pairs = {"tried next": _shown(added)}
    if before:
        pairs = {f"place {len(before) + 1}": _shown(added), "before it": _waiting(len(before))}
    console.print_pairs(f"study {found['study']}: added", pairs | _room(found))


def print_queue(found: dict[str, Any]) -> None:
    """Print what waits to be tried, in order."""
    waiting = found["waiting"]
    pairs = {f"place {place}": _shown(point) for place, point in enumerate(waiting, 1)}
    title = _waiting(len(waiting)) if waiting else "nothing waits to be tried"
    if not waiting:
        pairs = {"add": f"igkd add {found['study']} NAME=VALUE ..."}
    console.print_pairs(f"study {found['study']}: {title}", pairs | _room(found))


def _room(found: dict[str, Any]) -> dict[str, str]:
    if found["trials_needed"] is None:
        return {}
    waiting, fresh = _waiting(len(found["waiting"])), found["fresh"]
    left = {0: "no slot is", 1: "1 slot is"}.get(fresh, f"{fresh} slots are")
    needed = f"igkd run {found['study']} --trials {found['trials_needed']}"
    return {"no room": f"{waiting}, and {left} free; type {needed}"}


def _waiting(count: int) -> str:
    return "1 configuration waits" if count == 1 else f"{count} configurations wait"


def print_retries(found: dict[str, Any]) -> None:
    """Print which trials are tried again as which."""
    retried = found["retried"]
    pairs = {
        f"trial {each['trial']}": f"{each['cause']}; again as trial {each['again']}, slot "
        f"{each['slot']}"
        for each in retried
    }
    if not retried:
        console.print_pairs(f"study {found['study']}: no failed trial is left", {})
        return
    goes_on = f"workers that are there take them; else igkd run {found['study']}"
    console.print_pairs(f"study {found['study']}: tried again", pairs | {"next": goes_on})


def print_remains(found: "removal.Remains") -> None:
    """Print what would be removed."""
    pairs = {label: str(count) for label, count in found.rows.items() if count}
    if found.file_bytes:
        pairs["files"] += f", {amounts.size(found.file_bytes)}"
    for position, path in enumerate(found.paths):
        pairs[f"folder {position + 1}"] = str(path)
    if found.paths:
        pairs["on disk"] = amounts.size(found.path_bytes)
    console.print_pairs(f"to be removed: study {found.study}", pairs)


def print_copy(copied: "copying.Copied", name: str) -> None:
    """Print what was copied, that both sides hold the same, and what to type next."""
    found = {"failed" if name == "fail" else name: n for name, n in copied.trials.items()}
    states = ", ".join(f"{count} {state}" for state, count in sorted(found.items()))
    pairs = {
        "trials": f"{sum(copied.trials.values())}{f' ({states})' if states else ''}",
        **{label: str(count) for label, count in copied.rows.items() if label != "searches"},
        "files": f"{copied.files}, {amounts.size(copied.file_bytes)}",
        "checked": f"both sides hold the same trials (sha256 {copied.digest[:12]})",
    }
    console.print_pairs(f"copied study {name} to {copied.target}", pairs)
    steps = {
        "name the storage": "export IGKD_STORAGE=URL, the one that you gave to --to",
        "go on": f"igkd run {copied.study}",
        "remove the old one": f"igkd delete {name} --storage OLD, once you are content",
    }
    if copied.study != name and copied.trials.get("running"):
        steps["mind"] = "under another name trials that run begin anew, from no checkpoint"
    console.print_pairs("next", steps)


def print_findings(name: str, found: "Sequence[repairs.Finding]") -> None:
    """Print what is inconsistent, each with its fix."""
    if not found:
        console.print_pairs(f"study {name}: nothing to repair", {})
        return
    count = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
    lines = {f"{place}": f"{each.what}: to be {each.fix}" for place, each in enumerate(found, 1)}
    console.print_pairs(f"study {name}: {count} wrong", lines)


def _shown(point: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in point.items())
