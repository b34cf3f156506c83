"""Law 5: attributions sum to f(x) - f(baseline) within the stated gap, and are Captum's own."""

from typing import get_args

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import models, spec
from igkd_search.attribution import (
    BASELINES,
    REDUCTIONS,
    attribute,
    correlate,
    fold_norms,
    to_maps,
)

RULES: tuple[str, ...] = get_args(spec.Rule)
SHAPE = (3, 4, 4)
MAGNITUDES = st.floats(-(2.0**60), 2.0**60, width=32)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small convolutional network with kinks, in double precision."""
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
        .double()
        .eval()
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, *SHAPE, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 4, 2, 2, 1, 3, 0])


def untouched(network: nn.Module, images: Tensor, steps: int, rule: str) -> tuple[Tensor, Tensor]:
    """What Captum says with its own gradient function."""
    values, gap = IntegratedGradients(network).attribute(
        images,
        baselines=torch.zeros_like(images),
        target=LABELS,
        n_steps=steps,
        method=rule,
        return_convergence_delta=True,
    )
    return values, gap


def test_a_linear_model_is_explained_by_weight_times_input() -> None:
    # logits of x = (1, -2, 3, 0.5) and (0, 1, 0, -4): attributions w * x, whatever the bias
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0, -1.0, 4.0], [0.5, 0.0, 3.0, -2.0]]))
        linear.bias.copy_(torch.tensor([10.0, -20.0]))
    model = nn.Sequential(nn.Flatten(), linear).eval()
    points = torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.0, 1.0, 0.0, -4.0]]).view(2, 1, 2, 2)
    found = attribute(model, points, torch.tensor([0, 1]), steps=3)
    by_hand = torch.tensor([[1.0, -4.0, -3.0, 2.0], [0.0, 0.0, 0.0, 8.0]]).view(2, 1, 2, 2)
    torch.testing.assert_close(found.values, by_hand, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.gap, torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.relative_gap(), torch.zeros(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 6, 20])
def test_attributions_are_those_of_untouched_captum(
    network: nn.Module, images: Tensor, rule: str, steps: int
) -> None:
    ours = attribute(network, images, LABELS, steps=steps, rule=rule)
    values, gap = untouched(network, images, steps, rule)
    torch.testing.assert_close(ours.values, values, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.gap, gap, rtol=0, atol=1e-6)
    assert values.abs().max() > 1e-2  # the two do not agree on nothing


@pytest.mark.parametrize("rule", RULES)
def test_attributions_sum_to_the_change_of_the_logit_within_the_stated_gap(
    network: nn.Module, images: Tensor, rule: str
) -> None:
    found = attribute(network, images, LABELS, steps=12, rule=rule)
    with torch.inference_mode():
        change = network(images) - network(torch.zeros_like(images))
    change = change[torch.arange(7), LABELS]
    torch.testing.assert_close(found.values.sum((1, 2, 3)) - change, found.gap)
    torch.testing.assert_close(found.relative_gap(), found.gap.abs() / change.abs())


def test_more_steps_close_the_gap(network: nn.Module, images: Tensor) -> None:
    few = attribute(network, images, LABELS, steps=2).gap.abs().mean()
    many = attribute(network, images, LABELS, steps=200).gap.abs().mean()
    assert many < 0.05 * few


@pytest.mark.parametrize("internal_batch_size", [1, 7, 8, 20, 64])
def test_internal_batching_changes_nothing(
    network: nn.Module, images: Tensor, internal_batch_size: int
) -> None:
    whole = attribute(network, images, LABELS, steps=9)
    parts = attribute(network, images, LABELS, steps=9, internal_batch_size=internal_batch_size)
    torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.gap, whole.gap, rtol=0, atol=1e-12)


def test_one_image_is_explained_as_it_is_among_others(network: nn.Module, images: Tensor) -> None:
    together = attribute(network, images, LABELS, steps=5)
    alone = attribute(network, images[3:4], LABELS[3:4], steps=5)
    torch.testing.assert_close(alone.values, together.values[3:4], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.gap, together.gap[3:4], rtol=0, atol=1e-12)


def test_one_gausslegendre_step_is_the_gradient_half_way(
    network: nn.Module, images: Tensor
) -> None:
    half = (images / 2).requires_grad_()
    logits = network(half)[torch.arange(7), LABELS]
    by_hand = images * torch.autograd.grad(logits.sum(), half)[0]
    found = attribute(network, images, LABELS, steps=1).values
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-12)


def test_nothing_is_left_on_the_model(network: nn.Module, images: Tensor) -> None:
    found = attribute(network, images, LABELS, steps=3)
    assert not found.values.requires_grad and not found.gap.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_model_in_training_mode_is_refused(images: Tensor) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5)).double()
    with pytest.raises(AssertionError, match="training mode"):
        attribute(model, images, LABELS, steps=2)


def test_a_map_worked_by_hand() -> None:
    # |.| summed over two channels: (3, 1, 5, 2), lowest 1, highest 5
    values = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[-2.0, 0.0], [-3.0, 2.0]]]])
    expected = torch.tensor([[[0.5, 0.0], [1.0, 0.25]]])
    torch.testing.assert_close(to_maps(values), expected)


@given(arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 4), elements=MAGNITUDES))
@settings(max_examples=80, deadline=None)
def test_maps_lie_in_0_to_1_and_touch_both_unless_constant(values: NDArray[np.float32]) -> None:
    maps = to_maps(torch.from_numpy(values))
    assert maps.shape == (values.shape[0], *values.shape[2:])
    assert maps.isfinite().all() and (maps >= 0).all() and (maps <= 1).all()
    raw = torch.from_numpy(values).abs().sum(1)
    for image, before in zip(maps, raw, strict=True):
        if before.min() == before.max():
            assert not image.any()
        elif before.max() - before.min() > 1e-30:
            assert image.min() == 0 and image.max() == 1


@pytest.mark.parametrize("constant", [0.0, 2.5, -1e30])
def test_a_constant_map_is_zero_not_nan(constant: float) -> None:
    assert torch.equal(to_maps(torch.full((2, 3, 4, 4), constant)), torch.zeros(2, 4, 4))


def test_each_map_is_scaled_by_itself(network: nn.Module, images: Tensor) -> None:
    values = attribute(network, images, LABELS, steps=3).values
    scaled = values * torch.logspace(-6, 6, 7, dtype=torch.float64).view(7, 1, 1, 1)
    torch.testing.assert_close(to_maps(scaled), to_maps(values))


def test_the_study_file_names_the_baselines_and_reductions_that_there_are() -> None:
    assert set(get_args(spec.Baseline)) == set(BASELINES)
    assert set(get_args(spec.Reduction)) == set(REDUCTIONS)


def test_reductions_worked_by_hand() -> None:
    # two pixels: (3, -4) and (1, 0) over two channels, lowest to 0 and highest to 1
    values = torch.tensor([[[[3.0, 1.0, 0.0]], [[-4.0, 0.0, 0.0]]]])
    for name, first in {"sum": 7.0, "max": 4.0, "norm": 5.0}.items():
        expected = torch.tensor([[[1.0, 1.0 / first, 0.0]]])
        torch.testing.assert_close(to_maps(values, name), expected)


def test_another_baseline_moves_the_point_where_attributions_are_zero(
    network: nn.Module, images: Tensor
) -> None:
    begin = torch.full_like(images, 0.3)
    found = attribute(network, images, LABELS, steps=40, baselines=begin)
    with torch.inference_mode():
        change = (network(images) - network(begin))[torch.arange(7), LABELS]
    torch.testing.assert_close(found.values.sum((1, 2, 3)) - change, found.gap)
    itself = attribute(network, images, LABELS, steps=4, baselines=images)
    assert not itself.values.any()


def test_black_is_black_and_mean_is_the_mean_colour() -> None:
    mean, sd = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.25, 0.3])
    images = torch.randn(2, *SHAPE)
    black = BASELINES["black"](images, mean, sd) * sd[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(black, torch.zeros_like(images))
    grey = BASELINES["mean"](images, mean, sd) * sd[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(grey, mean[:, None, None].expand_as(images))


@pytest.mark.parametrize("side", [3, 8, 33])
def test_blur_leaves_colours_and_takes_shapes(side: int) -> None:
    mean, sd = torch.zeros(3), torch.ones(3)
    flat = torch.full((1, 3, side, side), 0.7)
    torch.testing.assert_close(BASELINES["blur"](flat, mean, sd), flat)
    checks = ((torch.arange(side)[:, None] + torch.arange(side)) % 2).float().expand(1, 3, -1, -1)
    assert BASELINES["blur"](checks, mean, sd).std() < checks.std()


def test_correlation_is_numpys_and_constant_maps_agree_with_themselves_alone() -> None:
    one, other = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert correlate(one, other).item() == pytest.approx(expected)
    assert correlate(one, 3 * one + 2).item() == pytest.approx(1)
    assert correlate(one, -one).item() == pytest.approx(-1)
    flat = torch.zeros(1, 5, 4)
    assert correlate(flat, flat).item() == 1
    assert correlate(flat, one).item() == correlate(one, flat).item() == 0


def test_maps_of_folded_norms_are_maps_of_the_network_itself() -> None:
    torch.manual_seed(2)
    network = models.build_teacher("mobilenet_v2", 4, 0.1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics as training would leave them
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 2)
    network.eval().requires_grad_(False)
    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 3, 1])
    folded = fold_norms(network, images)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())  # left as it was
    ours = attribute(folded, images, labels, steps=8).values
    theirs = attribute(network, images, labels, steps=8).values
    assert correlate(to_maps(ours), to_maps(theirs)).min() > 0.9999


def test_a_network_that_cannot_be_traced_keeps_its_norms() -> None:
    class Winding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.norm(images).mean((2, 3))
            return logits if logits.sum() > 0 else -logits

    network = Winding().eval()
    assert fold_norms(network, torch.randn(2, 3, 4, 4)) is network
