"""Worker processes on one database, watched through that database, and what must hold in the end.

Nothing here sleeps to let something happen: a test waits until a worker says on its line where it
is, until the database or a log shows what it waits for, or until a process has ended.
"""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from igkd_search import database, outcomes, registry, slots, spec, study_file
from tests.databases import forkserver
from tests.faults import hired

DEADLINE = 60.0
"""Seconds after which what a test waits for will not come."""
SPACE = {"temperature": {"low": 1.0, "high": 10.0, "log": True}, "kd_weight": {"low": 0, "high": 1}}


def study_of(name: str = "s", trials: int = 1, epochs: int = 3, **search: Any) -> spec.Study:
    """A study that costs nothing: its sampler is chance."""
    asked = {"trials": trials, "sampler": "random", "pruner": "none", "space": SPACE, **search}
    plain = {"name": name, "trial": {"epochs": epochs}, "search": asked}
    return study_file.check(spec.Study, plain, "test")


@dataclass(frozen=True, order=True)
class Note:
    """One line of the journal of trainings; `at` is nanoseconds of this host's monotonic clock."""

    trial: int
    attempt: int
    epoch: int
    at: int
    what: str


class Member:
    """One worker process, as the test sees it."""

    def __init__(self, orders: hired.Orders) -> None:
        context = forkserver()
        self.orders = orders
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=hired.work, args=(orders, theirs))
        self.process.start()
        theirs.close()

    def at(self) -> hired.Place:
        """Wait until it says that it waits, and where."""
        assert self.line.poll(DEADLINE), f"it does not say where it is:\n{self.said()}"
        try:
            place: hired.Place = self.line.recv()
        except EOFError:
            raise AssertionError(f"it has ended:\n{self.said()}") from None
        return place

    def go(self) -> None:
        """Let it go on from where it waits."""
        self.line.send(None)

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def frozen(self) -> bool:
        return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)

    def ended(self, code: int = 0) -> str:
        """What it has said, once it has ended with this code."""
        self.process.join(DEADLINE)
        assert self.process.exitcode == code, f"{self.process.exitcode}\n{self.said()}"
        return self.said()

    def said(self) -> str:
        """Its log so far."""
        return self.orders.log.read_text() if self.orders.log.exists() else ""


class Crew:
    """The workers of one database, and the view that the test has of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.kind = "sqlite" if url.startswith("sqlite") else "postgresql"
        self.base = database.connect(url)
        self.reader = database.connect(url, read_only=True)  # takes no lock from the workers
        self.members: list[Member] = []

    def begin(self, study: spec.Study, trials: int | None = None) -> spec.Study:
        """Register a study, or change its budget."""
        registry.register(self.base, study, trials)
        return study

    def hire(self, study: spec.Study, **orders: Any) -> Member:
        """Start one more worker process; `orders` are fields of hired.Orders."""
        plain = hired.Orders(
            self.url,
            study,
            self.folder / "checkpoints",
            self.folder / f"journal-{study.name}",
            self.folder / f"worker-{len(self.members)}.log",
        )
        self.members.append(Member(replace(plain, **orders)))
        return self.members[-1]

    def close(self) -> None:
        for member in self.members:
            member.kill()
            member.line.close()
            member.process.close()
        self.base.close()
        self.reader.close()

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Look again and again until it holds; the logs of all are shown when it never does."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            if time.monotonic() > deadline:
                logs = "".join(f"\n--- {m.orders.log.name}\n{m.said()}" for m in self.members)
                raise AssertionError(f"never came: {what}{logs}")
            time.sleep(0.02)

    def table(self, study: spec.Study) -> slots.Slots:
        return slots.Slots(self.reader, study.name)

    def trials(self, study: spec.Study) -> list[FrozenTrial]:
        return optuna.load_study(study_name=study.name, storage=self.reader.storage).trials

    def notes(self, study: spec.Study) -> list[Note]:
        """What the trainings of a study have written down, in order."""
        journal = self.folder / f"journal-{study.name}"
        rows = [line.split() for line in journal.read_text().splitlines()]
        assert {row[0] for row in rows} == {study.name}
        return [Note(int(t), int(a), int(e), int(at), what) for _, t, a, e, at, what in rows]

    def repeated(self, study: spec.Study) -> int:
        """How many epochs were begun in vain, those that a death cut short among them."""
        begun = Counter((n.trial, n.epoch) for n in self.notes(study) if n.what == "begun")
        return sum(times - 1 for times in begun.values())

    def check_budget(self, study: spec.Study, trials: int, deaths: int = 0) -> None:
        """Law 7: so many asked for, so many finished, none lost, none twice, none at once."""
        table, found = self.table(study), self.trials(study)
        assert table.counts() == slots.Counts(trials, 0, 0, trials)
        assert sorted(trial.user_attrs["slot"] for trial in found) == list(range(trials))
        assert {trial.state for trial in found} == {TrialState.COMPLETE}
        told = {trial.number: outcomes.of_finished(trial) for trial in found}
        assert {row.trial_number: row.outcome for row in table.rows()} == told
        epochs = list(range(1, study.trial.epochs + 1))
        for trial in found:
            config = study.trial.model_copy(update=trial.params)
            accuracies = {epoch: hired.accuracy_of(config, epoch) for epoch in epochs}
            assert trial.intermediate_values == accuracies
            assert trial.value == accuracies[study.trial.epochs]
        self._check_attempts(study, deaths)

    def _check_attempts(self, study: spec.Study, deaths: int) -> None:
        """No attempt at a slot begins before the one before it has ended, in word and deed."""
        attempts = self.table(study).attempts()
        assert sum(attempt.end == "died" for attempt in attempts) <= deaths
        for before, after in itertools.pairwise(attempts):
            if before.slot == after.slot:
                assert before.ended is not None and before.ended <= after.started
        by_time = sorted(self.notes(study), key=lambda note: note.at)
        for trial in {note.trial for note in by_time}:
            turns = [note.attempt for note in by_time if note.trial == trial]
            assert turns == sorted(turns), f"two attempts at trial {trial} trained at once"
