"""The main job as a user types it: `igkd run digits`, then best, export and train, on real data."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from safetensors.numpy import load_file

from igkd_search import study_file

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["kd_weight", "learning_rate", "overlay_probability", "temperature"]

# A process between, since a child of this one would be charged with the memory of the whole suite.
MEASURE = """
import pathlib, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(str(peak))
sys.exit(code)
"""

# minutes on two cores that nobody else uses; the limit only ends a hang
pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True)
class Answer:
    """What a command printed, and the most memory that its process ever held."""

    output: str
    log: str
    peak_bytes: int


class Folder:
    """An empty folder in which a user types commands; everything is kept in its ./storage."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def type(self, *command: str) -> Answer:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("OMP_NUM_THREADS", None)  # as many threads as a user gets
        found = subprocess.run(
            [sys.executable, "-c", MEASURE, "peak", sys.executable, *command],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        unit = 1 if sys.platform == "darwin" else 1024
        peak = int((self.path / "peak").read_text()) * unit
        return Answer(found.stdout, found.stderr, peak)

    def igkd(self, *arguments: str) -> Answer:
        return self.type("-m", "igkd_search", *arguments)

    def igkd_json(self, *arguments: str) -> Any:
        return json.loads(self.igkd(*arguments, "-f", "json").output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def first(folder: Folder) -> Answer:
    """The main job, once."""
    return folder.igkd("run", "digits", "-f", "json")


@pytest.fixture(scope="module")
def final(folder: Folder, first: Answer) -> Any:
    """The final training of what was found: its result.json."""
    folder.igkd("export", "digits", "-o", "best.toml")
    return folder.igkd_json("train", "best.toml", "-o", "final")


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


def test_the_final_student_was_trained_as_the_winner_says(folder: Folder, final: Any) -> None:
    best = folder.igkd_json("best", "digits")["best"]
    read = study_file.read_exported(folder.path / "best.toml")
    assert read.provenance.trial == best["number"]
    assert {name: getattr(read.trial, name) for name in NAMES} == best["parameters"]
    assert final["configuration"]["trial"] == read.trial.model_dump(mode="json")
