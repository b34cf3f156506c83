"""Actors that share a search on a local cluster; and what may go wrong, with a Ray of the test."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from igkd_search import database, draining, launch, ray_workers, registry, slots, spec
from igkd_search import workers as register
from igkd_search.crew import Crew, Launcher, Order
from igkd_search.errors import MaterialError, ProcessError, StudyError
from igkd_search.identities import this_process
from tests.databases import prepared_url

ray: Any = pytest.importorskip("ray", reason="pip install igkd-search[ray]")


@pytest.fixture
def base(tmp_path: Path, study: spec.Study) -> Iterator[database.Database]:
    opened = database.connect(prepared_url("sqlite", tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray on this machine, without what it would tell the world or show in a browser."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # the actors import what this process imports
    monkeypatch.setenv("PYTHONPATH", str(Path(ray_workers.__file__).parents[1]))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def order(base: database.Database, study: spec.Study, home: Path, trials: int) -> Order:
    return Order("tiny", study, trials, base.url, base.url, home, None, "cpu")


def crew(workers: int, per_gpu: int = 0) -> Crew:
    return Crew(Launcher.ray, workers, per_gpu)


@pytest.mark.usefixtures("cluster", "shared")
def test_two_actors_prepare_a_search_and_spend_its_budget_exactly(
    base: database.Database, study: spec.Study, home: Path
) -> None:
    asked = order(base, study, home, 4)
    assert ray_workers.search(asked, crew(2)) == "budget"
    table = slots.Slots(base, "tiny")
    assert table.counts() == slots.Counts(4, 0, 0, 4)
    found = register.rows(base, "tiny", this_process())
    assert {row.state for row in found} == {"left"}
    assert {row.pid for row in found}.isdisjoint({os.getpid()})
    assert {path.name for path in asked.logs.iterdir()} >= {"prepare.log", "ray-0.log", "ray-1.log"}


def task(**options: Any) -> ray_workers.Task:
    told: dict[str, Any] = {"url": "sqlite:////a.db", "question": registry.find("digits")}
    told |= {"trials": None, "home": Path("home"), "device": None, "stops": 0, "logs": Path("logs")}
    return ray_workers.Task(**told | options)


class FakeRay:
    """Actors that never leave this process: each gives what it is told to, when it is looked at."""

    exceptions = ray.exceptions

    def __init__(self, *ends: Any) -> None:
        self.ends, self.options_of, self.asked = list(ends), dict[str, Any](), list[str]()
        self.looks = 0

    def remote(self, _of: Any = None) -> Any:
        def actor() -> Any:
            number = len(numbers)
            numbers.append(number)
            work = SimpleNamespace(remote=lambda task, name: number)
            return SimpleNamespace(work=work, leave=SimpleNamespace(remote=self.asked.append))

        def options(**told: Any) -> Any:
            self.options_of = told
            return SimpleNamespace(remote=actor)

        numbers: list[int] = []
        return SimpleNamespace(options=options)

    def wait(self, refs: list[int], timeout: float) -> tuple[list[int], list[int]]:
        self.looks += 1
        ended = [ref for ref in refs if self.ends[ref] != "never"]
        ended = [ref for ref in ended if self.ends[ref] != "when asked" or self.asked]
        return ended[:1], []

    def get(self, ref: int) -> str:
        if isinstance(self.ends[ref], Exception):
            raise self.ends[ref]
        return str(self.ends[ref])


class Failed(ray.exceptions.RayError):  # type: ignore[misc]
    """What Ray makes of an exception in an actor."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback ... {cause}")
        self.cause = cause


def watched(finished: bool = False) -> Any:
    return SimpleNamespace(look=lambda: None, finished=finished)


def test_gpus_are_shared_and_restarts_never_end() -> None:
    fake = FakeRay("budget", "budget", "budget", "budget")
    assert ray_workers._work(fake, task(), crew(4, per_gpu=2), watched(), []) == []
    assert fake.options_of["num_gpus"] == 0.5
    assert fake.options_of["max_restarts"] == fake.options_of["max_task_retries"] == -1
    ray_workers._work(fake, task(), crew(1), watched(), [])
    assert fake.options_of["num_gpus"] == 0


