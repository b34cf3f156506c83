"""Tasks of SLURM by submitit's local executor, with an `igkd` that trains nothing."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomlkit

from igkd_search import database, local_workers, registry, slots, slurm_workers
from igkd_search.crew import Crew, Launcher, Order
from igkd_search.errors import ProcessError, StudyError
from igkd_search.processes import Job
from tests import fake_igkd
from tests.databases import prepared_url

submitit: Any = pytest.importorskip("submitit", reason="pip install igkd-search[slurm]")
SPACE = {"kd_weight": {"low": 0.0, "high": 1.0}}


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of this machine in place of tasks, and the `igkd` of their children."""
    monkeypatch.setenv(slurm_workers.CLUSTER, "local")
    monkeypatch.setattr(slurm_workers, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(local_workers, "IGKD", (sys.executable, fake_igkd.__file__))
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_igkd.__file__).parents[1]))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(tomlkit.dumps({"name": "mine", "search": {"trials": 3, "space": SPACE}}))
    return path


def order(study: Path, url: str, storage: str | None, trials: int | None = None) -> Order:
    question, home = registry.find(str(study)), study.parent / "home"
    return Order(str(study), question, trials, url, storage, home, None, None)


def crew(workers: int, per_gpu: int = 0, **parameters: str) -> Crew:
    return Crew(Launcher.slurm, workers, per_gpu, parameters=parameters)


def test_tasks_prepare_and_spend_the_budget_and_no_password_lies_in_a_file(
    study: Path, tmp_path: Path
) -> None:
    socket = prepared_url("postgresql", tmp_path)
    url = re.sub(r"://(\w+):?@", r"://\1:secret@", socket)
    asked = order(study, url, None, trials=5)
    assert slurm_workers.search(asked, crew(2, timeout_min="60")) == "budget"
    base = database.connect(socket)
    assert slots.Slots(base, "mine").counts() == slots.Counts(5, 0, 0, 5)
    base.close()
    written = {path: path.read_bytes() for path in asked.home.rglob("*") if path.is_file()}
    names = {path.name for path in written}
    assert names >= {"prepare.log", "worker-0.log", "worker-1.log"}
    assert sum(name.endswith("_submitted.pkl") for name in names) == 3
    assert not [path for path, content in written.items() if b"secret" in content]
    assert os.environ.get("IGKD_STORAGE") is None


def test_a_preempted_task_has_its_workers_leave_and_goes_on_when_it_is_requeued(
    tmp_path: Path,
) -> None:
    ready, log = tmp_path / "ready", tmp_path / "worker.log"
    os.mkfifo(ready)
    code = (
        "import os, signal, sys\n"
        "def leave(*_): print('left', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        f"if os.path.exists({str(log)!r} + '.again'): print('again'); sys.exit(0)\n"
        f"open({str(ready)!r}, 'w').write(os.environ['IGKD_STORAGE'])\n"
        "while True: signal.pause()"
    )
    job = Job("worker-0", [sys.executable, "-S", "-c", code], log)
    executor = submitit.AutoExecutor(folder=tmp_path / "slurm", cluster="local")
    executor.update_parameters(timeout_min=60)
    task = executor.submit(slurm_workers.Task([job], "sqlite:////of-the-task.db"))
    assert ready.read_text() == "sqlite:////of-the-task.db"
    Path(f"{log}.again").touch()
    # to the task, as SLURM sends it before it takes the node away; who started it requeues it
    (process,) = psutil.Process(task._process.pid).children()
    process.send_signal(signal.SIGUSR2)
    assert task._process.wait() == 0 and task.exception() is None
    assert log.read_text() == "left\nagain\n"


def test_a_task_has_the_workers_of_its_gpu(study: Path) -> None:
    asked = order(study, "sqlite:////a.db", "sqlite:////a.db")
    task = slurm_workers._workers(asked, crew(6, per_gpu=2), 1, 2)
    assert [job.name for job in task.jobs] == ["worker-4", "worker-5"]
    for job in task.jobs:
        # which GPU it is, SLURM says
        told = {"IGKD_DEVICE": "cuda", "IGKD_WORKERS": "2", "IGKD_STOPS": "1"}
        assert job.environment == {**told, "PYTHONFAULTHANDLER": "1"}
    (alone,) = slurm_workers._workers(asked, crew(6), 1, 5).jobs
    assert alone.name == "worker-5" and "IGKD_DEVICE" not in alone.environment


