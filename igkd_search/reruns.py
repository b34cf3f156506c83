"""The leading trials of a search once more, on the same split with fresh seeds.

The highest of many noisy accuracies is high partly by luck. Each leading configuration is trained
again as its trial was, or by a longer schedule, and their means, which nobody has chosen by yet,
say which is exported.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from igkd_search import (
    database,
    devices,
    export,
    launch,
    registry,
    results,
    runs,
    space,
    spec,
    training,
)
from igkd_search.errors import TrialError

log = logging.getLogger(__name__)


def leading(base: database.Database, name: str, top: int) -> list[results.Row]:
    """The `top` most accurate trials that may win; fewer where there are no more.

    StudyError when no trial is complete.
    """
    found = results.answers(results.rows(results.open_study(base, name)))
    if not found:
        raise export.no_winner(base, name)
    if len(found) < top:
        log.warning("%d trials are complete: all of them are tried again", len(found))
    return found[:top]


def folder_of(base: database.Database, name: str, home: Path) -> Path:
    """Where the runs of a study's leading trials lie; they go with the study."""
    record, _ = registry.stored(base, name)
    return home / "checkpoints" / registry.reruns_of(record)


def rerun(
    base: database.Database,
    study: spec.Study,
    rows: Sequence[results.Row],
    seeds: int,
    home: Path,
    device: str | None = None,
    *,
    epochs: int | None = None,
    alone: bool = True,
) -> list[spec.Rerun]:
    """Train each of these trials with so many fresh seeds; what is trained already stands.

    `epochs` are by default those of the search; a longer schedule is as complete as its own.

    Returns them with the highest mean first, of equal ones the higher in the search. Empty where
    this is not `alone` and has trained its share.
    """
    shared = launch.prepare(base, study, home, device=device, register=False)
    epochs = epochs or study.trial.epochs
    planned = len(rows) * seeds * epochs
    stock = training.Stock.of(shared, study, devices.choose(device), planned_epochs=planned)
    folder = folder_of(base, study.name, home)
    wanted = [[_run(study, row, index, epochs, folder) for index in range(seeds)] for row in rows]
    every = [run for of_trial in wanted for run in of_trial]
    try:
        runs.train_all(every, lambda run: runs.Bench(stock), alone=alone)
    except TrialError as error:
        if not any(all(run.is_finished for run in of_trial) for of_trial in wanted):
            raise
        log.warning("%s; the trial is left out", error)
    if not alone:
        return []
    found = [
        spec.Rerun(
            trial=row.number,
            searched=row.accuracy or 0.0,
            accuracies=[run.record()["records"][-1]["accuracy"] for run in of_trial],
        )
        for row, of_trial in zip(rows, wanted, strict=True)
        if all(run.is_finished for run in of_trial)
    ]
    return sorted(found, key=lambda each: -each.mean)


def _run(study: spec.Study, row: results.Row, index: int, epochs: int, folder: Path) -> runs.Run:
    assert row.slot is not None
    config = space.decide(study, row.parameters).model_copy(update={"epochs": epochs})
    seed = spec.trial_seed(study.search.seed, row.slot, f"rerun-{index}")
    label = f"trial {row.number}, seed {index + 1}"
    asked = (config.model_dump(mode="json"), seed)
    place = runs.folder_of(folder / f"trial-{row.number:05d}", f"seed-{index + 1}", *asked)
    return runs.Run(label, config, seed, place)
