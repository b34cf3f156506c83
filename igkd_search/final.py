"""Final training from an exported file: train and validation rows, the test set read once a model.

Resumable: what is trained is not trained again, what has read the test set does not read it again.
The shipped student is that of the first seed, fixed before training, for any later choice would be
a selection on the test set. With arms the same recipe and seeds are trained with parts of the
method left out, or with controls in their place.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from igkd_search import (
    arms,
    compiling,
    datasets,
    delivery,
    devices,
    final_result,
    runs,
    spec,
    study_file,
    users,
)
from igkd_search.arms import Arm
from igkd_search.errors import StorageError, StudyError
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
        before = _before(plan, folder, home)
        plan = plan if before is None else before.joined(plan, folder)
        if before is not None and before.covers(plan):
            log.info("%s: finished already; the test set is not read again", folder)
            return before.result
        _make(folder)
        workshop = Workshop(plan, folder, home, chosen)
        runs.train_all(list(workshop.all_runs.values()), workshop.bench_of, alone=alone)
        if not alone:
            return {}
        with FileLock(folder / "lock"):  # who else has trained here comes to the same end
            return _finish(workshop, before)


def _finish(workshop: Workshop, before: "_Before | None") -> dict[str, Any]:
    earlier = [] if before is None else before.result["history"]
    result = final_result.settle(workshop, earlier)
    delivery.write(result, workshop.first.folder, workshop.folder)
    _clear(workshop)
    return result


def _clear(workshop: Workshop) -> None:
    """Remove what killed runs of another configuration have left."""
    ours = {run.folder for run in workshop.all_runs.values()}
    for folder in (workshop.folder / "runs").glob("*/seed-*"):
        if folder not in ours and not (folder / runs.RECORD).exists():
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Before:
    """The result that a folder holds, and what it has trained."""

    result: dict[str, Any]
    arms: tuple[Arm, ...]
    seeds: int
    tune: int | None

    def covers(self, plan: Plan) -> bool:
        """Whether nothing of a plan is left to do."""
        return set(plan.arms) <= set(self.arms) and plan.seeds <= self.seeds

    def joined(self, plan: Plan, folder: Path) -> Plan:
        """The plan with what is there already; StudyError where both are no one experiment."""
        if self.covers(plan) and plan.tune in (None, self.tune):
            return plan
        if "schema_version" not in self.result:
            raise StudyError(
                f"{folder / 'result.json'}: the result of an older igkd-search, to which nothing "
                "can be added; give an empty folder with -o"
            )
        if plan.tune != self.tune:
            there = "no --tune-arms" if self.tune is None else f"--tune-arms {self.tune}"
            raise StudyError(
                f"{folder / 'result.json'}: its arms were trained with {there}; type the same, or "
                "give an empty folder with -o"
            )
        both = (*self.arms, *(arm for arm in plan.arms if arm not in self.arms))
        return replace(plan, arms=both, seeds=max(plan.seeds, self.seeds))


def _before(plan: Plan, folder: Path, home: Path) -> _Before | None:
    """What the folder holds of this configuration; StudyError when that is something else."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        # fields that came later have their defaults
        known = study_file.check(spec.Exported, result["configuration"], str(path))
        held = _held(result, known)
        data = result["fingerprints"]["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path}: not a result of 'igkd train' ({error!r}); give an empty folder with -o"
        ) from error
    same_data = data == datasets.load(plan.exported.data, home).fingerprint
    if replace(plan, exported=known).asked != plan.asked or not same_data:
        what = "configuration" if same_data else "data set"
        raise StudyError(
            f"{path}: the result of another {what}; give an empty folder with -o, or remove this "
            "one"
        )
    return held


def _held(result: Mapping[str, Any], known: spec.Exported) -> _Before:
    names = ",".join(result["arms"]) if "arms" in result else str(arms.of(known))
    seeds, tuning = len(result["student"]["seeds"]), result.get("tuning")
    tune = None if tuning is None else int(tuning["trials"])
    return _Before(dict(result), tuple(arms.read(names)), seeds, tune)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o"
        ) from error
