"""What the commands print for people: summaries and trials as tables of plain values."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igkd_search import amounts, console, uncertainty

if TYPE_CHECKING:
    from igkd_search import findings, gallery, inventory, results

_NAME_WIDTH = 24  # of a class


def print_trials(found: "Sequence[results.Row]") -> None:
    """Print every trial on a line, without empty columns; below, why some failed."""
    columns = {
        "trial": [str(row.number) for row in found],
        "state": [row.state for row in found],
        "accuracy": ["" if row.accuracy is None else f"{row.accuracy:.1%}" for row in found],
        "latency": _latencies(found),
        "epochs": [str(row.epochs) for row in found],
        "attempts": [str(row.attempts) if row.attempts > 1 else "" for row in found],
        **_parameters([row.parameters for row in found]),
        "by": [row.proposed_by or "" for row in found],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    console.print_table("", list(shown), list(zip(*shown.values(), strict=True)))
    # no column, which would leave the others too little room
    causes = {f"trial {row.number}": _why(row) for row in found if row.cause}
    if causes:
        console.print_pairs("causes of failure", causes)


def _parameters(found: "Sequence[Mapping[str, Any]]") -> dict[str, list[str]]:
    """A column for each name, which may break behind its underscores: 80 columns are enough."""
    names = sorted({name for each in found for name in each})
    return {
        name.replace("_", "_\n"): [amounts.value(each.get(name, "")) for each in found]
        for name in names
    }


def _latencies(found: "Sequence[results.Row]") -> list[str]:
    """What each student takes, where that is not the same for all."""
    shown = [_ms(row.attributes) for row in found]
    return shown if len({each for each in shown if each}) > 1 else [""] * len(shown)


def _ms(attributes: Mapping[str, Any]) -> str:
    found = attributes.get("latency_ms")
    return "" if found is None else f"{found:.3g} ms"


def _why(row: "results.Row") -> str:
    """Cause and reason of a failure in one line."""
    reason = " ".join((row.reason or "").split())
    return reason if reason.startswith(f"{row.cause}:") else f"{row.cause}: {reason}"


def print_summary(found: dict[str, Any]) -> None:
    """Print what `results.summary` found: the winner beside the teacher, and what was spent."""
    teacher, trials, winner = found["teacher"], found["trials"], found["best"]
    spent = found["epochs"]
    pairs = {
        "trials": f"{trials['complete']} complete, {trials['pruned']} pruned, "
        f"{trials['failed']} failed, of {trials['budget']}",
        "proposed by": _counted(found["proposed_by"]),
        "epochs": f"{spent['trained']} trained, {spent['without_pruning']} without pruning",
        "time": _minutes(found["seconds"]),
        **_not_quiet(found.get("machine") or {}),
    }
    if winner is None:
        pairs["failures"] = _counted(found["failures"])
        pairs["see"] = f"igkd trials {found['study']}"
        console.print_pairs(f"study {found['study']}: no trial has completed yet", pairs)
        return
    console.print_table(
        f"study {found['study']}",
        ["", "teacher", "student", "ratio"],
        [
            [
                "validation accuracy",
                f"{teacher['accuracy']:.1%}",
                f"{winner['accuracy']:.1%}",
                "",
            ],
            *_interval_rows(found),
            *_answer_rows(found["student"]),
            *cost_rows(teacher, found["student"]),
        ],
    )
    console.print_pairs(
        f"best configuration (trial {winner['number']})",
        {name: amounts.value(value) for name, value in winner["parameters"].items()},
    )
    if found.get("front"):
        _print_front(found["front"])
    console.print_pairs("search", pairs)
    console.print_pairs(
        "next",
        {
            "report": f"igkd report {found['study']} -o report/",
            "dashboard": "igkd dashboard",
            "export": f"igkd export {found['study']} -o best.toml",
            "train": "igkd train best.toml -o final/",
        },
    )


def _not_quiet(machine: Mapping[str, Any]) -> dict[str, str]:
    """That latency was measured while others worked; nothing where they did not, or of old."""
    if machine.get("quiet", True):
        return {}
    used = f"{machine['cores_used_by_others']:.1f}"
    return {"latency": f"measured while other processes used {used} cores: too long"}


def _interval_rows(found: dict[str, Any]) -> list[list[str]]:
    """How far both accuracies can be trusted, counted on so many images; nothing of old studies."""
    images = (found.get("rows") or {}).get("validation")
    if not images:
        return []
    both = [found["teacher"]["accuracy"], found["best"]["accuracy"]]
    ends = [uncertainty.of_accuracy(accuracy, images) for accuracy in both]
    shown = [f"{100 * low:.1f} to {100 * high:.1f}%" for low, high in ends]
    return [[f"95% interval, {images:,} images", *shown, ""]]


def _print_front(front: "Sequence[Mapping[str, Any]]") -> None:
    """The trade-offs that no trial beats in both, a line each, the most accurate first."""
    columns = {
        "trial": [str(row["number"]) for row in front],
        "accuracy": [f"{row['accuracy']:.1%}" for row in front],
        "latency": [_ms(row["attributes"]) for row in front],
        **_parameters([row["parameters"] for row in front]),
    }
    rows = list(zip(*columns.values(), strict=True))
    console.print_table("front: no trial beats these", list(columns), rows)


def _answer_rows(student: dict[str, Any]) -> list[list[str]]:
    """How far the student is to be believed, and where least; nothing of an older study."""
    rows = []
    if student["calibration_error"] is not None:
        rows.append(["calibration error", "", f"{student['calibration_error']:.1%}", ""])
    known = {
        name: share
        for name, share in (student["class_accuracy"] or {}).items()
        if share is not None
    }
    if known:
        name = min(known, key=known.__getitem__)
        # cut, so that 80 columns are enough
        shown = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 3]}..."
        rows.append([f"weakest class, {shown}", "", f"{known[name]:.1%}", ""])
    return rows


def cost_rows(teacher: dict[str, Any], student: dict[str, Any]) -> list[list[str]]:
    """What both cost and how many times less the student does: latency, parameters, MACs."""
    rows = []
    for engine, label in (
        ("onnxruntime", "latency, ONNX Runtime"),
        ("pytorch", "latency, PyTorch"),
    ):
        ours, theirs = student["latency"][engine], teacher["latency"][engine]
        ratio = theirs["median_ms"] / ours["median_ms"]
        rows.append([label, _milliseconds(theirs), _milliseconds(ours), f"{ratio:.2f}x"])
    for key, label in (("parameters", "parameters, compression"), ("macs", "multiply-accumulates")):
        ratio = teacher[key] / student[key]
        rows.append([label, f"{teacher[key]:,}", f"{student[key]:,}", f"{ratio:.2f}x"])
    return rows


def print_studies(found: Sequence[Mapping[str, Any]], place: str) -> None:
    """Print a line for each study of a storage; below, what is wrong with damaged ones."""
    if not found:
        console.print_pairs(
            f"no study in {place} yet",
            {"try one": "igkd run digits", "write one": "igkd init NAME"},
        )
        return
    columns = {
        "study": [one["study"] for one in found],
        "state": [one["state"] for one in found],
        "trials": [
            "" if one["trials"] is None else f"{one['done']}/{one['trials']}" for one in found
        ],
        "best": ["" if one["best"] is None else f"{one['best']:.1%}" for one in found],
        "workers": [str(one["workers"] or "") for one in found],
        "began": [_as_local(one["began"]) for one in found],
        "last sign": ["" if one["seen"] is None else f"{_age(one['seen'])} ago" for one in found],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    console.print_table("", list(shown), list(zip(*shown.values(), strict=True)), left=2)
    faults = {one["study"]: one["fault"] for one in found if one["fault"]}
    if faults:
        console.print_pairs("damaged", faults)


def _as_local(moment: str) -> str:
    """An ISO 8601 moment as the clock here shows it; what is none stays as it is."""
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return moment


def print_prepared(facts: Mapping[str, Any]) -> None:
    """Say how good the teacher is that a study's materials are made of."""
    accuracy = facts["teacher_accuracy"]
    console.print_note(f"the teacher reaches {accuracy:.2%} on the validation images")


