"""The workshop of a final training: its arms decided, the materials of each, a run for a seed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from igkd_search import arms, materials, runs, spec, training, tuning
from igkd_search.arms import Arm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is asked: arms in order, so many seeds of each, and how many trials tune each arm."""

    exported: spec.Exported
    arms: tuple[Arm, ...]
    seeds: int = 1
    tune: int | None = None
    settled: Arm | None = None
    """The arm that was shipped when the test part was opened first, and so is for ever."""

    @property
    def asked(self) -> str:
        """A digest of the configuration: what a folder is about."""
        return spec.fingerprint([self.exported.question(), self.exported.provenance.seed])

    @property
    def shipped(self) -> Arm:
        """The arm whose first seed is delivered."""
        return self.settled or arms.shipped(self.arms, arms.of(self.exported))


def final_seed(exported: spec.Exported, index: int) -> int:
    """The seed of the index-th final student, the same in all arms, and not that of the trial."""
    return spec.trial_seed(exported.provenance.seed, index, "final")


class Workshop:
    """What all runs of a plan share; `tuned` says what the search of each arm has found."""

    def __init__(self, plan: Plan, folder: Path, home: Path, device: torch.device) -> None:
        self.plan, self.folder, self.home, self.device = plan, folder, home, device
        self._at_hand: tuple[Any, runs.Bench, materials.Materials] | None = None
        self.tuned: dict[Arm, dict[str, Any]] = {}
        if plan.tune is not None:
            self.tuned = tuning.settle(
                plan.arms, plan.exported, plan.tune, folder / "tuning", home, str(device)
            )

    @cached_property
    def decided(self) -> dict[Arm, spec.Exported]:
        """Each arm as it is trained."""
        found = {arm: arms.apply(arm, self.plan.exported) for arm in self.plan.arms}
        return found | {
            arm: tuning.tuned(found[arm], self.tuned[arm]) for arm in self.plan.arms if self.tuned
        }

    @cached_property
    def shared(self) -> materials.Materials:
        """The materials of the arm that is shipped."""
        return self.use(self.plan.shipped)[1]

    @cached_property
    def all_runs(self) -> dict[tuple[Arm, int], runs.Run]:
        """Every run, by arm and position of its seed; an arm's together, for they share a stock."""
        known = self.shared.fingerprints
        _warn_of_other_data(self.plan.exported.provenance.fingerprints, known)
        about = {name: known[name] for name in ("data", "teacher")}
        return {
            (arm, index): self._run(arm, index, about)
            for arm in self.plan.arms
            for index in range(self.plan.seeds)
        }

    @property
    def first(self) -> runs.Run:
        """The run whose student is delivered."""
        return self.all_runs[self.plan.shipped, 0]

    def _run(self, arm: Arm, index: int, about: Mapping[str, str]) -> runs.Run:
        exported, seed = self.decided[arm], final_seed(self.plan.exported, index)
        # a killed run of another configuration, or of other data, must not be continued
        asked = (exported.question(), about, seed)
        folder = runs.folder_of(self.folder / "runs" / arm.slug, f"seed-{index + 1}", *asked)
        return runs.Run(f"{arm}, seed {index + 1}", exported.trial, seed, folder)

    def bench_of(self, run: runs.Run) -> runs.Bench:
        """Where a run is trained, and its student comes back to life."""
        return self.use(next(arm for (arm, _), each in self.all_runs.items() if each == run))[0]

    def use(self, arm: Arm) -> tuple[runs.Bench, materials.Materials]:
        """Bench and materials of an arm; those of one kind at a time are kept on the device."""
        exported = self.decided[arm]
        kind = exported.overlays.control, exported.materials.targets
        if self._at_hand is None or self._at_hand[0] != kind:
            self._at_hand = None  # given back before others are brought
            shared = materials.prepare(exported, self.home, self.device)
            planned = len(self.plan.arms) * self.plan.seeds * exported.planned_epochs()
            stock = training.Stock.of(shared, exported, self.device, planned_epochs=planned)
            rows = torch.arange(len(shared.data.labels), device=self.device)
            self._at_hand = kind, runs.Bench(stock, rows), shared
        return self._at_hand[1], self._at_hand[2]


def _warn_of_other_data(stated: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, digest in stated.items():
        if name in found and found[name] != digest:
            log.warning(
                "the %s are not those of the search (sha256 %s, now %s)",
                name,
                digest[:12],
                found[name][:12],
            )
