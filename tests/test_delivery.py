"""What is written for whoever ships the student: files as they are, answers of every model."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from igkd_search import ablation, delivery, deployment, faithfulness, held_out, model_card, runs


@pytest.fixture
def told(tmp_path: Path) -> tuple[dict[str, Any], Path, Path]:
    """A result of two arms, the shipped run's folder, and where it is delivered to."""
    folder = tmp_path / "final"
    places = {"teacher": "runs/teacher-1", "ours": "runs/kd/seed-1-a", "base": "runs/base/seed-1-b"}
    answers = {"teacher": [0, 1, 1], "ours": [0, 1, 0], "base": [1, 1, 0]}
    for name, place in {**places, "int8": f"{places['ours']}/int8"}.items():
        (folder / place).mkdir(parents=True)
        found = {"predictions": answers.get(name, [0, 0, 0]), "confidence": [0.9, 0.8, 0.7]}
        (folder / place / held_out.ANSWERS).write_text(json.dumps(found))
    for name in (runs.WEIGHTS, deployment.FP32, deployment.INT8):
        (folder / places["ours"] / name).write_bytes(name.encode())
    (folder / held_out.SET).write_text(json.dumps({"labels": [0, 1, 1]}))
    seeds = {name: [{"folder": places[name]}] for name in ("ours", "base")}
    result = {
        "classes": ["cat", "dog, small"],
        "teacher": {"folder": places["teacher"]},
        "student": {"shipped": seeds["ours"][0]},
        "arms": {"baseline": {"seeds": seeds["base"]}, "kd": {"seeds": seeds["ours"]}},
        "ablation": None,
        "faithfulness": {},
    }
    return result, folder / places["ours"], folder


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, and no card."""
    monkeypatch.setattr(model_card, "render", lambda result: "# A card")
    for module in (ablation, faithfulness):
        monkeypatch.setattr(module, "draw", lambda found, path: path.write_bytes(b""))


def test_files_are_those_of_the_shipped_run(told: tuple[dict[str, Any], Path, Path]) -> None:
    result, shipped, folder = told
    delivery.write(result, shipped, folder)
    for name in (runs.WEIGHTS, deployment.FP32, deployment.INT8):
        assert (folder / name).read_bytes() == name.encode()
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "example.py").is_file()
    assert (folder / "model_card.md").read_text() == "# A card"
    assert not (folder / "ablation.md").exists(), "there is nothing to compare"


def test_every_model_has_a_column_of_answers(told: tuple[dict[str, Any], Path, Path]) -> None:
    result, shipped, folder = told
    delivery.write(result, shipped, folder)
    with (folder / "predictions.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert rows[2] == {
        "image": "2",
        "label": "1",
        "label_name": "dog, small",
        "prediction": "0",
        "prediction_name": "cat",
        "confidence": "0.7",
        "teacher": "1",
        "int8": "0",
        "baseline/1": "0",
    }
