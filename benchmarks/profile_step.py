"""Where the time of one training step goes on a CPU, as Markdown for docs/performance.md.

First the parts of a step by the clock and by the time that the CPU worked, which is the same on one
thread of a quiet machine and hardly grows on a busy one; then its operators by torch's profiler,
whose own time makes each dearer: shares are to be read there, not milliseconds. The steps are those
of a trial: `training.Distillation` and the loop of `fitting`, on random images (`random_stock.py`).

    python benchmarks/profile_step.py [--steps 8] [--rows 10]
"""

import argparse
import itertools
import statistics
import time

import random_stock
import torch
from torch.profiler import ProfilerActivity, profile

from igkd_search import devices, fitting, memory, optimizers, small_maps, training

CPU = torch.device("cpu")
WARM_UP = 2  # steps
PARTS = (
    "rate, and the epoch's draws at its first step",
    "pixels, maps, overlay, normalise",
    "forward",
    "soft targets and loss",
    "zero_grad",
    "backward",
    "optimizer",
    "EMA",
    "keep the loss",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="measured, after 2 to warm up")
    parser.add_argument("--rows", type=int, default=10, help="operators shown")
    options = parser.parse_args()
    memory.keep_freed()  # as trials do
    for kind in (random_stock.CIFAR, random_stock.DIGITS):
        threads = devices.use_threads((3, kind.side, kind.side))
        print(f"## {kind.side}x{kind.side}, batch {kind.batch_size}, torch threads: {threads}\n")
        print_parts(kind, options.steps)
        print_operators(kind, options.steps, options.rows)


class Steps:
    """The steps of one epoch, one a call, with the clock read between their parts."""

    def __init__(self, kind: random_stock.Kind, steps: int) -> None:
        config = kind.trial()
        images = random_stock.images_of(kind, steps * kind.batch_size, None)
        stock = random_stock.make(kind, images, CPU)
        self._task = training.Distillation(config, stock, 0)
        self.model = devices.place(training.build(config, stock, 0), CPU).train()
        self._average = optimizers.Average(self.model, config.ema_decay)
        self._optimizer = fitting.optimizer_of(config, self.model)
        self._config, self._steps, self._done = config, steps, 0
        self._losses = torch.zeros(steps)
        self._batches = self._task.epoch(1, config.batch_size, torch.Generator().manual_seed(0))
        self._clock: list[tuple[float, float]] = []
        self.model.register_forward_pre_hook(lambda *_: self._read())
        self.model.register_forward_hook(lambda *_: self._read())

    def step(self) -> list[tuple[float, float]]:
        """Train one step; milliseconds of each of PARTS, and those that the CPU worked in it."""
        config, done = self._config, self._done
        self._clock = []
        self._read()
        batch = next(self._batches)
        rate = optimizers.learning_rate(config.learning_rate, config.warmup, done, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._read()
        loss = self._task.loss(self.model, batch)
        self._read()
        self._optimizer.zero_grad(set_to_none=True)
        self._read()
        torch.autograd.backward(loss)
        self._read()
        self._optimizer.step()
        self._read()
        self._average.update(done)
        self._read()
        self._losses[done] = loss.detach()
        self._read()
        self._done += 1
        return [
            (1000 * (end[0] - start[0]), 1000 * (end[1] - start[1]))
            for start, end in itertools.pairwise(self._clock)
        ]

    def _read(self) -> None:
        self._clock.append((time.perf_counter(), time.process_time()))


def print_parts(kind: random_stock.Kind, count: int) -> None:
    """The median over the steps of each part of a step, and its share of their sum."""
    steps = Steps(kind, WARM_UP + count)
    with small_maps.padded(steps.model, CPU):
        first = steps.step()
        measured = [steps.step() for _ in range(WARM_UP - 1 + count)][WARM_UP - 1 :]
    by_clock, by_cpu = (
        [statistics.median(step[part][which] for step in measured) for part in range(len(PARTS))]
        for which in (0, 1)
    )
    print("| part of a step | ms | CPU ms | share of CPU |\n|---|---|---|---|")
    for part, wall, cpu in zip(PARTS, by_clock, by_cpu, strict=True):
        print(f"| {part} | {wall:.2f} | {cpu:.2f} | {cpu / sum(by_cpu):.1%} |")
    print(f"| whole step | {sum(by_clock):.2f} | {sum(by_cpu):.2f} | |\n")
    rate = 1000 * kind.batch_size / sum(by_clock)
    draws = first[0][0]
    print(f"{rate:.0f} images/s; draws of an epoch of {WARM_UP + count} steps: {draws:.2f} ms.\n")


def print_operators(kind: random_stock.Kind, count: int, rows: int) -> None:
    """The operators with the most self CPU time of a step, and how many calls there are in all."""
    steps = Steps(kind, WARM_UP + count)
    with small_maps.padded(steps.model, CPU):
        for _ in range(WARM_UP):
            steps.step()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(count):
                steps.step()
    averages = profiled.key_averages()
    operators = sorted(averages, key=lambda each: each.self_cpu_time_total, reverse=True)
    total = sum(each.self_cpu_time_total for each in operators)
    calls = sum(each.count for each in operators)
    print("| operator | calls a step | self CPU, ms a step | share |\n|---|---|---|---|")
    for each in operators[:rows]:
        spent = each.self_cpu_time_total
        print(
            f"| `{each.key}` | {each.count / count:.0f} | {spent / 1000 / count:.2f} "
            f"| {spent / total:.1%} |"
        )
    print(f"| all {len(operators)} | {calls / count:.0f} | {total / 1000 / count:.2f} | |\n")


if __name__ == "__main__":
    main()
