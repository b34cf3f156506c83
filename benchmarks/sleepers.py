"""A worker process whose trainings only sleep, and what it tells of its time.

It lives as long as the benchmark and keeps its databases open, so that what a process does once in
its life is not counted against trials.
"""

import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import optuna

from igkd_search import database, fitting, registry, slots, spec, study_file, worker

EPOCHS = 10
SPACE = {
    "temperature": {"low": 1.0, "high": 10.0, "log": True},
    "kd_weight": {"low": 0, "high": 1},
    "overlay_probability": {"low": 0.0, "high": 0.5},
    "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
}
worker._BEAT_SECONDS = 0.0  # an epoch of a 60 s trial is long enough for a sign of life in each


@dataclass(frozen=True)
class Order:
    """Work on a study at a database, with trials that sleep `seconds` on average.

    It begins `after` so many seconds, since workers of one search seldom begin at one moment.
    """

    url: str
    study: spec.Study
    seconds: float
    after: float = 0.0


@dataclass
class Told:
    """Of one worker, in seconds: its work until its last trial was finished, what it slept of it,
    and each claim's latency."""

    worked: float = 0.0
    slept: float = 0.0
    trials: int = 0
    claims: list[float] = field(default_factory=list)


def study_of(name: str, trials: int) -> spec.Study:
    """The space of the digits study, with its sampler and its pruner."""
    asked = {"trials": trials, "sampler": "tpe", "pruner": "hyperband", "space": SPACE}
    plain = {"name": name, "trial": {"epochs": EPOCHS}, "search": asked}
    return study_file.check(spec.Study, plain, "the benchmark")


def fill(base: database.Database, name: str, trials: int) -> None:
    """Let a study have finished trials of before, all over its space."""
    study = optuna.load_study(study_name=name, storage=base.storage)
    ranges = {
        field: optuna.distributions.FloatDistribution(span.low, span.high, span.log)
        for field, span in study_of(name, 1).search.space.items()
    }
    epochs = {epoch: accuracy_of(epoch) for epoch in range(1, EPOCHS + 1)}
    for number in range(trials):
        share = (number + 0.5) / trials
        point = {field: each.low + share * (each.high - each.low) for field, each in ranges.items()}
        finished = optuna.trial.create_trial(
            params=point,
            distributions=ranges,
            value=epochs[EPOCHS],
            intermediate_values=epochs,
        )
        study.add_trial(finished)


def accuracy_of(epoch: int) -> float:
    """The same in every trial, so that none is pruned."""
    return 0.05 * epoch


def serve(line: Connection, urls: list[str]) -> None:
    """Warm up at each database, then take orders: say ready, work at the word, tell; None ends."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bases = {url: database.connect(url) for url in urls}
    for url, base in bases.items():
        warm_up = study_of(f"warm-{os.getpid()}", 1)
        registry.register(base, warm_up)
        fill(base, warm_up.name, 5)  # or the sampler would not load its model
        work(base, Order(url, warm_up, 0.0), line)
    while (order := line.recv()) is not None:
        line.send(work(bases[order.url], order, line))


def work(base: database.Database, order: Order, line: Connection) -> Told:
    """One worker of a study, from the word to begin until the budget is spent."""
    told = Told()

    class Timed(slots.Slots):
        def claim(self, fresh: bool = True) -> slots.Claim | None:
            asked = time.perf_counter()
            found = super().claim(fresh)
            if found is not None:
                told.claims.append(time.perf_counter() - asked)
            return found

    def train(
        config: spec.TrialConfig, seed: int, save_to: Path, resume_from: Path | None
    ) -> Iterator[fitting.EpochRecord]:
        chance = random.Random(seed)
        for epoch in range(1, EPOCHS + 1):
            asleep = time.perf_counter()
            time.sleep(order.seconds / EPOCHS * chance.uniform(0.5, 1.5))
            told.slept += time.perf_counter() - asleep
            yield record(epoch)

    def reached(point: str) -> None:
        if point == "finished":
            told.worked = time.perf_counter() - began
            told.trials += 1

    with tempfile.TemporaryDirectory() as folder:
        table = Timed(base, order.study.name)
        hired = worker.Worker(
            order.study, base, Path(folder), train, describe, table, show=show, reached=reached
        )
        line.send("ready")
        line.recv()
        time.sleep(order.after)
        began = time.perf_counter()
        hired.run(poll_seconds=0.5)
    return told


def show(_config: spec.TrialConfig, seed: int) -> bytes:
    """A document as large as that of a trial of the digits study, and no other's."""
    return random.Random(seed).randbytes(3000)


def record(epoch: int) -> fitting.EpochRecord:
    """What a training says of an epoch."""
    return fitting.EpochRecord(
        epoch=epoch,
        loss=1.0,
        accuracy=accuracy_of(epoch),
        validation_loss=1.0,
        calibration_error=0.1,
        raw_accuracy=accuracy_of(epoch),
        raw_validation_loss=1.0,
        learning_rate=0.1,
        seconds=1.0,
        images_per_s=1000.0,
        confusion=((5, 1), (1, 5)),
    )


def describe(config: spec.TrialConfig) -> Mapping[str, float | int | str]:
    """As many attributes as a real trial carries."""
    return {
        "architecture": "none",
        "parameters": 1,
        "compression": 1.0,
        "latency_ms": 1.0,
        "device": "cpu",
        "threads": 1,
        "step": "eager",
    }
