"""Padding beforehand changes nothing but speed: the same answers, gradients, names and classes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import small_maps

CPU = torch.device("cpu")


def depthwise(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(4, 8, 3, stride=stride, padding=1, groups=4)


def answers(convolution: nn.Module, maps: Tensor) -> list[Tensor]:
    """What it says, and the gradients of maps, weights and biases."""
    given = maps.clone().requires_grad_()
    found = convolution(given)
    inputs = [given, *convolution.parameters()]
    return [found, *torch.autograd.grad(found.square().sum(), inputs)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (1, 2), (2, 3), (3, 3), (5, 4)])
def test_answers_and_gradients_are_the_same(stride: int, height: int, width: int) -> None:
    convolution, maps = depthwise(stride), torch.randn(5, 4, height, width)
    plain = answers(convolution, maps)
    with small_maps.padded(convolution, CPU):
        torch.testing.assert_close(answers(convolution, maps), plain)


@pytest.mark.parametrize(("side", "pads"), [(1, 1), (2, 1), (3, 0), (8, 0)])
def test_only_small_maps_are_padded(side: int, pads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    convolution, asked, pad = depthwise(), list[Tensor](), functional.pad

    def noted(maps: Tensor, margins: tuple[int, ...]) -> Tensor:
        asked.append(maps)
        return pad(maps, margins)

    monkeypatch.setattr(functional, "pad", noted)
    with small_maps.padded(convolution, CPU):
        convolution(torch.zeros(2, 4, side, side))
    assert len(asked) == pads


def test_a_model_is_as_before_afterwards_and_a_copy_goes_on() -> None:
    model = nn.Sequential(depthwise(), nn.Conv2d(8, 3, 1))
    names = list(model.state_dict())
    with pytest.raises(KeyError), small_maps.padded(model, CPU):
        assert list(model.state_dict()) == names
        assert isinstance(model[0], nn.Conv2d)
        copied = copy.deepcopy(model)
        raise KeyError
    assert [type(part) for part in model] == [nn.Conv2d, nn.Conv2d]
    assert type(copied[0]) is not nn.Conv2d
    maps = torch.randn(2, 4, 2, 2)
    torch.testing.assert_close(copied(maps), model(maps))


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(1, 4, 3, padding=1),
    ],
)
def test_other_convolutions_are_left_alone(other: nn.Conv2d) -> None:
    with small_maps.padded(other, CPU):
        assert type(other) is nn.Conv2d


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_other_devices_are_left_alone(device: str) -> None:
    convolution = depthwise()
    with small_maps.padded(convolution, torch.device(device)):
        assert type(convolution) is nn.Conv2d
