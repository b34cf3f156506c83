"""What every benchmark shares: alternating repeats of its sides, and one line of JSON at the end.

All sides run in one process, A B A B, so that a drift of the machine meets each; a ratio is taken
repeat by repeat and the median is the claim. Nothing else may run on the machine meanwhile.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from igkd_search import registry, spec

Seconds = list[float]
"""One figure a repeat."""


def parser(description: str) -> argparse.ArgumentParser:
    """`--quick` (at most 60 s on two cores), `--repeats`, `--device` and `--data`."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--quick", action="store_true", help="at most 60 s on two cores")
    found.add_argument("--repeats", type=int, default=5)
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--data", type=Path, help="folder of CIFAR-10 as arrays")
    return found


def parser_of_trainings(description: str) -> argparse.ArgumentParser:
    """The same with `--home`, `--workers` and `--output`, for what trains for long."""
    found = parser(description)
    found.add_argument("--home", type=Path, help="keep what is trained here, and go on")
    found.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    found.add_argument("--output", type=Path, help="folder for the picture and its figures")
    return found


def arguments(description: str) -> argparse.Namespace:
    """The options that all benchmarks have."""
    return parser(description).parse_args()


@contextmanager
def home(folder: Path | None) -> Iterator[Path]:
    """The home folder that was asked for, which is kept, or one for the time of the body."""
    if folder is not None:
        yield folder.absolute()
        return
    with tempfile.TemporaryDirectory() as own:
        yield Path(own)


def size_of(options: argparse.Namespace) -> str:
    """How much is measured: `quick`, or what suits `cuda` or a `cpu`."""
    if options.quick:
        return "quick"
    return "cuda" if torch.device(options.device).type == "cuda" else "cpu"


def study_of(options: argparse.Namespace, teacher_epochs: int) -> spec.Study:
    """The digits, or 2,000 images of the arrays in --data; with a teacher of so many epochs."""
    teacher = {"teacher": {"epochs": teacher_epochs, "minimum_accuracy": 0.0}}
    if options.data is None:
        return altered("digits", options.data, teacher)
    # the paper's networks, of full width, and all views
    papers = {
        "teacher": {"width": 1.0},
        "trial": {"width": 1.0},
        "data": {"limit": 2000},
        "materials": spec.MaterialsOptions().model_dump(mode="json"),
    }
    return altered("cifar10_subset", options.data, teacher, papers)


def altered(name: str, data: Path | None, *changes: Mapping[str, Mapping[str, Any]]) -> spec.Study:
    """A shipped study with these keys of its tables, in order, and of the arrays in `data`."""
    plain = registry.find(name).model_dump(mode="json")
    for table, keys in [each for change in changes for each in change.items()]:
        plain[table] |= keys
    if data is not None:
        plain["data"]["path"] = str(data.absolute())
    return spec.Study.model_validate(plain)


def use_one_thread() -> None:
    """Here and in child processes: records depend on it, and not on how many train at once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[Seconds, Seconds]:
    """Seconds of each side in each repeat, after one warm-up of both."""
    first, second = rotate([timed(ours), timed(theirs)], repeats)
    return first, second


def rotate(sides: Sequence[Callable[[], float]], repeats: int) -> list[Seconds]:
    """What each side says it took in each repeat, all in turn, after one warm-up of all."""
    times: list[Seconds] = [[] for _ in sides]
    for repeat in range(repeats + 1):
        for side, row in zip(sides, times, strict=True):
            seconds = side()
            if repeat:
                row.append(seconds)
    return times


def timed(side: Callable[[], Any]) -> Callable[[], float]:
    """A side that takes its own time, until the device has finished."""

    def run() -> float:
        began = time.perf_counter()
        side()
        wait()
        return time.perf_counter() - began

    return run


def wait() -> None:
    """Until the device has done what it was told."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def speed_up(ours: Seconds, theirs: Seconds, target: float | None) -> dict[str, Any]:
    """theirs / ours, at least the target: 2 is twice as fast. Without a target nothing is held."""
    ratios = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return _figures(ratios, target, target is not None and ratio >= target)


def overhead(ours: Seconds, bare: Seconds, target: float) -> dict[str, Any]:
    """ours / bare - 1, at most the target: 0.05 is 5 % slower."""
    shares = [whole / part - 1 for whole, part in zip(ours, bare, strict=True)]
    return _figures(shares, target, statistics.median(shares) <= target)


def _figures(values: list[float], target: float | None, holds: bool) -> dict[str, Any]:
    return {
        "ratio": round(statistics.median(values), 3),
        "target": target,
        "holds": None if target is None else holds,
        "n": len(values),
        "spread": [round(min(values), 3), round(max(values), 3)],
    }


def conclude(
    claim: str, ours: Seconds, theirs: Seconds, target: float, device: str, **more: Any
) -> None:
    """Print both sides, then one line of JSON; a ratio (theirs / ours) above 1: ours is faster."""
    print(f"ours   {statistics.median(ours):.3f} s (median of {len(ours)})")
    print(f"theirs {statistics.median(theirs):.3f} s")
    figures = speed_up(ours, theirs, target)
    figures["holds"] = figures["holds"] and all(more.get("conditions", {}).values())
    report(claim, figures, device, **more)


def report(claim: str, figures: dict[str, Any], device: str, **more: Any) -> None:
    """The last line of a benchmark."""
    line = {"claim": claim, **figures, "device": device, "threads": torch.get_num_threads(), **more}
    print(json.dumps(line))
