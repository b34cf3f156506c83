"""What every benchmark shares: alternating repeats of two sides, and one line of JSON at the end.

Both sides run in one process, A B A B, so that a drift of the machine meets both; the ratio is
taken pair by pair and the median is the claim. Nothing else may run on the machine meanwhile.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from igkd_search import registry, spec


def arguments(description: str) -> argparse.Namespace:
    """`--quick` (at most 60 s on two cores), `--repeats`, `--device` and `--data`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="at most 60 s on two cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as arrays, for digits")
    return parser.parse_args()


def study_of(options: argparse.Namespace, teacher_epochs: int) -> spec.Study:
    """The digits, or 2,000 images of the arrays in --data; with a teacher of so many epochs."""
    study = registry.find("digits" if options.data is None else "cifar10_subset")
    teacher = study.teacher.model_copy(update={"epochs": teacher_epochs, "minimum_accuracy": 0.0})
    data = study.data
    if options.data is not None:
        data = data.model_copy(update={"path": str(options.data.absolute())})
    return study.model_copy(update={"teacher": teacher, "data": data})


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each side in each repeat, after one warm-up of both."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for side, row in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                row.append(time.perf_counter() - began)
    return times


def conclude(
    claim: str, ours: list[float], theirs: list[float], target: float, device: str, **more: Any
) -> None:
    """Print both sides, then one line of JSON; a ratio (theirs / ours) above 1: ours is faster."""
    ratios = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
    print(f"ours   {statistics.median(ours):.3f} s (median of {len(ours)})")
    print(f"theirs {statistics.median(theirs):.3f} s")
    ratio = statistics.median(ratios)
    line = {
        "claim": claim,
        "ratio": round(ratio, 3),
        "target": target,
        "holds": ratio >= target and all(more.get("conditions", {}).values()),
        "n": len(ratios),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "device": device,
        "threads": torch.get_num_threads(),
        **more,
    }
    print(json.dumps(line))
