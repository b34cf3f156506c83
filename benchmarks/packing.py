"""Several processes that train at once on one device: `training_loop.py --workers 1,2,4`.

Each process is this file, holds a stock of its own and trains an epoch whenever it is told to. All
of a group are told at once, and its figure is the images of all over the seconds that the slowest
took for its training steps. On a GPU run it as it is, and under MPS, which is started outside:

    nvidia-cuda-mps-control -d
    python benchmarks/training_loop.py --workers 1,2,4
    echo quit | nvidia-cuda-mps-control
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import measure
import psutil
import random_stock
import torch

from igkd_search import devices, memory, training

CLAIM = "images/s of several workers on one device against one worker"
STEPS = {"quick": 3, "cpu": 6, "cuda": 300}

Worker = subprocess.Popen[str]


def main(options: argparse.Namespace, device: torch.device) -> None:
    """Print images/s of each number of workers, then the line of JSON of the best of them."""
    kind, counts = random_stock.CIFAR.at(options.batch_size), options.workers
    steps = STEPS[measure.size_of(options)]
    images = steps * kind.batch_size
    with ExitStack() as stack:
        sides = [
            round_of(
                [
                    stack.enter_context(start(device, count, steps, kind.batch_size))
                    for _ in range(count)
                ]
            )
            for count in counts
        ]
        times = measure.rotate(sides, options.repeats)
    rates = {
        count: round(statistics.median(count * images / seconds for seconds in row), 1)
        for count, row in zip(counts, times, strict=True)
    }
    found = mps()
    print(
        f"{kind.side}x{kind.side}, batch {kind.batch_size}, MPS: {found}; images/s of all workers:"
    )
    for count, rate in rates.items():
        print(f"  {count} {'worker' if count == 1 else 'workers':<10} {rate:>10,.1f}")
    # seconds for as many images as one worker trains, so that a ratio is one of images/s
    shares = {
        count: [seconds / count for seconds in row]
        for count, row in zip(counts, times, strict=True)
    }
    best = max(rates, key=lambda count: rates[count])
    measure.report(
        CLAIM,
        measure.speed_up(shares[best], shares[counts[0]], None),
        str(device),
        workers=best,
        against=counts[0],
        images_per_s=rates,
        batch_size=kind.batch_size,
        image_size=kind.side,
        steps=steps,
        mps=found,
    )


def start(device: torch.device, workers: int, steps: int, batch_size: int) -> Worker:
    """A process of its own, one of so many, that trains `steps` steps for each line it is sent."""
    pipe = subprocess.PIPE
    command = [sys.executable, __file__, str(device), *map(str, (workers, steps, batch_size))]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def round_of(group: list[Worker]) -> Callable[[], float]:
    """Seconds of the slowest process of a group when all train an epoch at the same time."""

    def side() -> float:
        for worker in group:
            assert worker.stdin is not None
            worker.stdin.write("train\n")
            worker.stdin.flush()
        return max(map(answer, group))

    return side


def answer(worker: Worker) -> float:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with exit status {worker.wait()}; its error is above")
    return float(line)


def mps() -> dict[str, Any]:
    """Whether CUDA's multi-process service was found: its folder as set, and its daemon."""
    names = (process.info["name"] or "" for process in psutil.process_iter(["name"]))
    return {
        "CUDA_MPS_PIPE_DIRECTORY": os.environ.get("CUDA_MPS_PIPE_DIRECTORY"),
        "daemon": any(name.startswith("nvidia-cuda-mps") for name in names),
    }


def serve(device: torch.device, workers: int, steps: int, batch_size: int) -> None:
    """Train an epoch of `steps` steps for each line of stdin, and answer each with a line."""
    kind = random_stock.CIFAR.at(batch_size)
    devices.use_threads((3, kind.side, kind.side), workers)
    if device.type == "cpu":
        memory.keep_freed()  # as trials do
    config = kind.trial()
    images = random_stock.images_of(kind, steps * kind.batch_size, None)
    stock = random_stock.make(kind, images, device)
    # built while the others are, so that all begin their steps together
    students = (training.build(config, stock, seed) for seed in itertools.count())
    ready = next(students)
    for _ in sys.stdin:
        (record,) = training.train(config, stock, 0, student=ready)
        ready = next(students)
        print(record.seconds, flush=True)


if __name__ == "__main__":
    serve(torch.device(sys.argv[1]), *map(int, sys.argv[2:]))
