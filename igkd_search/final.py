"""Final training from an exported file: train and validation rows, the test set read once a model.

Resumable: what is trained is not trained again, what has read the test set does not read it again.
The shipped student is that of the first seed, fixed before training, for any later choice would be
a selection on the test set. With arms the same recipe and seeds are trained with parts of the
method left out, or with controls in their place.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from igkd_search import (
    arms,
    compiling,
    delivery,
    devices,
    final_result,
    runs,
    settled,
    spec,
    users,
)
from igkd_search.arms import Arm
from igkd_search.errors import StorageError
from igkd_search.workshop import Plan, Workshop

log = logging.getLogger(__name__)


def train(
    exported: spec.Exported,
    folder: Path,
    home: Path,
    seeds: int = 1,
    device: str | None = None,
    wanted: Sequence[Arm] = (),
    tune: int | None = None,
    *,
    alone: bool = True,
) -> dict[str, Any]:
    """Train `seeds` students of each arm, evaluate each once on the test set, write `folder`.

    Without arms the configuration is trained as it is. What the folder holds already stays and
    counts: arms and seeds are added to it. Returns result.json (docs/final.md); an empty dict where
    this is not `alone` and has trained its share, for another process evaluates then. StudyError
    when the folder holds another configuration, an arm means nothing, or `device` (devices.choose)
    or IGKD_COMPILE is none.
    """
    chosen = devices.choose(device)
    compiling.asked()
    plan = Plan(exported, tuple(wanted) or (arms.of(exported),), seeds, tune)
    arms.check(plan.arms, exported, exported.search.space if exported.search and tune else ())
    # no study of this storage may name what is read here
    with users.using(home / "vault"):
        while True:
            before = settled.read(plan, folder, home)
            joined = before.joined(plan)
            if before.result is not None and before.covers(joined):
                log.info("%s: finished already; the test set is not read again", folder)
                return before.result
            _make(folder)
            workshop = Workshop(joined, folder, home, chosen)
            runs.train_all(list(workshop.all_runs.values()), workshop.bench_of, alone=alone)
            if not alone:
                return {}
            result = _finish(workshop, plan)
            if result is not None:
                return result


def _finish(workshop: Workshop, plan: Plan) -> dict[str, Any] | None:
    """Deliver and tell; None where another command has added to the folder meanwhile."""
    folder, lock = workshop.folder, FileLock(workshop.folder / "lock")
    with StorageError.when_writing(folder):
        lock.acquire()
    try:
        before = settled.read(plan, folder, workshop.home)
        if before.joined(plan) != workshop.plan:
            return None
        if before.covers(workshop.plan):
            return before.result  # who else has trained here has come to the same end
        settled.settle(workshop.plan, folder)
        earlier = [] if before.result is None else before.result["history"]
        result = final_result.settle(workshop, earlier)
        delivery.write(result, workshop.first.folder, folder)
        runs.clear(folder / "runs", list(workshop.all_runs.values()))
        return result
    finally:
        lock.release()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o"
        ) from error
