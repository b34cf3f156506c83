"""Laws of the timing: interleaved, warm, on one thread, and a bigger model is slower."""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from igkd_search import devices, latency
from igkd_search.errors import MaterialError
from igkd_search.latency import Stats, Timing

SHAPE = (1, 4, 4)


class Clock:
    """A clock that only calls move, so that a slow machine changes no figure."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.log: list[str] = []
        self.collecting: set[bool] = set()
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def call(self, name: str, ms: float) -> Callable[[], None]:
        def tick() -> None:
            self.now += round(ms * 1e6)
            self.log.append(name)
            self.collecting.add(gc.isenabled())

        return tick


def runs(log: list[str]) -> list[tuple[str, int]]:
    """Return the log with repeated names counted."""
    counted: list[tuple[str, int]] = []
    for name in log:
        if counted and counted[-1][0] == name:
            counted[-1] = (name, counted[-1][1] + 1)
        else:
            counted.append((name, 1))
    return counted


def test_candidates_alternate_in_blocks_after_warm_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = [clock.call("A", 1.0), clock.call("B", 2.5), clock.call("C", 40.0)]
    times = latency.interleave(calls, 3, lambda: clock.log.append("round"))
    warm_up, rest = clock.log[:30], clock.log[30:]
    assert runs(warm_up) == [("A", 10), ("B", 10), ("C", 10)]
    assert runs(rest) == [("A", 5), ("B", 2), ("C", 1), ("round", 1)] * 3
    assert times == [[1.0] * 3, [2.5] * 3, [40.0] * 3]


def test_slow_first_calls_do_not_shrink_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    usual, first = clock.call("A", 1.0), clock.call("A", 500.0)
    latency.interleave([lambda: first() if len(clock.log) < 3 else usual()], 1)
    assert len(clock.log) == 10 + 5


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_waits_for_the_end_of_a_block(
    monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    clock = Clock(monkeypatch)
    (gc.enable if enabled else gc.disable)()
    try:
        latency.interleave([clock.call("A", 1.0)], 2)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert clock.collecting == {False}


def test_the_summary_is_worked_by_hand() -> None:
    assert latency.summarise([5.0, 1.0, 2.0, 3.0, 4.0]) == Stats(median_ms=3.0, iqr_ms=2.0, n=5)


def test_timings_pass_through_json() -> None:
    timing = Timing(Stats(3.82, 0.1, 30), Stats(2.16, 0.05, 30))
    assert Timing.from_dict(json.loads(json.dumps(timing.as_dict()))) == timing
    assert Stats.from_dict(timing.pytorch.as_dict()) == timing.pytorch


class Probe(nn.Module):
    """Two wide layers that note how they are called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, width), nn.Linear(width, width)
        self.seen: set[tuple[bool, bool, int, tuple[int, ...]]] = set()

    def __deepcopy__(self, memo: dict[int, object]) -> "Probe":
        return self  # so that the test sees what the timed copy notes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mode = self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()
        self.seen.add((*mode, tuple(images.shape)))
        logits: torch.Tensor = self.second(self.first(images.flatten(1)))
        return logits


def onnx_file(path: Path, width: int) -> Path:
    """Write two layers of that width; by hand, since the exporter takes seconds."""
    shapes = {"first": (16, width), "second": (width, width)}
    weights = [numpy_helper.from_array(torch.rand(s).numpy(), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "net", [image], [logits], weights)
    opset = helper.make_opsetid("", 18)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    )
    return path


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Give torch two threads for the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_bigger_model_is_slower_in_both_engines(tmp_path: Path) -> None:
    widths = {"teacher": 1600, "student-5": 160}
    models = {name: Probe(width) for name, width in widths.items()}
    files = {name: onnx_file(tmp_path / name, width) for name, width in widths.items()}
    rounds: list[None] = []
    table = latency.measure(models, files, SHAPE, 4, lambda: rounds.append(None))
    assert list(table) == ["teacher", "student-5"]
    big, small = table.values()
    assert big.pytorch.median_ms > small.pytorch.median_ms > 0
    assert big.onnxruntime.median_ms > small.onnxruntime.median_ms > 0
    counts = {
        stats.n for timing in table.values() for stats in (timing.pytorch, timing.onnxruntime)
    }
    assert counts == {4} == {len(rounds)}
    for model in models.values():
        assert model.seen == {(False, True, 1, (1, *SHAPE))}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_thread_count_comes_back_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt

    models, files = {"teacher": Probe(16)}, {"teacher": onnx_file(tmp_path / "a.onnx", 16)}
    with pytest.raises(KeyboardInterrupt):
        latency.measure(models, files, SHAPE, 2, fail)
    assert torch.get_num_threads() == 2


def test_the_caller_s_model_keeps_its_mode(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout()).train()
    latency.measure({"a": model}, {"a": onnx_file(tmp_path / "a.onnx", 16)}, SHAPE, 2)
    assert all(module.training for module in model.modules())


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"half")
    with pytest.raises(MaterialError, match=r"teacher\.onnx"):
        latency.measure({"a": nn.Flatten()}, {"a": tmp_path / "teacher.onnx"}, SHAPE, 2)


class Process:
    """What psutil says of a process."""

    def __init__(self, pid: int, name: str | None, seconds: float | None) -> None:
        self.pid = pid
        times = None if seconds is None else SimpleNamespace(user=seconds, system=0.0)
        self.info = {"name": name, "cpu_times": times}


def busy(monkeypatch: pytest.MonkeyPatch, *rows: tuple[int, str | None, float | None]) -> None:
    """Pretend four cores and these processes: id, name, and CPU seconds in the two watched."""
    looks = iter([0.0, 1.0])

    def processes(attributes: list[str]) -> list[Process]:
        share = next(looks)
        return [
            Process(pid, name, None if used is None else 7 + share * used)
            for pid, name, used in rows
        ]

    clock = iter([100.0, 102.0])
    monkeypatch.setattr(psutil, "process_iter", processes)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(devices, "cores", lambda: 4)


def test_other_processes_are_counted_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(1, "init", 0.0), (8, "python", 1.0), (9, "python", 2.0), (7, "chrome", 3.5)]
    unseen = [(os.getpid(), "python", 99.0), (5, "root's", None)]
    busy(monkeypatch, *rows, *unseen, (6, None, 0.5))
    found = latency.others()
    assert list(found.items()) == [("chrome", 1.75), ("python", 1.5), ("?", 0.25)]


@pytest.mark.parametrize(("used", "warned"), [(0.7, False), (0.9, True)])
def test_a_busy_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, used: float, warned: bool
) -> None:
    busy(monkeypatch, (8, "render", used))
    assert latency.warn_if_busy() == pytest.approx(used / 2)
    assert ("other processes use 0.5 of 4 cores just now (render)" in caplog.text) == warned
    assert bool(caplog.records) == warned


def test_what_is_bearable_depends_on_the_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(devices, "cores", lambda: 2)
    assert latency.bearable() == pytest.approx(0.2)


def test_processes_of_this_machine_can_be_watched() -> None:
    assert all(cores > 0 for cores in latency.others(0.01).values())


def test_the_machine_is_described_in_json() -> None:
    found = json.loads(json.dumps(latency.machine()))
    assert found["torch"] == torch.__version__
    assert found["threads"] == 1
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["onnxruntime"]
