"""Warm, interleaved timing of models in PyTorch and ONNX Runtime, for one CPU thread and batch 1.

A laptop's clock drifts by more than teacher and student differ, so every candidate is timed once a
round, in the same order, for many rounds: drift meets all of them alike, and the median of a
candidate drops the rounds in which something else ran. Callers store the result once an
architecture, so that every trial of it carries the same figure.
"""

import contextlib
import gc
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import onnxruntime
import psutil
import torch
from torch import nn

from igkd_search import devices, onnx_export

log = logging.getLogger(__name__)

THREADS = 1
WARM_UPS = 10
BLOCK_NS = 5_000_000  # long against the clock's grain and a call's jitter, short against drift
WATCHED_S = 0.5  # how long other processes are watched; some hundred times the clock of their times
_QUIET = 0.1  # of the cores we may use: more than that in use by others is warned of


@dataclass(frozen=True)
class Stats:
    """One candidate's time a call, over the rounds."""

    median_ms: float
    iqr_ms: float  # the distance between the quartiles
    n: int  # rounds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `as_dict` was made of."""
        return cls(**fields)


@dataclass(frozen=True)
class Timing:
    """One model's time for a single image, in both engines."""

    pytorch: Stats
    onnxruntime: Stats

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `as_dict` was made of."""
        return cls(**{engine: Stats.from_dict(stats) for engine, stats in fields.items()})


def measure(
    models: Mapping[str, nn.Module],
    onnx_files: Mapping[str, Path],
    image_shape: tuple[int, int, int],
    rounds: int = 30,
    advance: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time each model, and its ONNX file, on one image of `image_shape` (C, H, W), interleaved.

    Both mappings have the same names. Models are timed in eval mode on the CPU, from copies.
    `advance` is called after every round. torch's thread count is restored, whatever happens.
    Raises MaterialError for a broken ONNX file.
    """
    assert models.keys() == onnx_files.keys(), (models.keys(), onnx_files.keys())
    image = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0))
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    # Engine by engine, so that a teacher's neighbour in a round is its student in the same engine.
    for name, model in models.items():
        calls["pytorch", name] = _pytorch_call(model, image)
    for name in models:
        calls["onnxruntime", name] = _onnxruntime_call(onnx_files[name], image)
    with using_threads(THREADS), torch.inference_mode():
        times = interleave(list(calls.values()), rounds, advance)
    stats = {key: summarise(row) for key, row in zip(calls, times, strict=True)}
    return {name: Timing(stats["pytorch", name], stats["onnxruntime", name]) for name in models}


def interleave(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    advance: Callable[[], None] | None = None,
    pause: float = 0.0,
) -> list[list[float]]:
    """Return for each call its ms a call in each round; a round times every call once, in order.

    A reading is the mean over a block of calls, as many as last about 5 ms in the warm-up. `pause`
    seconds pass before each, in which the threads of the one before fall asleep.
    """
    blocks = [_block_size(call) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, block, row in zip(calls, blocks, times, strict=True):
            time.sleep(pause)
            row.append(_clocked(call, block) / block / 1e6)
        if advance is not None:
            advance()
    return times


def summarise(times: Sequence[float]) -> Stats:
    """Return median, interquartile range and count of at least two readings in ms."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Stats(median_ms=middle, iqr_ms=high - low, n=len(times))


def machine() -> dict[str, Any]:
    """Describe what a timing is valid for: processor, cores, versions, threads."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "threads": THREADS,
    }


def others(seconds: float = WATCHED_S) -> dict[str, float]:
    """How many cores other processes use just now, by name, the most first; watches so long.

    Those that the system lets nobody look at, or that end meanwhile, are left out.
    """
    before, start = _cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    after, passed = _cpu_seconds(), time.monotonic() - start
    found: dict[str, float] = {}
    for key in before.keys() & after.keys():
        cores = (after[key] - before[key]) / passed
        if cores > 0:
            found[key[1]] = found.get(key[1], 0.0) + cores
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def warn_if_busy(seconds: float = WATCHED_S) -> float:
    """How many cores other processes use just now; warns where that spoils a timing."""
    found = others(seconds)
    used, cores = sum(found.values()), os.cpu_count() or 1
    if used > bearable():
        log.warning(
            "other processes use %.1f of %d cores just now (%s): times will be too long and "
            "scattered; let the machine become quiet and measure again",
            used,
            cores,
            ", ".join(list(found)[:3]),
        )
    return used


def busyness(used: float) -> dict[str, Any]:
    """What a table keeps of `warn_if_busy`, as plain JSON."""
    return {"cores_used_by_others": round(used, 2), "quiet": used <= bearable()}


def bearable() -> float:
    """How many cores other processes may use before times can no longer be trusted."""
    return _QUIET * devices.cores()


def _cpu_seconds() -> dict[tuple[int, str], float]:
    """CPU seconds of every process but this one, by its id and name."""
    mine = os.getpid()
    return {
        (each.pid, each.info["name"] or "?"): each.info["cpu_times"].user
        + each.info["cpu_times"].system
        for each in psutil.process_iter(["name", "cpu_times"])
        if each.pid != mine and each.info["cpu_times"] is not None
    }


def _pytorch_call(model: nn.Module, image: torch.Tensor) -> Callable[[], object]:
    resting = onnx_export.resting_copy(model)
    return lambda: resting(image)


def _onnxruntime_call(path: Path, image: torch.Tensor) -> Callable[[], object]:
    session = onnx_export.session(path, threads=THREADS)
    outputs, inputs = [onnx_export.OUTPUT], {onnx_export.INPUT: image.numpy()}
    return lambda: session.run(outputs, inputs)


def _block_size(call: Callable[[], object]) -> int:
    warm_ups = [_clocked(call, 1) for _ in range(WARM_UPS)]
    return max(1, round(BLOCK_NS / max(1.0, statistics.median(warm_ups))))


def _clocked(call: Callable[[], object], times: int) -> int:
    """Return the ns that `times` calls take, with no garbage collection among them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        for _ in range(times):
            call()
        return time.perf_counter_ns() - start
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads in the body, and with as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
