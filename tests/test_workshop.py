"""The arms of a plan become runs with the same seeds, each on the materials it asks for."""

from pathlib import Path

import pytest
import torch

from igkd_search import arms, materials, spec, workshop
from igkd_search.workshop import Plan, Workshop
from tests import tiny


@pytest.fixture
def shop(study: spec.Study, home: Path, tmp_path: Path) -> Workshop:
    """A plan of three arms and two seeds."""
    asked = tuple(arms.read("baseline,kd+ig,kd+ig:dim"))
    return Workshop(Plan(tiny.exported(study), asked, 2), tmp_path, home, torch.device("cpu"))


def test_there_is_a_run_for_each_arm_and_seed_in_a_folder_of_its_own(shop: Workshop) -> None:
    found = shop.all_runs
    assert len(found) == len({run.folder for run in found.values()}) == 6
    for index in range(2):
        seeds = {run.seed for (_, place), run in found.items() if place == index}
        assert seeds == {workshop.final_seed(shop.plan.exported, index)}
    assert shop.first == found[arms.Arm("none", "none"), 0]


def test_runs_have_names_that_people_read(shop: Workshop) -> None:
    labels = [run.label for run in shop.all_runs.values()]
    assert labels[0] == "baseline, seed 1" and labels[-1] == "kd+ig:dim, seed 2"


def test_arms_share_a_stock_unless_they_are_overlaid_by_something_else(shop: Workshop) -> None:
    real, dim = arms.Arm("none", "none"), arms.Arm("none", "dim")
    assert shop.use(arms.Arm())[0] is shop.use(real)[0]
    other, shared = shop.use(dim)
    assert other is not shop.use(real)[0]
    assert shared.maps.max() == 0, "darkening has no map"


def test_all_rows_are_trained_on(shop: Workshop, shared: materials.Materials) -> None:
    rows = shop.bench_of(shop.first).rows
    assert rows is not None and rows.tolist() == list(range(len(shared.data.labels)))


def test_another_configuration_has_other_folders(shop: Workshop, home: Path) -> None:
    trial = shop.plan.exported.trial.model_copy(update={"learning_rate": 0.05})
    other = shop.plan.exported.model_copy(update={"trial": trial})
    plan = Plan(other, shop.plan.arms, 2)
    found = Workshop(plan, shop.folder, home, torch.device("cpu")).all_runs
    assert not {run.folder for run in found.values()} & {
        run.folder for run in shop.all_runs.values()
    }
    assert plan.asked != shop.plan.asked
