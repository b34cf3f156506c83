"""What `timings` has measured: as rows for people, as Markdown, and kept with a study.

Nothing here imports torch, so that a report is written on any machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from igkd_search import amounts, database, documents

TITLES = {
    "pytorch": "PyTorch eager",
    "compiled": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime int8",
}
"""Engines, in the order in which they are shown."""
FILE = "latency.json"
"""Under which name a study keeps the table of its winner."""
MEANS = (
    "Milliseconds a call, that is a whole batch of uint8 pixels, normalisation included: median "
    "(interquartile range) of n warm rounds on the CPU, all engines and both models in turn."
)
MEANS_OF_SEARCH = (
    "Milliseconds for one normalised image: median (interquartile range) of n warm rounds on the "
    "CPU, both models in turn, measured before the search."
)
COUNTED = (
    "Peak of activations: intermediate tensors that live at once in one image's forward in eager "
    "PyTorch, without weights and input."
)
HEAD = ("engine", "batch", "threads", "teacher", "student", "ratio", "n")
COSTS = ("", "teacher", "student", "ratio")


def timing_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A row of HEAD for each engine, batch and thread count."""
    return [
        [
            TITLES.get(row["engine"], row["engine"]),
            str(row["batch"]),
            str(row["threads"]),
            *(_median(row[who]) for who in ("teacher", "student")),
            amounts.times(row["ratio"]),
            str(row["student"].get("n", "")),
        ]
        for row in found["rows"]
    ]


def cost_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A row of COSTS for each thing that both models cost."""
    teacher, student = (found["models"][who] for who in ("teacher", "student"))
    pairs = [
        ("parameters", teacher["parameters"], student["parameters"], amounts.count),
        ("multiply-accumulates", teacher["macs"], student["macs"], amounts.count),
        (
            "peak of activations",
            teacher["activation_bytes"],
            student["activation_bytes"],
            amounts.size,
        ),
    ]
    for kind, title in (("onnx", "file, ONNX fp32"), ("int8", "file, ONNX int8")):
        if kind in teacher["files"] and kind in student["files"]:
            pairs.append((title, teacher["files"][kind], student["files"][kind], amounts.size))
    return [
        [title, show(ours), show(theirs), amounts.times(ours / theirs)]
        for title, ours, theirs, show in pairs
    ]


def of_search(latency: Mapping[str, Any]) -> dict[str, Any]:
    """What a search has measured of its winner, engine -> teacher, student, ratio, as `rows`."""
    return {
        "rows": [
            {"engine": engine, "batch": 1, "threads": 1, **timed}
            for engine in TITLES
            if (timed := latency.get(engine)) is not None
        ]
    }


def notes(found: Mapping[str, Any]) -> dict[str, str]:
    """What else must be said of the figures, by a word for each."""
    machine = found["machine"]
    cores = amounts.several(machine["usable_cores"], "core")
    if machine["usable_cores"] != machine["cores"]:
        cores += f" of {machine['cores']}"
    said = {
        "machine": f"{machine['cpu']}, {cores}, {machine['system']}",
        "versions": ", ".join(
            f"{name} {machine[name]}" for name in ("torch", "onnxruntime", "python")
        ),
    }
    if not machine["quiet"]:
        used = f"{machine['cores_used_by_others']:.1f} cores"
        said["not quiet"] = f"other processes used {used}, so the times are too long"
    if "int8" in found["models"]["student"]["files"]:
        said["int8"] = f"calibrated on {found['calibration']}"
    for each in found["skipped"]:
        said[f"no {TITLES.get(each['engine'], each['engine'])}"] = each["reason"]
    return said


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables and what must be said of them; it ends without a newline."""
    tables = [_table(HEAD, timing_rows(found)), _table(COSTS, cost_rows(found))]
    said = "\n".join(f"- {name}: {text}" for name, text in notes(found).items())
    return "\n\n".join([*tables, f"{MEANS} {COUNTED}", said])


def markdown_of_search(latency: Mapping[str, Any], study: str) -> str:
    """The same where only the search has measured, with what to type for more."""
    table = _table(HEAD, timing_rows(of_search(latency)))
    return f"{table}\n\n{MEANS_OF_SEARCH} {more(study)}"


def more(study: str) -> str:
    """What to type where only the search has measured."""
    return (
        f"`igkd latency {study}` measures the winner in every engine, int8 and batches included, "
        "and its figures are shown here."
    )


def keep(base: database.Database, study: str, found: Mapping[str, Any]) -> None:
    """Keep a table with a study, in place of an older one."""
    base.replace_files(study, {FILE: documents.dump(found)})


def kept(base: database.Database, study: str) -> dict[str, Any] | None:
    """The table that was kept last; None where there is none, or none that can be read."""
    content = base.read_file(study, FILE)
    try:
        found: dict[str, Any] | None = None if content is None else documents.load(content)
    except ValueError:
        return None
    return found


def _median(stats: Mapping[str, Any]) -> str:
    middle, spread = (
        amounts.milliseconds(stats.get(name)).removesuffix(" ms")
        for name in ("median_ms", "iqr_ms")
    )
    return f"{middle} ({spread})" if spread else middle


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(each)} |" for each in (head, rule, *rows))
