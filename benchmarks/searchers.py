"""Searches of one question by several methods, each worked off until its epochs are spent.

A search here is a study of the project like any other: its worker, its samplers, its pruner, its
database. What is added is a count of the epochs: when they are spent the worker is asked to leave,
as by a signal. What a search has shown is kept as a file, and it is not searched again.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout

from igkd_search import (
    database,
    draining,
    fitting,
    launch,
    processes,
    results,
    spec,
    supervisor,
    vault,
    worker,
)

SPENT = "its epochs are spent"


@dataclass(frozen=True)
class Method:
    """Who proposes and who prunes."""

    title: str
    sampler: str
    pruner: str
    colour: str

    @property
    def prunes(self) -> bool:
        return self.pruner != "none"


METHODS = {
    "random": Method("random", "random", "none", "#7f7f7f"),
    "tpe": Method("TPE", "tpe", "none", "#e69f00"),
    "tpe-hyperband": Method("TPE + Hyperband", "tpe", "hyperband", "#0072b2"),
    "gp-hyperband": Method("GP + Hyperband", "gp", "hyperband", "#009e73"),
}
MORE_TRIALS = 2
"""How many times as many trials the epochs are expected to buy with pruning, by which TPE and GP
settle how many to try by chance: with rungs at 3, 9 and 27 Hyperband's brackets take 12.9 of 27
epochs on average, if one trial in three goes on."""
FIRST_RUNG = 1 / 9
"""Share of a trial's epochs before it may be pruned first; the project's default, a quarter, leaves
too little to save."""


@dataclass(frozen=True)
class Search:
    """One method with one seed; it may spend as many epochs as all others."""

    method: str
    study: spec.Study
    epochs: int

    @classmethod
    def of(cls, method: str, seed: int, asked: spec.Study, device: str = "cpu") -> "Search":
        """`asked.search.trials` are those of a search without pruning."""
        chosen, trials = METHODS[method], asked.search.trials
        first = max(1, round(asked.trial.epochs * FIRST_RUNG))
        search = {
            "sampler": chosen.sampler,
            "sampler_options": {},
            "pruner": chosen.pruner,
            "pruner_options": {"min_resource": first} if chosen.prunes else {},
            "seed": seed,
            "start": [],  # or all methods would begin with the same good point
            "trials": trials * (MORE_TRIALS if chosen.prunes else 1),
            "checkpoint_every": asked.trial.epochs,  # a trial takes seconds
        }
        plain = asked.model_dump(mode="json")
        plain["search"] |= search
        study, epochs = spec.Study.model_validate(plain), trials * asked.trial.epochs
        # with other settings or elsewhere it is another search, which the same home may hold
        digest = spec.fingerprint([study.question(), study.search.trials, device])[:6]
        name = f"{asked.name}-{method}-{seed}-{digest}"
        return cls(method, study.model_copy(update={"name": name}), epochs)

    def file(self, home: Path) -> Path:
        """Where is kept what it has shown."""
        return home / "search" / f"{self.study.name}.json"

    def shown(self, home: Path) -> dict[str, Any]:
        """What a finished one has shown: its curve and how its trials ended."""
        found: dict[str, Any] = json.loads(self.file(home).read_bytes())
        return found


def work_off(searches: Sequence[Search], home: Path, device: str) -> None:
    """Search what is neither finished nor at work in another process.

    KeyboardInterrupt when a signal had it leave; the same call goes on there.
    """
    for search in searches:
        kept = search.file(home)
        kept.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(kept.with_suffix(".lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            continue
        with held:
            if not kept.exists():
                vault.write_whole(kept, json.dumps(run(search, home, device)).encode())
                print(f"{search.study.name}: best {search.shown(home)['best']:.1%}", flush=True)


def run(search: Search, home: Path, device: str) -> dict[str, Any]:
    """Spend what is left of the epochs of one search, and say what it has shown."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with closing(database.connect(f"sqlite:///{home / 'igkd.db'}")) as base:
        study, drain = search.study, draining.Drain()
        # a budget of more trials than so many epochs buy, for some end early
        shared = launch.prepare(base, study, home, search.epochs, device=device)
        hired = launch.hire(base, study, home, shared, device, drain)
        hired.train = counted(hired, drain, search.epochs)
        if spent(results.rows(hired.optuna_study)) < search.epochs:
            with drain.on_signals():
                ended = hired.run()
            if drain.reason != SPENT:
                raise KeyboardInterrupt(ended)
        return shown(results.rows(hired.optuna_study))


def counted(hired: worker.Worker, drain: draining.Drain, epochs: int) -> worker.Train:
    """The training of a worker, which asks it to leave when the search has spent its epochs."""
    train = hired.train

    def count(
        config: spec.TrialConfig, seed: int, save_to: Path, resume_from: Path | None
    ) -> Iterator[fitting.EpochRecord]:
        rows = results.rows(hired.optuna_study)
        before = spent([row for row in rows if row.state != "running"])
        for record in train(config, seed, save_to, resume_from):
            if before + record.epoch >= epochs:
                drain.ask(SPENT)
            yield record

    return count


def spent(rows: Sequence[results.Row]) -> int:
    """The epochs of all trials, however they ended; that in which one diverged counts too."""
    return sum(row.epochs + (row.state == "failed") for row in rows)


def shown(rows: Sequence[results.Row]) -> dict[str, Any]:
    """The curve of a search by one worker: [epochs spent, best accuracy] wherever it rises.

    Only complete trials count, at the epoch at which they complete.
    """
    curve: list[tuple[int, float]] = []
    after = 0
    for row in rows:
        after += spent([row])
        best = curve[-1][1] if curve else 0.0
        if row.state == "complete" and row.accuracy is not None and row.accuracy > best:
            curve.append((after, row.accuracy))
    states = [row.state for row in rows]
    return {
        "curve": curve,
        "best": curve[-1][1] if curve else 0.0,
        "epochs": after,
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "proposed_by": results.proposers(rows),
    }


def side_by_side(searches: Sequence[Search], home: Path, workers: int) -> None:
    """Have so many processes of this very command work the searches off.

    ProcessError when one has died, KeyboardInterrupt when a signal had them leave.
    """
    command = [sys.executable, *sys.argv, "--home", str(home), "--only-search"]
    jobs = [
        processes.Job(f"searcher-{number}", command, home / "logs" / f"searcher-{number}.log")
        for number in range(workers)
    ]
    missing = {search.study.name: search for search in searches}

    def look() -> None:
        for name, search in list(missing.items()):
            if search.file(home).exists():
                del missing[name]
                done = f"{len(searches) - len(missing)}/{len(searches)}"
                print(f"{done} {name}: best {search.shown(home)['best']:.1%}", flush=True)

    crew = supervisor.Supervisor(jobs, max_deaths=1)
    crew.run(look)
    if crew.asked is not None:
        raise KeyboardInterrupt(crew.asked.name)
    look()
