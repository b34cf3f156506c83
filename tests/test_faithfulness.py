"""Agreement of maps that are known, and the laws that hold for any student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

from igkd_search import attribution, deletion, evaluation, faithfulness, models, spec

SHAPE = (3, 6, 6)
MEAN, SD = torch.full((3,), 0.4), torch.full((3,), 0.2)


def linear(weights: Tensor) -> nn.Module:
    """Two logits: 0, and the sum of weights (C, H, W) times pixels; so its map is |weight * x|."""
    layer = nn.Linear(weights.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(weights.numel()), weights.flatten()]))
    return nn.Sequential(nn.Flatten(), layer).eval()


def weights(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def images(count: int = 40) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(9))


def measure(student: nn.Module, teacher: nn.Module, count: int = 40, **changes: Any) -> Any:
    labels = torch.ones(count, dtype=torch.int64)
    options: dict[str, Any] = {"steps": 2, "mean": MEAN, "sd": SD, "seed": 3}
    return faithfulness.measure(student, teacher, images(count), labels, **{**options, **changes})


def test_the_same_network_agrees_wholly() -> None:
    found = measure(linear(weights(0)), linear(weights(0)))
    own = found["agreement"]["own_image"]
    for key in ("rank_correlation", "pearson", "top_overlap"):
        assert own[key]["mean"] == pytest.approx(1)
        assert own[key]["n"] == 40
    assert found["deletion"]["student"] == found["deletion"]["teacher"]


def test_strange_networks_agree_by_chance() -> None:
    found = measure(linear(weights(0)), linear(weights(1)), count=300)
    own, other = found["agreement"]["own_image"], found["agreement"]["another_image"]
    # both see the same image, whose bright pixels count in either
    assert 0.02 < own["rank_correlation"]["mean"] < 0.6
    assert other["rank_correlation"]["mean"] < own["rank_correlation"]["mean"]
    noise = torch.rand(2, 300, 6, 6, generator=torch.Generator().manual_seed(5))
    chance = faithfulness.agreement(noise[0], noise[1])
    assert chance["rank_correlation"]["mean"] == pytest.approx(0, abs=0.03)
    assert chance["pearson"]["mean"] == pytest.approx(0, abs=0.03)
    assert chance["top_overlap"]["mean"] == pytest.approx(found["top"]["chance"], abs=0.03)
    assert found["top"] == {"share": 0.1, "chance": 4 / 36}


def test_the_map_of_a_linear_network_is_known() -> None:
    # of weights that are zero but for one pixel, that pixel goes first, and with it everything
    only = torch.zeros(SHAPE)
    only[:, 2, 3] = 5.0
    found = measure(linear(only), linear(only))
    for name, curve in (("deletion", found["deletion"]), ("insertion", found["insertion"])):
        after_one = curve["student"]["mean"][2]  # a tenth of 36 pixels
        assert after_one == pytest.approx(0.5 if name == "deletion" else plain(linear(only)))


def plain(network: nn.Module) -> float:
    return evaluation.predict(network, images()).softmax(1)[:, 1].mean().item()


def test_no_pixel_deleted_and_every_pixel_inserted_are_the_plain_answer() -> None:
    network = linear(weights(0))
    found = measure(network, linear(weights(1)))
    for order in ("student", "teacher", "random"):
        assert found["deletion"][order]["mean"][0] == pytest.approx(plain(network))
        assert found["insertion"][order]["mean"][-1] == pytest.approx(plain(network))


def test_its_own_map_is_better_than_random_order() -> None:
    # where all pixels speak for the label, a linear network's map is the best order there is
    network, count = linear(weights(0).abs() / 20), 60
    labels = torch.ones(count, dtype=torch.int64)
    found = faithfulness.measure(
        network, network, images(count).abs(), labels, steps=2, mean=MEAN, sd=SD, seed=0
    )
    for name in deletion.CURVES:
        gain = found[name]["student"]["gain"]
        areas = [found[name][order]["area"]["mean"] for order in ("student", "random")]
        assert gain["low"] > 0
        assert gain["mean"] == pytest.approx(abs(areas[0] - areas[1]))
        assert found[name]["random"]["gain"] is None


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=2, max_size=2))
def test_rank_correlation_is_scipys_with_ties(values: list[list[int]]) -> None:
    ours, theirs = (torch.tensor(each, dtype=torch.float32).view(1, 3, 3) for each in values)
    found = faithfulness.agreement(ours, theirs)
    if min(len(set(each)) for each in values) == 1:
        assert found == {"rank_correlation": None, "pearson": None, "top_overlap": None}
        return
    known = spearmanr(values[0], values[1]).statistic
    assert found["rank_correlation"]["mean"] == pytest.approx(known, abs=1e-6)


def test_a_map_without_order_is_left_out() -> None:
    maps = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1))
    flat = maps.clone()
    flat[1] = 0.0
    found = faithfulness.agreement(maps, flat)
    assert (found["pearson"]["n"], found["pearson"]["mean"]) == (2, pytest.approx(1))


def test_the_same_seed_gives_the_same_figures_as_plain_json() -> None:
    found = measure(linear(weights(0)), linear(weights(1)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert measure(linear(weights(0)), linear(weights(1))) == found
    other = measure(linear(weights(0)), linear(weights(1)), seed=4)
    assert other["deletion"]["random"] != found["deletion"]["random"]
    assert other["deletion"]["student"]["area"] == found["deletion"]["student"]["area"]


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_are_measured_too(count: int) -> None:
    found = measure(linear(weights(0)), linear(weights(1)), count=count)
    assert found["images"] == count
    assert (found["agreement"]["another_image"] is None) == (count == 1)


def test_networks_that_say_nothing_have_no_maps() -> None:
    found = measure(linear(torch.zeros(SHAPE)), linear(weights(0)), count=3)
    assert found["agreement"]["own_image"]["pearson"] is None
    assert found["words"][0].startswith("The maps have no order")
    assert "not shown to be better" in found["words"][1]


def test_a_real_student_is_measured_with_every_baseline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = models.build_teacher("mobilenet_v2", 3, width=0.1, image_side=8).eval()
    smaller = spec.Architecture("mobilenet_v2", 15, 0.1, resolution=6)
    student = models.build_student(smaller, 3, (3, 8, 8)).eval()
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0])
    for baseline in attribution.BASELINES:
        found = faithfulness.measure(
            student, teacher, pixels, labels, steps=2, mean=MEAN, sd=SD, seed=0, baseline=baseline
        )
        assert found["agreement"]["own_image"]["pearson"]["n"] == 4
        plain = evaluation.predict(student, pixels).softmax(1)[range(4), labels].mean().item()
        assert found["deletion"]["teacher"]["mean"][0] == pytest.approx(plain)
    faithfulness.draw(found, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1200
