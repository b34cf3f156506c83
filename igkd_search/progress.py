"""How a search goes, as one plain dict: what `igkd status` shows, and machines read.

Budget, workers, running trials, best so far, pace, and what to type when something is wrong. Only
the database is read, no torch and no materials, and never written.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from igkd_search import database, pace, queued, results, searches, slots, spec, stopping, workers


def status(base: database.Database, name: str) -> dict[str, Any]:
    """How the search of a study goes just now, as `describe`; StorageError for an unknown study."""
    return Reader(base, name).read()


def hosts(
    base: database.Database, name: str, trials: Sequence[results.Row]
) -> dict[int, list[str]]:
    """Number of each trial that took several attempts -> on which host each of them was made."""
    made = defaultdict(list)
    for attempt in slots.Slots(base, name).attempts():
        made[attempt.slot].append(attempt)
    found: dict[int, list[str]] = {}
    before = Counter[int | None]()
    for row in trials:
        # a retry goes on counting where the trial before it ended
        mine = range(before[row.slot] + 1, row.attempts + 1)
        before[row.slot] = row.attempts
        if row.slot is not None and len(mine) > 1:
            found[row.number] = [each.host for each in made[row.slot] if each.attempt in mine]
    return found


class Reader:
    """Reads one study as often as is asked for; trials that have finished are fetched only once."""

    def __init__(self, base: database.Database, name: str) -> None:
        self.base = base
        self.name = name
        self.study = results.open_study(base, name)
        self.slots = slots.Slots(base, name)

    def read(self) -> dict[str, Any]:
        """How the search goes just now, as `describe`; StorageError when it has been deleted."""
        record = self.base.read_study(self.name)
        if record is None:
            raise database.unknown_study(self.base.url, self.name)
        with self.base.transaction() as connection:
            now = connection.scalar(sa.select(self.base.now)) or 0.0
        found = Found(
            study=self.name,
            epochs=record.question["trial"]["epochs"],
            hours=record.question["search"].get("hours"),
            stopped=stopping.reason(self.base, self._limits(record), self.study),
            searched=searches.read(self.base, self.name).seconds,
            now=now,
            queued=len(queued.waiting(self.base, self.name)),
            trials=results.rows(self.study),
            best=results.best(self.study),
            front=results.front(self.study) if results.is_pareto(self.study) else None,
            # after the trials: one that ends in between has its slot done, so it is not lost
            table=self.slots.rows(),
            attempts=self.slots.attempts(),
            register=workers.rows(self.base, self.name, self.slots.identity),
        )
        return describe(found)

    def _limits(self, record: database.StudyRow) -> spec.Study:
        """The study with no more than its search.

        Who looks on need not have installed the architectures that the whole of it names.
        """
        search = spec.Search.model_validate(record.question["search"])
        return spec.Study.model_construct(name=self.name, search=search)


@dataclass(frozen=True)
class Found:
    """What the database says of a search at one moment; `now` is of the database's clock."""

    study: str
    epochs: int
    hours: float | None
    stopped: str | None
    searched: float
    now: float
    queued: int
    trials: Sequence[results.Row]
    best: results.Row | None
    front: Sequence[results.Row] | None
    table: Sequence[slots.SlotRow]
    attempts: Sequence[slots.AttemptRow]
    register: Sequence[workers.WorkerRow]

    @cached_property
    def states(self) -> Counter[str]:
        """How many slots are open, leased and done."""
        return Counter(slot.state for slot in self.table)

    @cached_property
    def present(self) -> list[workers.WorkerRow]:
        """The workers that have not left."""
        return [row for row in self.register if row.state != "left"]

    @cached_property
    def alive(self) -> dict[str, workers.WorkerRow]:
        """Those of them that live, as far as can be told."""
        return {row.worker: row for row in self.present if row.alive}

    @cached_property
    def held(self) -> dict[str | None, slots.SlotRow]:
        """Worker -> the slot that it has, be it alive or not."""
        return {slot.owner: slot for slot in self.table if slot.state == "leased"}

    @cached_property
    def leased(self) -> dict[int | None, slots.SlotRow]:
        """The same by number."""
        return {slot.slot: slot for slot in self.held.values()}

    @cached_property
    def spent(self) -> bool:
        """Whether the budget is worked off."""
        return bool(self.table) and self.states["done"] == len(self.table)

    @cached_property
    def unfinished(self) -> list[slots.SlotRow]:
        """The slots that are still to be worked off; of a stopped search those that have begun."""
        left = [slot for slot in self.table if slot.state != "done"]
        return [slot for slot in left if slot.attempt > 0] if self.stopped else left


