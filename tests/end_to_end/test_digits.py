"""The main job as a user types it: `igkd run digits`, then best, export and train, on real data."""

import csv
import json
import re
from collections.abc import Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna
import pytest
from PIL import Image
from safetensors.numpy import load_file

from igkd_search import datasets, spec, study_file
from tests.end_to_end.user import Answer, Folder

ABLATION = ("--seeds", "3", "--arms", "baseline,kd,ig,kd+ig")
NAMES = ["kd_weight", "learning_rate", "overlay_probability", "temperature"]


@pytest.fixture(scope="module")
def final(folder: Folder, first: Answer) -> Any:
    """The final training of what was found, and its ablation: its result.json."""
    folder.igkd("export", "digits", "-o", "best.toml")
    return folder.igkd_json("train", "best.toml", "-o", "final", *ABLATION)


def test_the_budget_is_spent_exactly_and_somebody_wins(folder: Folder, first: Answer) -> None:
    found = json.loads(first.output)
    counts = found["trials"]
    assert counts["budget"] == 20
    assert counts["complete"] + counts["pruned"] + counts["failed"] == 20
    assert counts["failed"] == 0 and counts["complete"] >= 1
    status = folder.igkd_json("status", "digits")
    budget = {"trials": 20, "done": 20, "running": 0, "open": 0, "queued": 0}
    assert status["budget"] == budget


def test_pruning_saves_epochs(first: Answer) -> None:
    found = json.loads(first.output)
    assert found["trials"]["pruned"] >= 1
    assert found["epochs"]["trained"] < found["epochs"]["without_pruning"] == 20 * 8


def test_most_trials_are_proposed_by_the_model(first: Answer) -> None:
    found = json.loads(first.output)["proposed_by"]
    assert found["model"] >= 12
    assert found["start"] == 1


def test_stock_optuna_reads_the_four_names(
    folder: Folder, first: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path)
    study = optuna.load_study(study_name="digits", storage="sqlite:///storage/igkd.db")
    assert sorted(study.best_trial.params) == NAMES
    best = folder.igkd_json("best", "digits")["best"]
    assert best["parameters"] == study.best_trial.params
    assert (best["number"], best["accuracy"]) == (study.best_trial.number, study.best_value)


def test_the_answer_is_complete(first: Answer) -> None:
    found = json.loads(first.output)
    assert found["teacher"]["accuracy"] >= 0.95
    assert found["student"]["accuracy"] >= 0.95
    assert found["student"]["compression"] > 4
    for model in ("teacher", "student"):
        for engine in ("onnxruntime", "pytorch"):
            assert found[model]["latency"][engine]["median_ms"] > 0


def test_the_log_tells_of_every_stage(first: Answer) -> None:
    for stage in ("start", "teacher", "overlays", "targets", "latency", "trials"):
        assert f" {stage}: " in first.log
    assert "Warning" not in first.log


def test_memory_stays_below_two_gibibytes(first: Answer) -> None:
    assert first.peak_bytes <= 2 * 1024**3


def test_again_is_the_same_answer_without_torch(folder: Folder, first: Answer) -> None:
    code = (
        "import sys; from igkd_search.cli import app; "
        "app(['run', 'digits', '-f', 'json'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    assert folder.type("-c", code).output == first.output
    assert folder.igkd("best", "digits", "-f", "json").output == first.output


def test_the_stock_dashboard_lists_the_study(folder: Folder, first: Answer) -> None:
    import optuna_dashboard

    application = optuna_dashboard.wsgi(f"sqlite:///{folder.path / 'storage' / 'igkd.db'}")

    def get(path: str) -> Any:
        environment: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
        setup_testing_defaults(environment)
        statuses: list[str] = []

        def start_response(status: str, headers: Iterable[tuple[str, str]], *_: Any) -> None:
            statuses.append(status)

        body = b"".join(application(environment, start_response))
        assert statuses == ["200 OK"], body
        return json.loads(body)

    [study] = get("/api/studies")["study_summaries"]
    assert study["study_name"] == "digits"
    assert len(get(f"/api/studies/{study['study_id']}")["trials"]) == 20


def test_the_final_student_is_good_and_the_test_set_was_read_once(
    folder: Folder, final: Any
) -> None:
    assert final["test"] == {"images": 360, "reads": 1, "duplicates": 0}
    assert final["teacher"]["accuracy"] >= 0.95
    assert final["student"]["accuracy"]["mean"] >= 0.95
    assert json.loads((folder.path / "final" / "result.json").read_text()) == final
    assert load_file(folder.path / "final" / "student.safetensors")


def test_every_arm_is_told_with_its_spread_and_compared(folder: Folder, final: Any) -> None:
    assert list(final["arms"]) == ["baseline", "kd", "ig", "kd+ig"]
    for arm in final["arms"].values():
        assert arm["accuracy"]["n"] == 3 and arm["accuracy"]["mean"] >= 0.9
        assert [seed["reads"] for seed in arm["seeds"]] == [1, 1, 1]
    again = folder.igkd("train", "best.toml", "-o", "final", *ABLATION)
    for arm in final["arms"]:
        accuracy = final["arms"][arm]["accuracy"]
        pattern = rf"{re.escape(arm)} +\d+\.\d+ \+- \d+\.\d+ +3\b"
        (line,) = (line for line in again.output.splitlines() if re.match(pattern, line))
        assert f"{100 * accuracy['mean']:.2f} +- {100 * accuracy['sd']:.2f}" in line
    assert "the test set is not read again" in again.log
    assert "points above baseline" in (folder.path / "final" / "ablation.md").read_text()


def test_the_quantised_student_is_nearly_as_good(final: Any) -> None:
    files = final["deployment"]
    assert files["onnx"]["parity"] <= 1e-4
    assert files["onnx"]["accuracy"] == final["student"]["shipped"]["accuracy"]
    assert files["int8"]["accuracy"] >= files["onnx"]["accuracy"] - 0.03
    assert files["int8"]["bytes"] < files["onnx"]["bytes"] / 2


def test_the_example_classifies_a_picture_without_torch(folder: Folder, final: Any) -> None:
    pixels, labels = datasets.load_test(spec.Data(), folder.path / "storage", 10)
    rows = csv.DictReader((folder.path / "final" / "predictions.csv").read_text().splitlines())
    answers = [row["prediction_name"] for row in rows]
    for index in (0, 100):
        picture = folder.path / f"digit-{index}.png"
        Image.fromarray(np.asarray(pixels[index]).transpose(1, 2, 0)).save(picture)
        # -I: nothing of this project can be imported by it
        told = folder.type("-I", "final/example.py", str(picture)).output
        assert answers[index] in told.split(), told
    assert int(answers[0]) == labels[0]


def test_the_final_student_was_trained_as_the_winner_says(folder: Folder, final: Any) -> None:
    best = folder.igkd_json("best", "digits")["best"]
    read = study_file.read_exported(folder.path / "best.toml")
    assert read.provenance.trial == best["number"]
    assert {name: getattr(read.trial, name) for name in NAMES} == best["parameters"]
    assert final["configuration"]["trial"] == read.trial.model_dump(mode="json")
