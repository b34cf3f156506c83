"""Several workers on this machine, with an `igkd` that trains nothing in place of the real one."""

import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import tomlkit
from typer.testing import CliRunner, Result

from igkd_search import cli, console, database, local_workers, registry, slots, supervisor
from igkd_search.crew import Crew, Launcher, Order
from igkd_search.errors import ProcessError
from tests import fake_igkd
from tests.databases import prepared_url

SPACE = {"kd_weight": {"low": 0.0, "high": 1.0}}
GPUS = Crew(Launcher.local, 4, 2, ("1", "MIG-7"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(tomlkit.dumps({"name": "mine", "search": {"trials": 3, "space": SPACE}}))
    return path


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The `igkd` of the children."""
    monkeypatch.setattr(local_workers, "IGKD", (sys.executable, fake_igkd.__file__))
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_igkd.__file__).parents[1]))
    monkeypatch.setenv("IGKD_DEVICE", "cpu")
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


def order(mine: Path, url: str, **options: Any) -> Order:
    told: dict[str, Any] = {"trials": None, "storage": None, "data": None, "device": None}
    told |= {"home": mine.parent / "home", **options}
    return Order(str(mine), registry.find(str(mine)), url=url, **told)


def test_each_gpu_has_its_workers_and_each_worker_its_log(mine: Path) -> None:
    found = local_workers.jobs(order(mine, "sqlite:////nowhere"), GPUS, stops=2)
    assert [job.environment["CUDA_VISIBLE_DEVICES"] for job in found] == [
        "1",
        "1",
        "MIG-7",
        "MIG-7",
    ]
    assert {job.environment["CUDA_DEVICE_ORDER"] for job in found} == {"PCI_BUS_ID"}
    # a GPU that is not there must be an error, not a training on the CPU
    assert {job.environment["IGKD_DEVICE"] for job in found} == {"cuda"}
    assert {job.environment["IGKD_WORKERS"] for job in found} == {"4"}
    assert {job.environment["IGKD_STOPS"] for job in found} == {"2"}
    names = [f"worker-{i}" for i in range(4)]
    assert [job.name for job in found] == names
    assert [job.log for job in found] == [mine.parent / f"home/logs/mine/{n}.log" for n in names]


def test_workers_without_gpus_compute_on_what_was_asked(mine: Path) -> None:
    asked = order(mine, "sqlite:////nowhere", data=Path("images"), device="mps")
    (job, _) = local_workers.jobs(asked, Crew(Launcher.local, 2), 0)
    assert not job.environment.keys() & {"CUDA_VISIBLE_DEVICES", "IGKD_DEVICE"}
    home = str(mine.parent / "home")
    options = ["worker", "mine", "--home", home, "--data", "images", "--device", "mps"]
    assert list(job.command[-8:]) == options


def test_the_materials_are_prepared_on_the_first_gpu(mine: Path) -> None:
    job = local_workers.prepare_job(order(mine, "sqlite:////nowhere", trials=9), GPUS)
    assert job.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert list(job.command[2:4]) == ["prepare", str(mine)]
    assert list(job.command[-2:]) == ["--trials", "9"]


def test_the_budget_is_spent_and_the_password_is_seen_nowhere(
    mine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    socket = prepared_url("postgresql", tmp_path)
    url = re.sub(r"://(\w+):?@", r"://\1:secret@", socket)
    assert "secret" in url
    asked = order(mine, url, trials=5)
    assert local_workers.search(asked, Crew(Launcher.local, 2)) == "budget"
    base = database.connect(socket)
    assert slots.Slots(base, "mine").counts() == slots.Counts(5, 0, 0, 5)
    base.close()
    logs = {path.name: path.read_text() for path in (tmp_path / "home" / "logs" / "mine").iterdir()}
    assert sorted(logs) == ["worker-0.log", "worker-1.log"]
    said = capfd.readouterr().out + "".join(logs.values())
    # each of them has printed what /proc shows of its command
    assert said.count(fake_igkd.__file__) == 3 and "prepare" in said
    assert "secret" not in said
    assert sum(int(found) for found in re.findall(r"spent (\d+)", said)) == 5
    assert said.count("IGKD_STOPS=0 IGKD_WORKERS=2") == 2


@pytest.mark.parametrize(("code", "ours"), [(1, 1), (130, 130), (-9, 137)])
def test_what_prepare_ends_with_is_what_the_command_ends_with(
    mine: Path, tmp_path: Path, code: int, ours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_workers, "in_front", lambda command, environment: code)
    with pytest.raises(SystemExit) as ended:
        local_workers.search(order(mine, prepared_url("sqlite", tmp_path)), GPUS)
    assert ended.value.code == ours


@pytest.mark.parametrize("spent", [True, False])
def test_workers_that_are_given_up_matter_only_while_the_budget_is_not_spent(
    mine: Path,
    tmp_path: Path,
    spent: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = prepared_url("sqlite", tmp_path)
    base = database.connect(url)
    registry.register(base, registry.find(str(mine)))

    class Failing(supervisor.Supervisor):
        def run(self, *_: Any) -> None:
            table = slots.Slots(base, "mine")
            while spent and (claim := table.claim()):
                table.finish(claim, "complete")
            raise ProcessError("worker-0 died 5 times in a row")

    monkeypatch.setattr(local_workers, "in_front", lambda command, environment: 0)
    monkeypatch.setattr(local_workers, "Supervisor", Failing)
    if spent:
        assert local_workers.search(order(mine, url), Crew(Launcher.local, 2)) == "budget"
        assert "worker-0 died 5 times in a row" in caplog.text
    else:
        with pytest.raises(ProcessError, match="worker-0 died"):
            local_workers.search(order(mine, url), Crew(Launcher.local, 2))
    base.close()


def test_the_parent_of_workers_loads_no_torch() -> None:
    code = (
        "import sys; from igkd_search import cli, local_workers, ray_workers, slurm_workers;"
        "print({'torch', 'ray', 'submitit'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("set()\n", "")


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Type commands in this process, whose children run the real ones."""
    monkeypatch.undo()  # the fake
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_igkd.__file__).parents[1]))
    monkeypatch.setattr(console, "_consoles", {})
    package, on_sigterm = logging.getLogger("igkd_search"), signal.getsignal(signal.SIGTERM)
    kept = package.handlers[:], package.level, package.propagate
    verbosity = optuna.logging.get_verbosity()
    yield lambda *typed: CliRunner().invoke(cli.app, [str(argument) for argument in typed])
    package.handlers[:], package.level, package.propagate = kept
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)


def test_two_workers_share_a_search_as_typed(
    igkd: Callable[..., Result], searched: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(searched, home)
    found = igkd("run", "tiny", "--trials", 5, "--workers", 2, "--home", home)
    assert found.exit_code == 0, found.output
    base = database.connect(f"sqlite:///{home / 'igkd.db'}")
    assert slots.Slots(base, "tiny").counts() == slots.Counts(5, 0, 0, 5)
    ended = [attempt.end for attempt in slots.Slots(base, "tiny").attempts()]
    assert ended == ["done"] * 5
    base.close()
    assert "5 complete, 0 pruned, 0 failed, of 5" in found.stdout
    assert found.stdout == igkd("best", "tiny", "--home", home).stdout
    assert "2 workers; their logs are in" in found.stderr
    for number in range(2):
        log = (home / "logs" / "tiny" / f"worker-{number}.log").read_text()
        assert "the budget is spent; igkd best tiny" in log