def test_an_actor_that_fails_is_told_and_the_others_go_on() -> None:
    ours, bug = Failed(MaterialError("another teacher")), Failed(ZeroDivisionError("x"))
    fake = FakeRay("budget", ours, bug)
    problems = ray_workers._work(fake, task(), crew(3), watched(), [])
    assert problems == [
        "ray-1: another teacher; its log: logs/ray-1.log",
        "ray-2: Traceback ... x; its log: logs/ray-2.log",
    ]


def test_a_signal_asks_every_actor_once() -> None:
    fake = FakeRay("when asked", "when asked")
    assert ray_workers._work(fake, task(), crew(2), watched(), [signal.SIGTERM]) == []
    assert fake.asked == ["SIGTERM", "SIGTERM"]


@pytest.mark.parametrize("asked", [[signal.SIGINT], []])
def test_actors_that_were_never_placed_are_not_waited_for(asked: list[signal.Signals]) -> None:
    fake = FakeRay("never", "budget")
    ray_workers._work(fake, task(), crew(2), watched(finished=not asked), asked)
    assert fake.looks == ray_workers._LEAVING_POLLS + 1


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ray_workers._asked() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked == [signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_actor_is_a_worker_that_leaves_when_it_is_asked(
    base: database.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = ray_workers.Member()

    def join(found: database.Database, question: spec.Study, home: Path, *rest: Any) -> str:
        device, drain, stops = rest
        assert (found.url, home, device, stops) == (base.url, Path("home"), "cuda", 3)
        assert isinstance(drain, draining.Drain) and not drain.asked.is_set()
        member.leave("SIGTERM")
        return drain.reason

    monkeypatch.setattr(launch, "join", join)
    told = task(url=base.url, device="cuda", stops=3, logs=tmp_path / "logs")
    assert member.work(told, "ray-0") == "SIGTERM"
    assert "leaving after this epoch: SIGTERM" in (tmp_path / "logs" / "ray-0.log").read_text()


class Connecting:
    """A Ray whose clusters are where the test says."""

    def __init__(self, cluster: bool, gpus: int = 0) -> None:
        self.cluster, self.gpus = cluster, gpus
        self.connected = list[str | None]()

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str | None = None, **options: Any) -> None:
        self.connected.append(address)
        if address == "auto" and not self.cluster:
            raise ConnectionError("no running Ray instance")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": self.gpus} if self.gpus else {"CPU": 2.0}

    def nodes(self) -> list[int]:
        return [0]

    def shutdown(self) -> None:
        self.connected.append("gone")


@pytest.mark.parametrize(
    ("cluster", "address", "expected"),
    [
        (True, None, ["auto", "gone"]),
        (False, None, ["auto", None, "gone"]),
        (True, "head:6379", ["auto", "gone"]),
        (False, "head:6379", ["auto"]),
    ],
)
def test_the_cluster_at_hand_is_used_else_this_machine_unless_another_was_meant(
    cluster: bool, address: str | None, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Connecting(cluster)
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    refused = pytest.raises(StudyError, match="RAY_ADDRESS = head:6379: no running Ray instance")
    with refused if expected == ["auto"] else nullcontext(), ray_workers._cluster():
        pass
    assert found.connected == expected


def test_gpus_that_a_cluster_lacks_are_refused_or_waited_for(
    base: database.Database, study: spec.Study, caplog: pytest.LogCaptureFixture
) -> None:
    told = task(url=base.url, question=study)
    registry.register(base, study)
    with pytest.raises(StudyError, match="--gpus 2: the cluster has no GPU"):
        ray_workers._begin(Connecting(True), told, crew(4, per_gpu=2))
    ray_workers._begin(Connecting(True, gpus=1), told, crew(4, per_gpu=2))
    assert "2 GPUs asked for, 1 there: workers wait for more nodes" in caplog.text


def test_a_search_with_failures_ends_well_only_with_its_budget_spent(
    base: database.Database, study: spec.Study, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(base, study)
    monkeypatch.setattr(ray_workers, "_cluster", lambda: nullcontext(Connecting(True)))
    monkeypatch.setattr(ray_workers, "_work", lambda *_: ["ray-0: lost"])
    with pytest.raises(ProcessError, match="ray-0: lost"):
        ray_workers.search(order(base, study, home, 1), crew(1))
    table = slots.Slots(base, "tiny")
    claim = table.claim()
    assert claim is not None
    table.finish(claim, "complete")
    assert ray_workers.search(order(base, study, home, 1), crew(1)) == "budget"