def describe(found: Found) -> dict[str, Any]:
    """All that is to be said of a search, as plain JSON; times in seconds.

    `workers` are those that have not left, each waiting, training, silent or dead; `running` the
    trials that have begun and not ended, with `worker` null where the one that had it is gone and
    nobody has taken it over. `stopped` says why nothing fresh begins although the budget is not
    spent, `ended` that nothing is left to do. Null are `front` where one best trial is sought, rate
    and time left while they are not known (`pace` says how they come about).
    """
    trials, best = found.trials, found.best
    failed = [row for row in trials if row.state == "failed"]
    over = {slot.slot for slot in found.table if slot.state == "done"}
    running = [row for row in trials if row.state == "running" and row.slot not in over]
    answer = {
        "study": found.study,
        "budget": {
            "trials": len(found.table),
            "done": found.states["done"],
            "running": found.states["leased"],
            "open": found.states["open"],
            "queued": found.queued,
        },
        "states": dict(Counter(row.state for row in trials)),
        "proposed_by": results.proposers(trials),
        "failures": dict(Counter(row.cause or "told from outside" for row in failed)),
        "running": [_trial(found, row) for row in running],
        "best": None
        if best is None
        else {"trial": best.number, "accuracy": best.accuracy, "parameters": best.parameters},
        "front": None if found.front is None else [_point(row) for row in found.front],
        "workers": [_worker(found, row) for row in found.present],
        "left": len(found.register) - len(found.present),
        "deaths": sum(attempt.end == "died" for attempt in found.attempts),
        "stopped": None if found.spent else found.stopped,
        "ended": found.spent or (found.stopped is not None and not found.unfinished),
    }
    answer |= _pace(found, answer)
    return answer | {"advice": _advice(found, answer)}


def _point(row: results.Row) -> dict[str, Any]:
    """Where a trial lies on the front."""
    latency_ms = row.attributes.get("latency_ms")
    return {"trial": row.number, "accuracy": row.accuracy, "latency_ms": latency_ms}


def _trial(found: Found, row: results.Row) -> dict[str, Any]:
    """A trial that runs, or waits for a worker to take it over."""
    slot = found.leased.get(row.slot)
    worker = None if slot is None else found.alive.get(str(slot.owner))
    said = 0  # where there are two objectives nothing is reported but to the register
    if worker is not None and worker.trial_number == row.number:
        said = worker.epoch or 0
    return {
        "trial": row.number,
        "epochs": max(row.epochs, said),
        "planned": found.epochs,
        "accuracy": row.accuracy,
        "attempt": row.attempts if slot is None else slot.attempt,
        "worker": None if worker is None else worker.worker,
        "parameters": row.parameters,
    }


def _worker(found: Found, row: workers.WorkerRow) -> dict[str, Any]:
    """A worker; what it does is what its slot says, which is newer than its last sign of life."""
    slot = found.held.get(row.worker)
    state = "waiting" if slot is None else "training"
    if not row.alive:
        state = "dead" if row.dead else "silent"
    trial = None if slot is None else slot.trial_number
    current = trial is not None and row.trial_number == trial
    return {
        "worker": row.worker,
        "host": row.host,
        "pid": row.pid,
        "device": row.device,
        "uuid": row.uuid,
        "versions": row.versions,
        "state": state,
        "trial": trial,
        "epoch": row.epoch if current else None,
        "epochs": None if trial is None else found.epochs,
        "images_per_s": row.images_per_s if state == "training" else None,
        "silent": round(row.silent, 1),
    }


def _pace(found: Found, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The rate at which living workers go, the seconds that were searched and those left."""
    living = len(found.alive)
    mean = pace.seconds_a_trial(found.attempts, living)
    taken = [trial for trial in answer["running"] if trial["worker"] is not None]
    speeds = [row["images_per_s"] for row in answer["workers"] if row["images_per_s"]]
    working = min(living, len(found.unfinished))
    left = 0.0 if answer["ended"] else None
    if mean is not None and not answer["ended"]:
        spent = pace.seconds_spent(found.attempts, found.now)
        running = [
            pace.Running(spent[found.held[trial["worker"]].slot], trial["epochs"], found.epochs)
            for trial in taken
        ]
        limit = None if found.hours is None else found.hours * 3600 - found.searched
        waiting = len(found.unfinished) - len(running)
        left = pace.seconds_left(mean, running, living - len(running), waiting, limit)
    return {
        "rate": {
            "trials_per_hour": 3600 * working / mean if mean and working else None,
            "images_per_s": sum(speeds) if speeds else None,
        },
        "seconds": {"searched": found.searched, "left": left},
    }


def _advice(found: Found, answer: Mapping[str, Any]) -> list[str]:
    """What to type, for each thing that somebody should look after."""
    name, says = found.study, []
    if not answer["ended"] and not found.alive:
        says.append(
            f"nobody is at work: type 'igkd run {name}', or 'igkd worker {name}' on any host "
            "that reaches this storage"
        )
    lost = [row for row in found.present if row.worker in found.held and not row.alive]
    if lost and found.alive:
        says.append(
            f"{_several(len(lost), 'worker')} died or fell silent with a trial in hand: another "
            "worker takes it over from its checkpoint by itself"
        )
    if answer["failures"]:
        failed = sum(answer["failures"].values())
        says.append(f"{_several(failed, 'trial')} failed: 'igkd trials {name}' says why")
    if answer["ended"]:
        says.append(f"the search has ended: 'igkd best {name}' shows what it found")
    return says


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