def test_a_preparation_that_fails_is_told_with_the_log(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [sys.executable, "-S", "-c", "raise ValueError('no images'); #"]
    monkeypatch.setattr(local_workers, "IGKD", failing)
    url = prepared_url("sqlite", tmp_path)
    with pytest.raises(ProcessError, match=r"its log: .*_0_log.err\nTraceback .*\n.*\nValueErr"):
        slurm_workers.search(order(study, url, url), crew(1))


class FakeJob:
    """A job that is over after so many looks, or never."""

    def __init__(
        self, looks: float, error: Exception | None = None, state: str = "RUNNING"
    ) -> None:
        self.job_id, self.looks, self.error, self.state = "7_0", looks, error, state
        self.cancelled = False
        self.paths = self

    stderr = Path("/nowhere/7_0.err")

    def done(self) -> bool:
        self.looks -= 1
        return self.looks < 0 or self.cancelled

    def cancel(self, check: bool) -> None:
        self.cancelled = True

    def exception(self) -> Exception | None:
        return self.error


def follow(*jobs: FakeJob, spent_after: float = float("inf")) -> tuple[list[str], int]:
    looks = iter(range(10**6))
    seen = [0]

    def look() -> None:
        seen[0] = next(looks)

    problems = slurm_workers.follow(jobs, look, lambda: seen[0] >= spent_after, lambda _: None)
    return problems, seen[0]


def test_tasks_are_followed_to_their_end_and_what_failed_is_told() -> None:
    problems, looks = follow(FakeJob(2), FakeJob(5), FakeJob(1, RuntimeError("gone")))
    assert problems == ["task 7_0 failed; its log: /nowhere/7_0.err"]
    assert looks == 5


def test_once_the_budget_is_spent_what_waits_in_the_queue_is_cancelled() -> None:
    waiting, closing = FakeJob(float("inf"), state="PENDING"), FakeJob(5)
    assert follow(waiting, closing, spent_after=3) == ([], 5)
    assert waiting.cancelled and not closing.cancelled


def test_once_the_budget_is_spent_nobody_waits_for_long() -> None:
    stuck = FakeJob(float("inf"))
    problems, looks = follow(stuck, spent_after=3)
    assert problems == [] and looks < 100 and not stuck.cancelled


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What an executor is told."""
    found: dict[str, Any] = {}

    class Executor:
        def __init__(self, **options: Any) -> None:
            found.update(options)

        def update_parameters(self, **options: Any) -> None:
            found.update(options)

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    yield found


def test_parameters_are_passed_on_under_the_names_that_submitit_knows(
    study: Path, told: dict[str, Any]
) -> None:
    asked = order(study, "sqlite:////a.db", None)
    slurm_workers._executor(asked, crew(2, 1, partition="gpu", timeout_min="30", time="1-0"))
    assert told["folder"] == study.parent / "home" / "logs" / "mine" / "slurm"
    assert (told["name"], told["gpus_per_node"], told["tasks_per_node"]) == ("igkd-mine", 1, 1)
    assert (told["slurm_partition"], told["timeout_min"], told["slurm_time"]) == ("gpu", 30, "1-0")
    # a search may take longer than any number of tasks
    assert told["slurm_max_num_timeout"] == slurm_workers.TIMEOUTS


def test_what_is_no_parameter_or_no_cluster_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order(study, "sqlite:////a.db", None)
    with pytest.raises(StudyError, match="--launcher slurm: Unknown argument 'nonsense' for") as e:
        slurm_workers._executor(asked, crew(1, nonsense="1"))
    assert "\n" not in str(e.value)
    monkeypatch.delenv(slurm_workers.CLUSTER)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StudyError, match='--launcher slurm: Could not detect "srun"'):
        slurm_workers._executor(asked, crew(1))
