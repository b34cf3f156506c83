"""What the folder of a final training has settled already, and what can still be added to it.

From the moment at which the test part is opened first (`plan.json`) a folder is about one
configuration, tunes its arms or not, and ships one arm: changed later, any of these would be a
choice by test results. Its result (`result.json`) says which arms and seeds there are.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from igkd_search import arms, datasets, spec, study_file, vault
from igkd_search.arms import Arm
from igkd_search.errors import StudyError
from igkd_search.workshop import Plan

RESULT, PLAN = "result.json", "plan.json"
_ELSE = "give an empty folder with -o"


@dataclass(frozen=True)
class Settled:
    """What a folder holds: its result, the arms and seeds of that, and what is fixed."""

    folder: Path
    result: dict[str, Any] | None = None
    arms: tuple[Arm, ...] = ()
    seeds: int = 0
    shipped: Arm | None = None
    tune: int | None = None

    def covers(self, plan: Plan) -> bool:
        """Whether nothing of a plan is left to do."""
        done = set(plan.arms) <= set(self.arms) and plan.seeds <= self.seeds
        return self.result is not None and done

    def joined(self, plan: Plan) -> Plan:
        """The plan with what is here already; StudyError where both are no one experiment."""
        if self.covers(plan) and plan.tune in (None, self.tune):
            return replace(plan, tune=self.tune)
        if self.result is not None and "schema_version" not in self.result:
            raise StudyError(
                f"{self.folder / RESULT}: the result of an older igkd-search, to which nothing can "
                f"be added; {_ELSE}"
            )
        if self.shipped is None:
            return plan
        if plan.tune != self.tune:
            here = "no --tune-arms" if self.tune is None else f"--tune-arms {self.tune}"
            raise StudyError(
                f"{self.folder}: its arms were trained with {here}; type the same, or {_ELSE}"
            )
        first = self.arms or (self.shipped,)
        both = (*first, *(arm for arm in plan.arms if arm not in first))
        return replace(plan, arms=both, seeds=max(plan.seeds, self.seeds), settled=self.shipped)


def read(plan: Plan, folder: Path, home: Path) -> Settled:
    """What the folder holds of this configuration; StudyError when it is about something else."""
    path = folder / RESULT
    if not path.exists():
        return _begun(plan, folder)
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        # fields that came later have their defaults
        known = study_file.check(spec.Exported, result["configuration"], str(path))
        found, data = _of_result(folder, result, known), result["fingerprints"]["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path}: not a result of 'igkd train' ({error!r}); {_ELSE}") from error
    same_data = data == datasets.load(plan.exported.data, home).fingerprint
    if replace(plan, exported=known).asked != plan.asked or not same_data:
        what = "configuration" if same_data else "data set"
        raise StudyError(f"{path}: the result of another {what}; {_ELSE}, or remove this one")
    return found


def settle(plan: Plan, folder: Path) -> None:
    """Fix what may not change once test results are known; before the test part is opened."""
    path = folder / PLAN
    if not path.exists():
        told = {"asked": plan.asked, "shipped": str(plan.shipped), "tune": plan.tune}
        vault.write_whole(path, json.dumps(told).encode())


def _begun(plan: Plan, folder: Path) -> Settled:
    """Of a folder whose test part was opened by who died before there was a result."""
    path = folder / PLAN
    if not path.exists():
        return Settled(folder)
    told = json.loads(path.read_bytes())
    if told["asked"] != plan.asked:
        raise StudyError(
            f"{path}: models of another configuration have read the test part here; {_ELSE}"
        )
    return Settled(folder, shipped=arms.read(told["shipped"])[0], tune=told["tune"])


def _of_result(folder: Path, result: dict[str, Any], known: spec.Exported) -> Settled:
    tuning, student = result.get("tuning"), result["student"]
    names = ",".join(result["arms"]) if "arms" in result else str(arms.of(known))
    return Settled(
        folder,
        result,
        tuple(arms.read(names)),
        len(student["seeds"]),
        arms.read(student["arm"])[0] if "arm" in student else arms.of(known),
        None if tuning is None else int(tuning["trials"]),
    )
