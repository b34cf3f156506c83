"""One worker for every unfinished study of a storage, the most urgent first (`igkd worker --any`).

It turns to a study, prepares its materials and works on it until nothing is left there to claim, or
until one of higher priority has open slots; that is looked at between trials. What cannot be served
on this host, for want of its data say, is left to others.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch

from igkd_search import (
    database,
    draining,
    launch,
    registry,
    searches,
    slots,
    spec,
    stages,
    stopping,
    worker,
)
from igkd_search.errors import DataError, MaterialError, StorageError, StorageLost, StudyError

log = logging.getLogger(__name__)

Hire = Callable[[spec.Study, slots.Slots, draining.Drain], worker.Worker]
"""(study, its slots as this process has observed them, how to leave) -> a worker of it."""
_UNSERVED = (DataError, MaterialError, StorageError, StudyError)


@dataclass(frozen=True)
class _Candidate:
    """An unfinished study, and whether a slot of it could be claimed just now."""

    study: spec.Study
    record: database.StudyRow
    claimable: bool

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def priority(self) -> int:
        return self.study.search.priority


def serve(
    base: database.Database,
    home: Path,
    device: str | None = None,
    drain: draining.Drain | None = None,
    *,
    wait: bool = False,
    poll_seconds: float = 5.0,
    hire: Hire | None = None,
) -> str:
    """Work for all studies of a storage until none is unfinished; with `wait`, look on for more.

    Returns why it ended: "budget", or in words who or what had it end before. `hire` makes the
    worker of a study, by default a training one.
    """
    drain = drain or draining.Drain()

    def hired(study: spec.Study, table: slots.Slots, leaving: draining.Drain) -> worker.Worker:
        stops = searches.read(base, study.name).stops
        with launch.spending(base, study.name):
            shared = launch.prepare(base, study, home, device=device, register=False)
        return launch.hire(base, study, home, shared, device, leaving, stops, table)

    pool = _Pool(base, drain, hire or hired, wait, poll_seconds)
    try:
        with drain.on_signals():
            return pool.run()
    except draining.Leaving as interruption:  # between two studies
        return f"{drain.reason}: {interruption}"


class _Pool:
    def __init__(
        self,
        base: database.Database,
        drain: draining.Drain,
        hire: Hire,
        wait: bool,
        poll_seconds: float,
    ) -> None:
        self.base = base
        self.drain = drain
        self.hire = hire
        self.wait = wait
        self.poll_seconds = poll_seconds
        self._tables: dict[str, slots.Slots] = {}
        self._left: dict[str, str] = {}  # what is not served here any more, and why

    def run(self) -> str:
        while not self.drain.asked.is_set():
            found = self._candidates()
            if not found and not self.wait:
                return self._ending()
            if found:
                self._serve(next((each for each in found if each.claimable), found[0]))
                _free_memory()
            else:
                self.drain.asked.wait(self.poll_seconds)
        return self.drain.reason

    def _ending(self) -> str:
        if not self._left:
            return "budget"
        return "nothing left that is served here; " + "; ".join(
            f"study '{name}': {why}" for name, why in self._left.items()
        )

    def _serve(self, chosen: _Candidate) -> None:
        """Turn to a study and stay until it is finished, or there is more to do elsewhere."""
        log.info("study %s (priority %d)", chosen.name, chosen.priority)
        try:
            hired = self.hire(chosen.study, self._tables[chosen.name], self.drain)
            with stages.stage("trials", note=chosen.name) as stage, hired.present():
                self._work(chosen, hired, stage)
        except draining.Leaving as interruption:
            log.info("study %s: %s", chosen.name, interruption)
        except StorageLost:
            if not self.drain.asked.is_set():
                raise
            log.warning("left while the database is away: its slot is adopted")
        except _UNSERVED as error:  # somebody may have deleted it, too
            self._leave_alone(chosen.name, str(error))
        if self.drain.reason == draining.STOP:
            # that was about this study alone
            self._leave_alone(chosen.name, draining.STOP)
            self.drain.forget()

    def _work(self, chosen: _Candidate, hired: worker.Worker, stage: stages.Stage) -> None:
        while not self.drain.asked.is_set():
            counts = hired.slots.counts()
            stage.total = counts.total
            stage.advance(counts.done - stage.done, chosen.name)
            if self._is_more_urgent_than(chosen):
                return
            if hired.run_one(stage) or self.drain.asked.is_set():
                continue
            found = {each.name: each for each in self._candidates()}
            mine = found.pop(chosen.name, None)
            if mine is None or any(each.claimable for each in found.values()):
                return
            self.drain.asked.wait(self.poll_seconds)

    def _is_more_urgent_than(self, chosen: _Candidate) -> bool:
        return any(
            each.claimable and each.priority > chosen.priority for each in self._candidates()
        )

    def _candidates(self) -> list[_Candidate]:
        """Every unfinished study that is served here, the most urgent first."""
        names = (name for name in self.base.study_names() if name not in self._left)
        found = [each for name in names if (each := self._candidate(name)) is not None]
        return sorted(found, key=lambda each: (-each.priority, each.record.created))

    def _candidate(self, name: str) -> _Candidate | None:
        """None when it is finished, has had enough, or is not served here."""
        if name not in self._tables:
            self._tables[name] = slots.Slots(self.base, name)
        table = self._tables[name]
        counts = table.counts()
        if counts.done == counts.total:
            return None
        try:
            record, study = registry.stored(self.base, name)
        except StudyError as error:
            self._leave_alone(name, str(error))
            return None
        fresh = self._may_begin(study)
        claimable = table.claimable(fresh)
        if not fresh and not claimable and not counts.leased:
            return None
        return _Candidate(study, record, claimable)

    def _may_begin(self, study: spec.Study) -> bool:
        if study.search.hours is None and study.search.patience is None:
            return True
        trials = optuna.load_study(study_name=study.name, storage=self.base.storage)
        return stopping.reason(self.base, study, trials) is None

    def _leave_alone(self, name: str, why: str) -> None:
        log.warning("study %s is not served here any more: %s", name, why)
        self._left[name] = why


def _free_memory() -> None:
    """Give back what the former study had on the device, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
