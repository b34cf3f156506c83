"""What a hired process does: a real Worker, a training that learns nothing, faults at set places.

A process learns from its plan what befalls it where. It dies or freezes by its own hand, so that
no test has to hit a moment from outside.
"""

import errno
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Never

from igkd_search import (
    checkpoints,
    database,
    draining,
    fenced,
    files,
    fitting,
    identities,
    outcomes,
    patience,
    slots,
    spec,
    worker,
)

Place = tuple[str, int]
"""One of worker.POINTS, "train" (before an epoch), or "write after <one of these>" (within the
transaction of such a write, before its proof); and the how many-th time it is reached, from 1."""
Action = Literal["die", "freeze", "wait", "full"]
"""SIGKILL, SIGSTOP, wait for the test's word, or have the disk full from there on."""


@dataclass(frozen=True)
class Orders:
    """All that a worker process is told; seconds throughout."""

    url: str
    study: spec.Study
    checkpoints: Path
    journal: Path
    log: Path
    plan: Mapping[Place, Action] = field(default_factory=dict)
    waits_at: str | None = None
    """A place to wait at each time it is reached."""
    lease: float = 60.0
    host: str | None = None
    """The name of a host that it pretends to be on; by default it is on this one."""
    storage_wait: float = 120.0
    grace: float = draining.GRACE_SECONDS
    poll: float = 0.05
    beat: float | None = None
    """Between signs of life."""


def work(orders: Orders, line: Connection) -> None:
    """Be one worker until its search ends, it is asked to leave, or its plan ends it."""
    _write_to(orders.log)
    if orders.beat is not None:
        worker._BEAT_SECONDS = orders.beat
    way = Way(orders, line)
    way.watch_writes()
    longest = patience.Patience(orders.storage_wait)
    with closing(database.connect(orders.url, wait=True, patience=longest)) as base:
        hired = worker_of(orders, base, way)
        with hired.drain.on_signals(orders.grace):
            print("ended:", hired.run(orders.poll), flush=True)


def worker_of(orders: Orders, base: database.Database, way: "Way") -> worker.Worker:
    """The worker that these orders describe."""
    table = slots.Slots(base, orders.study.name, orders.lease, _identity(orders.host))
    train = _Training(orders.journal, way)
    return worker.Worker(
        orders.study, base, orders.checkpoints, train, _describe, table, reached=way.reached
    )


class Way:
    """Counts how often each place is reached, and does there what the plan says."""

    def __init__(self, orders: Orders, line: Connection) -> None:
        self.orders, self.line = orders, line
        self.turns: dict[str, int] = {}
        self.last = "the start"

    def reached(self, name: str) -> None:
        """Be at a place."""
        self.last = name
        self._be_at(name)

    def watch_writes(self) -> None:
        """Have the writes of this process be places too."""
        prove = fenced.FencedStorage._prove

        def watched(storage: fenced.FencedStorage, session: Any) -> None:
            if getattr(storage._local, "writing", False):
                self._be_at(f"write after {self.last}")
            prove(storage, session)

        setattr(fenced.FencedStorage, "_prove", watched)  # noqa: B010

    def _be_at(self, name: str) -> None:
        turn = self.turns[name] = self.turns.get(name, 0) + 1
        action = self.orders.plan.get((name, turn))
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "full":
            files.replace = _disk_full
        elif action == "wait" or self.orders.waits_at == name:
            self.line.send((name, turn))
            self.line.recv()


class _Training:
    """Yields one record an epoch; its checkpoints are empty, its journal tells what was trained."""

    def __init__(self, journal: Path, way: Way) -> None:
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.way = way

    def __call__(
        self, config: spec.TrialConfig, seed: int, save_to: Path, resume_from: Path | None
    ) -> Iterator[fitting.EpochRecord]:
        done = checkpoints.epoch_of(resume_from) if resume_from else 0
        if done:
            yield _record(config, done)
        for epoch in range(done + 1, config.epochs + 1):
            self.note(save_to, epoch, "begun")
            self.way.reached("train")
            checkpoints.write(checkpoints.path_of(save_to, epoch), {}, {})
            self.note(save_to, epoch, "ended")
            yield _record(config, epoch)

    def note(self, save_to: Path, epoch: int, what: str) -> None:
        """Append one line, whole whoever else writes: study, trial, attempt, epoch, time, what."""
        folder, trial, attempt = save_to.parts[-3:]
        study, now = folder.rpartition("-")[0], time.monotonic_ns()
        row = f"{study} {int(trial[6:])} {int(attempt[8:])} {epoch} {now} {what}\n"
        os.write(self.journal, row.encode())


def accuracy_of(config: spec.TrialConfig, epoch: int) -> float:
    """What an epoch shows, a function of the configuration: a repeated trial shows the same."""
    return round(0.5 + 0.01 * epoch + 0.1 * config.kd_weight, 6)


def _record(config: spec.TrialConfig, epoch: int) -> fitting.EpochRecord:
    accuracy = accuracy_of(config, epoch)
    return fitting.EpochRecord(
        epoch=epoch,
        loss=1.0 / epoch,
        accuracy=accuracy,
        validation_loss=0.5,
        calibration_error=0.0625,
        raw_accuracy=accuracy,
        raw_validation_loss=0.75,
        learning_rate=0.1,
        seconds=0.01,
        images_per_s=100.0,
        confusion=((epoch, 0), (1, 2)),
    )


def _describe(config: spec.TrialConfig) -> Mapping[str, outcomes.Attribute]:
    return {"architecture": "none", "latency_ms": 1.5}


def _identity(host: str | None) -> identities.Identity:
    mine = identities.this_process()
    return mine if host is None else replace(mine, host=host, boot_id=f"boot of {host}")


def _disk_full(path: Path, data: bytes) -> Never:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_to(log: Path) -> None:
    """Send all that is said, a traceback too, to a file that the test reads."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, force=True)
    # the console would import rich, which costs each process half a second
