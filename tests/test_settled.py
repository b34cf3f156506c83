"""From the first reading of the test part a folder is about one thing; test_final.py has more."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from igkd_search import arms, settled, spec
from igkd_search.arms import Arm
from igkd_search.errors import StudyError
from igkd_search.settled import Settled
from igkd_search.workshop import Plan
from tests import tiny


@pytest.fixture
def plan(study: spec.Study) -> Plan:
    """Two arms of two seeds."""
    return Plan(tiny.exported(study), tuple(arms.read("baseline,kd+ig")), 2)


def test_an_empty_folder_holds_nothing(plan: Plan, tmp_path: Path, home: Path) -> None:
    found = settled.read(plan, tmp_path, home)
    assert found == Settled(tmp_path)
    assert not found.covers(plan) and found.joined(plan) == plan


def test_what_is_fixed_is_written_once_and_outlives_a_death(
    plan: Plan, tmp_path: Path, home: Path
) -> None:
    settled.settle(replace(plan, arms=(Arm(),)), tmp_path)
    settled.settle(plan, tmp_path)
    assert json.loads((tmp_path / settled.PLAN).read_text())["shipped"] == "baseline"
    joined = settled.read(plan, tmp_path, home).joined(replace(plan, arms=(Arm(kd="none"),)))
    assert joined.shipped == Arm() and list(map(str, joined.arms)) == ["baseline", "kd"]


def test_arms_and_seeds_are_joined(plan: Plan, tmp_path: Path) -> None:
    found = Settled(tmp_path, {"schema_version": 2}, plan.arms, 3, Arm("none", "none"))
    assert found.covers(plan)
    more = found.joined(replace(plan, arms=(Arm(kd="none"),), seeds=1))
    assert list(map(str, more.arms)) == ["baseline", "kd+ig", "kd"]
    assert (more.seeds, more.shipped) == (3, Arm("none", "none"))


def test_tuned_and_untuned_arms_are_no_one_experiment(plan: Plan, tmp_path: Path) -> None:
    found = Settled(tmp_path, {"schema_version": 2}, plan.arms, 1, Arm(), tune=5)
    with pytest.raises(StudyError, match="its arms were trained with --tune-arms 5"):
        found.joined(plan)
    assert found.joined(replace(plan, seeds=1)).tune == 5, "nothing is added"


def test_a_file_that_is_no_result_is_named(plan: Plan, tmp_path: Path, home: Path) -> None:
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(StudyError, match="not a result of 'igkd train'"):
        settled.read(plan, tmp_path, home)