def print_materials(
    found: "inventory.Inventory", removed: "Sequence[inventory.Entry] | None" = None
) -> None:
    """Print the entries of a vault, what --prune removed or could remove, and what is unknown."""
    if removed is not None:
        freed = amounts.size(sum(entry.bytes for entry in removed))
        lines = {f"{entry.kind}/{entry.digest}": amounts.size(entry.bytes) for entry in removed}
        console.print_pairs(
            f"removed {_entries(len(removed))}, {freed} freed" if removed else "nothing to remove",
            lines,
        )
    if not found.entries:
        console.print_pairs(
            f"no materials in {found.root}", {"build some": "igkd prepare STUDY, or igkd run STUDY"}
        )
        return
    now = datetime.now(UTC)
    rows = [
        [
            entry.kind,
            entry.digest,
            amounts.size(entry.bytes),
            _age((now - entry.created).total_seconds()),
            ", ".join(entry.used_by),
            entry.state,
        ]
        for entry in found.entries
    ]
    console.print_table("", ["kind", "digest", "size", "age", "used by", "state"], rows)
    total = f"{_entries(len(rows))}, {amounts.size(sum(entry.bytes for entry in found.entries))}"
    pairs = {"total": f"{total} in {found.root}"}
    if found.unaccounted:
        pairs["not known"] = f"what is used by {', '.join(found.unaccounted)}; igkd prepare says"
    elif unused := found.unused():
        size = amounts.size(sum(entry.bytes for entry in unused))
        pairs["unused"] = f"{_entries(len(unused))}, {size}; igkd materials --prune removes them"
    console.print_pairs("materials", pairs)


def print_findings(found: "Sequence[findings.Finding]") -> None:
    """Print what a doctor found; below it, what to type about that which is not well."""
    shown = {"ok": "ok", "warning": "WARNING", "fault": "FAULT"}
    rows = [[one.name, shown[one.state], one.found] for one in found]
    console.print_table("", ["check", "state", "found"], rows, left=3)
    advice = {one.name: one.advice for one in found if one.state != "ok"}
    if advice:
        console.print_pairs("what to type", advice)
    else:
        console.print_pairs("all is well", {})


def print_gallery(found: "gallery.Gallery", output: Path) -> None:
    """Print where a gallery was written, and what its columns are."""
    shown = zip(found.names, found.probabilities, strict=True)
    console.print_pairs(
        f"wrote {output}",
        {
            "teacher": f"{found.teacher_accuracy:.1%} on validation",
            "classes": ", ".join(f"{name} {share:.1%}" for name, share in shown),
            "trials see": f"the row '{found.seen}'",
        },
    )


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _age(seconds: float) -> str:
    """A time span in its largest whole unit: 40 s, 3 min, 2 h, 5 d."""
    for unit, span in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= span:
            return f"{seconds // span:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _milliseconds(stats: dict[str, Any]) -> str:
    return f"{stats['median_ms']:.3g} ms"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
