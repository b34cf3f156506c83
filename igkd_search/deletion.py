"""Deletion and insertion curves: what a classifier still says when pixels go in a given order.

Petsiuk, Das and Saenko 2018 (RISE, arXiv 1806.07421): if an order puts first what the classifier
uses, its probability of the label falls quickly when those pixels are replaced by a baseline, and
rises quickly when they alone are shown.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from igkd_search import evaluation

INTERVALS = 20
FRACTIONS = tuple(step / INTERVALS for step in range(INTERVALS + 1))
"""Shares of an image's pixels that are replaced, or shown."""


def ranks(maps: Tensor) -> Tensor:
    """The place of each pixel (B, H, W) when a map (B, H, W) is ordered, 0 for the largest value.

    Of equal values the one further to the top left comes first.
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view_as(maps)


def random_ranks(shape: torch.Size, seed: int) -> Tensor:
    """An order by chance for each image, of shape (B, H, W), the same for every device."""
    return ranks(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))


def _delete(images: Tensor, baselines: Tensor, first: Tensor) -> Tensor:
    return torch.where(first, baselines, images)


def _insert(images: Tensor, baselines: Tensor, first: Tensor) -> Tensor:
    return torch.where(first, images, baselines)


CURVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "deletion": _delete,
    "insertion": _insert,
}
"""Name -> (images and baselines (B, C, H, W), which pixels come first (B, 1, H, W)) -> images."""


def curves(
    model: nn.Module, images: Tensor, labels: Tensor, baselines: Tensor, order: Tensor, name: str
) -> Tensor:
    """The probability of the label (B, INTERVALS + 1) with each share of FRACTIONS changed.

    Normalised images and baselines (B, C, H, W), labels (B,), the model in eval mode, all on one
    device; `order` (B, H, W) holds ranks, `name` is one of CURVES.
    """
    size = evaluation.chunk_of(images.device, images[0, 0].numel())
    change, pixels = CURVES[name], order[0].numel()
    parts = []
    for some, base, label, place in zip(
        *(torch.split(each, size) for each in (images, baselines, labels, order)), strict=True
    ):
        shares = []
        for fraction in FRACTIONS:
            first = (place < round(fraction * pixels))[:, None].to(some.device)
            answers = evaluation.predict(model, change(some, base, first)).softmax(1)
            shares.append(answers.gather(1, label[:, None])[:, 0].cpu())
        parts.append(torch.stack(shares, dim=1))
    return torch.cat(parts)


def areas(found: Tensor) -> Tensor:
    """The area (B,) below each curve (B, INTERVALS + 1), by trapezoids, between 0 and 1."""
    return torch.trapezoid(found.double(), dx=1 / INTERVALS, dim=1)
