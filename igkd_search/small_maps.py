"""3x3 convolutions of maps of 1x1 and 2x2, trained on a CPU as fast as larger ones.

Small images shrink to such maps in the last blocks of a network. There the weight gradient of a
depthwise convolution with padding takes oneDNN some 20 times as long as that of a convolution
without padding whose map was padded before; they compute the same but for rounding
(docs/performance.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALL = 2  # pixels a side; from 3 on there is no difference


class _Padded(nn.Conv2d):
    """A convolution that pads small maps itself; the same parameters and state as nn.Conv2d."""

    def forward(self, maps: Tensor) -> Tensor:
        if max(maps.shape[2:]) > _SMALL:
            return super().forward(maps)
        padded = functional.pad(maps, (1, 1, 1, 1))
        return functional.conv2d(
            padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


@contextmanager
def padded(model: nn.Module, device: torch.device) -> Iterator[None]:
    """On a CPU let depthwise 3x3 convolutions of a model pad small maps themselves, for the body.

    Copies that are made of the model meanwhile go on padding.
    """
    found = [module for module in model.modules() if device.type == "cpu" and _gains(module)]
    for module in found:
        # its class alone changes: weights, names and hooks stay
        module.__class__ = _Padded
    try:
        yield
    finally:
        for module in found:
            module.__class__ = nn.Conv2d


def _gains(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels > 1
        and (module.kernel_size, module.padding) == ((3, 3), (1, 1))
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
    )
