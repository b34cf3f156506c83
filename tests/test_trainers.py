"""Several processes for one command: each is told the same, on its own device, and looked at."""

import json
import sys
from pathlib import Path

import pytest

from igkd_search import stages, trainers
from igkd_search.crew import Crew, Launcher
from igkd_search.errors import ProcessError

COMMAND = ["train", "best.toml", "-o", "final"]


def test_every_process_is_told_the_same_and_only_to_train(tmp_path: Path) -> None:
    found = trainers.jobs(COMMAND, Crew(Launcher.local, 2), tmp_path)
    whole = (sys.executable, "-m", "igkd_search", *COMMAND, "--train-only")
    assert [job.command for job in found] == [whole, whole]
    assert [job.log.name for job in found] == ["trainer-0.log", "trainer-1.log"]
    assert all(job.environment["IGKD_WORKERS"] == "2" for job in found)


def test_each_has_its_gpu(tmp_path: Path) -> None:
    crew = Crew(Launcher.local, 4, 2, ("0", "GPU-1"))
    found = trainers.jobs(COMMAND, crew, tmp_path)
    seen = [job.environment["CUDA_VISIBLE_DEVICES"] for job in found]
    assert seen == ["0", "0", "GPU-1", "GPU-1"]
    assert {job.environment["IGKD_DEVICE"] for job in found} == {"cuda"}


def test_epochs_are_counted_by_records_and_checkpoints(tmp_path: Path) -> None:
    assert trainers.epochs_done(tmp_path / "runs") == 0
    finished, begun, broken = (tmp_path / "runs" / "kd" / f"seed-{n}-abc" for n in range(3))
    for folder in (finished, begun / "checkpoints", broken):
        folder.mkdir(parents=True)
    (finished / "run.json").write_text(json.dumps({"records": [{}, {}, {}]}))
    (broken / "run.json").write_text("{")
    for name in ("epoch-0001.safetensors", "epoch-0002.safetensors", ".epoch-0009.tmp"):
        (begun / "checkpoints" / name).write_text("")
    assert trainers.epochs_done(tmp_path / "runs") == 3 + 2


def in_python(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Have processes run these lines in place of igkd."""
    jobs = trainers.jobs

    def other(*arguments: object) -> object:
        from dataclasses import replace

        command = (sys.executable, "-c", "\n".join(lines))
        return [replace(job, command=command) for job in jobs(*arguments)]  # type: ignore[arg-type]

    monkeypatch.setattr(trainers, "jobs", other)


def test_it_ends_with_its_processes_and_has_counted_their_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "kd" / "seed-1-abc"
    in_python(
        monkeypatch,
        "import pathlib",
        f"run = pathlib.Path({str(run)!r})",
        "run.mkdir(parents=True, exist_ok=True)",
        "(run / 'run.json').write_text('{\"records\": [{}, {}]}')",
    )
    said: list[tuple[int, int]] = []
    finish = stages.Stage.finish

    def finished(stage: stages.Stage, note: str | None = None) -> None:
        said.append((stage.done, stage.total))
        finish(stage, note)

    monkeypatch.setattr(stages.Stage, "finish", finished)
    logs = tmp_path / "logs"
    trainers.train(COMMAND, Crew(Launcher.local, 2), logs, tmp_path / "runs", 2)
    assert said == [(2, 2)]
    assert sorted(path.name for path in logs.iterdir()) == ["trainer-0.log", "trainer-1.log"]


def test_one_that_cannot_be_kept_running_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_python(monkeypatch, "raise SystemExit('no such student')")
    with pytest.raises(ProcessError, match="no such student"):
        trainers.train(COMMAND, Crew(Launcher.local, 1), tmp_path, tmp_path / "runs", 2)
