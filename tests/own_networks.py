"""Networks as a package of one's own would bring them, good ones and bad ones."""

import torch
from torch import Tensor, nn

NUMBER = 3


class Blocks(nn.Module):
    """Four convolutions whose beginning can be a student: conv, norm and relu make a block."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 3 * channels, 3, padding=1),
        )
        self.head = nn.Linear(3 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


class Whole(nn.Module):
    """One linear layer on the mean colours, from which nothing can be cut."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


class _ByValue(Whole):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if images.sum().item() < 1e9 else images


class _Flat(Whole):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


def blocks(classes: int, width: float) -> nn.Module:
    return Blocks(classes, round(8 * width))


def whole(classes: int, width: float) -> nn.Module:
    return Whole(classes)


def randomly(classes: int, width: float) -> nn.Module:
    torch.rand(3)
    return Whole(classes)


def by_value(classes: int, width: float) -> nn.Module:
    return _ByValue(classes)


def flat(classes: int, width: float) -> nn.Module:
    return _Flat(classes)


def one_too_many(classes: int, width: float) -> nn.Module:
    return Whole(classes + 1)


def broken(classes: int, width: float) -> nn.Module:
    return Whole(classes // 0)


def no_module(classes: int, width: float) -> str:
    return "network"
