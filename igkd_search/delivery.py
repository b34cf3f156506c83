"""What a final training leaves for whoever ships the student: files, card, answers, example."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igkd_search import (
    ablation,
    ablation_text,
    deployment,
    faithfulness,
    faithfulness_text,
    files,
    held_out,
    model_card,
    runs,
    vault,
)
from igkd_search.errors import StorageError

CARD, PREDICTIONS = "model_card.md", "predictions.csv"


def write(result: Mapping[str, Any], shipped: Path, folder: Path) -> None:
    """Write all that is delivered into `folder`, result.json last; `shipped` is the run's folder.

    StorageError when it cannot be written.
    """
    for name in (runs.WEIGHTS, deployment.FP32, deployment.INT8):
        with StorageError.when_writing(folder / name):
            files.replace(folder / name, (shipped / name).read_bytes())
    vault.write_whole(folder / PREDICTIONS, _predictions(result, shipped, folder).encode())
    vault.write_whole(folder / CARD, model_card.render(result).encode())
    deployment.write_example(folder)
    if result["ablation"] is not None:
        _write_ablation(result, folder)
    faithfulness.draw(result["faithfulness"], folder / "faithfulness.png")
    vault.write_whole(folder / "result.json", json.dumps(result, indent=2).encode())


def _write_ablation(result: Mapping[str, Any], folder: Path) -> None:
    found = result["ablation"]
    source = result["configuration"]["provenance"]
    title = f"# Ablation: study {source['study']}, trial {source['trial']}"
    written = f"{title}\n\n{ablation.markdown(found)}\n{_faithfulness_by_arm(result)}"
    vault.write_whole(folder / "ablation.md", written.encode())
    vault.write_whole(folder / "ablation.json", json.dumps(found, indent=2).encode())
    for suffix in ("png", "svg"):
        ablation.draw(found, folder / f"ablation.{suffix}")


def _predictions(result: Mapping[str, Any], shipped: Path, folder: Path) -> str:
    """A line for each test image: its label, and what every model answers, the shipped one first.

    Other models are columns named by arm and seed; classes are numbers, as in the labels.
    """
    test = json.loads((folder / held_out.SET).read_bytes())
    names = result["classes"]
    ours = json.loads((shipped / held_out.ANSWERS).read_bytes())
    columns = _others(result, folder)
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(
        ["image", "label", "label_name", "prediction", "prediction_name", "confidence", *columns]
    )
    for image, label in enumerate(test["labels"]):
        answer, confidence = ours["predictions"][image], ours["confidence"][image]
        others = [column[image] for column in columns.values()]
        rows.writerow([image, label, names[label], answer, names[answer], confidence, *others])
    return written.getvalue()


def _others(result: Mapping[str, Any], folder: Path) -> dict[str, list[int]]:
    """What all other models answer, by column: the teacher, int8, then every arm's seeds."""
    shipped = result["student"]["shipped"]["folder"]
    places = {"teacher": result["teacher"]["folder"], "int8": f"{shipped}/int8"}
    for name, arm in result["arms"].items():
        for number, seed in enumerate(arm["seeds"], 1):
            if seed["folder"] != shipped:
                places[f"{name}/{number}"] = seed["folder"]
    return {
        column: json.loads((folder / place / held_out.ANSWERS).read_bytes())["predictions"]
        for column, place in places.items()
    }


def _faithfulness_by_arm(result: Mapping[str, Any]) -> str:
    """How far each arm's students look where the teacher looks, as Markdown."""
    rows = faithfulness_text.by_arm(result["arms"])
    head = ["arm", *faithfulness_text.BY_ARM.values()]
    note = "Mean +- sd over seeds; docs/faithfulness.md says what each figure is."
    return f"**Faithfulness**\n\n{note}\n\n{ablation_text.table(head, rows)}\n"
