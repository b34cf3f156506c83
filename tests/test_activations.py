"""Laws of the peak: worked by hand on small networks, and nothing stays counted."""

import torch
from torch import Tensor, nn

from igkd_search import activations

SHAPE = (1, 2, 2)
FLOAT = 4  # bytes


def test_a_chain_holds_two_neighbours() -> None:
    # the image is flattened in place of memory; 8, then 8 and 2, then 2 and 16 values at once
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 16))
    assert activations.peak_bytes(net.eval(), SHAPE) == (2 + 16) * FLOAT


class Residual(nn.Module):
    """Holds its input's map until the end: 4, 4 and 4 values, then the sum."""

    def forward(self, images: Tensor) -> Tensor:
        first = images * 2
        second = first + 1
        return first + second


def test_what_is_needed_later_is_held() -> None:
    assert activations.peak_bytes(Residual(), SHAPE) == 3 * 4 * FLOAT


class InPlace(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        found = images + 1
        found.relu_()
        return found.view(1, -1)[:, :2].t()


def test_views_and_changes_in_place_take_nothing() -> None:
    assert activations.peak_bytes(InPlace(), SHAPE) == 4 * FLOAT


class OfHalf(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.half()


def test_bytes_are_those_of_the_type() -> None:
    assert activations.peak_bytes(OfHalf(), SHAPE) == 4 * 2


def test_weights_and_input_are_not_counted() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False)).eval()
    large = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    with torch.no_grad():
        assert activations.peak_bytes(large, SHAPE) == FLOAT
    assert activations.peak_bytes(net, SHAPE) == (4 + 1) * FLOAT
