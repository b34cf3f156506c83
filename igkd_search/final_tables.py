"""What is printed at the end of an export, a final training, an ablation, a timing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igkd_search import ablation_text, amounts, console, faithfulness_text, tables

if TYPE_CHECKING:
    from igkd_search import spec


def print_exported(written: "spec.Exported", output: Path) -> None:
    """Print what was exported, what it has shown, and how the leading trials compared again."""
    found = written.validation
    reruns = found.reruns if found else []
    if reruns:
        rows = [
            [
                str(each.trial),
                f"{each.searched:.2%}",
                f"{amounts.spread(each.mean, each.sd)}%",
                str(len(each.accuracies)),
            ]
            for each in reruns
        ]
        console.print_table("again, by fresh seeds", ["trial", "search", "again", "n"], rows)
    pairs = {
        "teacher": str(output.with_name(str(written.teacher.checkpoint))),
        "trial": str(written.provenance.trial),
        "validation": f"{written.provenance.validation_accuracy:.1%}",
    }
    if written.searched_epochs != written.trial.epochs:
        pairs["epochs"] = f"{written.trial.epochs}; the search trained {written.searched_epochs}"
    if found is not None and not reruns and found.complete > 1:
        pairs["flattery"] = f"the best of {found.complete}; --top 5 --seeds 3 tries the best again"
    console.print_pairs(f"wrote {output}", {**pairs, "train it": f"igkd train {output} -o final/"})


def print_final(result: dict[str, Any], output: Path) -> None:
    """Print the result of a final training: the student's test accuracy beside the teacher's."""
    teacher, student = result["teacher"], result["student"]
    spread = student["accuracy"]
    teacher = {**teacher, "latency": teacher}
    shown = f"{amounts.spread(spread['mean'], spread['sd'])}%"
    rows = [
        ["test accuracy", f"{teacher['accuracy']:.2%}", shown, ""],
        *_delivered_rows(result),
        *tables.cost_rows(teacher, {**student, "latency": student}),
    ]
    title = f"final student ({spread['n']} seed{'s' if spread['n'] > 1 else ''})"
    console.print_table(title, ["", "teacher", "student", "ratio"], rows)
    if result.get("ablation"):
        print_ablation(result["ablation"])
        _print_faithfulness(result["arms"])
    if result.get("latency"):
        print_latency(result["latency"])
    reads = result["test"]["reads"]
    times = "once" if reads == 1 else f"up to {reads} times"
    files = {
        "student": "student.onnx",
        "quantised": "student.int8.onnx",
        "weights": "student.safetensors",
        "card": "model_card.md",
        "ablation": "ablation.md",
        "result": "result.json",
        "try it": "example.py",
    }
    pairs = {name: str(output / file) for name, file in files.items() if (output / file).exists()}
    if "try it" in pairs:
        pairs["try it"] = f"python {pairs['try it']} image.png"
    console.print_pairs(
        f"test set: {result['test']['images']} images, read {times} by each model", pairs
    )


def _print_faithfulness(arms: Mapping[str, Mapping[str, Any]]) -> None:
    """How far each arm's students look where the teacher looks; ablation.md has the rest."""
    shown = 5  # columns, so that 80 characters are enough
    head = [name.replace(" ", "\n", 1) for name in ("arm", *faithfulness_text.BY_ARM.values())]
    rows = [row[:shown] for row in faithfulness_text.by_arm(arms)]
    console.print_table("agreement with the teacher's maps", head[:shown], rows)


def _delivered_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The very student that is delivered, and what int8 costs it; nothing of an older result."""
    if "deployment" not in result:
        return []
    shipped, small = result["student"]["shipped"], result["deployment"]["int8"]
    return [
        ["shipped, the first seed", "", f"{shipped['accuracy']:.2%}", ""],
        ["shipped, int8", "", f"{small['accuracy']:.2%}", ""],
    ]


def print_ablation(found: Mapping[str, Any]) -> None:
    """Print what `ablation.summarise` found: a line an arm, the contrasts, what they say."""
    head = ["difference", "95% interval", "p", "p (Holm)"]
    against = {one["arm"]: one for one in found["differences"]}
    rows = [
        [name, ablation_text.accuracy(arm), str(arm["n"]), *_difference(against.get(name))]
        for name, arm in found["arms"].items()
    ]
    title = f"ablation: points above {found['reference']}, {found['test']['images']:,} test images"
    console.print_table(title, ["arm", "accuracy, %", "n", *head], rows)
    if found["contrasts"]:
        rows = [[one["arm"], one["against"], *_difference(one)] for one in found["contrasts"]]
        console.print_table("parts", ["arm", "against", *head], rows, left=2)
    for key, title in ablation_text.TITLES.items():
        if found["words"][key]:
            console.print_list(title.lower(), found["words"][key])


def _difference(one: Mapping[str, Any] | None) -> list[str]:
    if one is None:
        return [""] * 4
    p_values = (ablation_text.p_value(one[key]) for key in ("p", "p_holm"))
    return [ablation_text.points(one["difference"], True), ablation_text.interval(one), *p_values]


def print_latency(found: Mapping[str, Any]) -> None:
    """Print what `timings.measure` found: times, then costs, then what must be said of them."""
    from igkd_search import latency_table

    of = f" of {found['architecture']}" if "architecture" in found else ""
    for title, head, rows in (
        (f"latency{of}", latency_table.HEAD, latency_table.timing_rows(found)),
        ("costs", latency_table.COSTS, latency_table.cost_rows(found)),
    ):
        plain = [[cell.replace("\u00d7", "x") for cell in row] for row in rows]
        console.print_table(title, head, plain)
    said = {"times": "ms a call, median (interquartile range) of n rounds"}
    console.print_pairs("measured", said | latency_table.notes(found))
