"""A few images, a teacher of them and both banks; and what a bank must hold, worked out by hand."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from igkd_search import augment, datasets, logits_bank, materials, overlay_bank, spec, vault

CPU = torch.device("cpu")
OPTIONS = spec.Overlays(steps=2)


@dataclass(frozen=True)
class Made:
    """What both banks are made of, and both banks."""

    data: datasets.Dataset
    network: nn.Module
    store: vault.Vault
    logits: NDArray[np.float16]
    maps: augment.Maps


def make(shared: materials.Materials, store: vault.Vault) -> Made:
    """Both banks of the data and teacher of these materials, in a vault of their own."""
    data, network = shared.data, shared.teacher.network
    logits = logits_bank.obtain(data, network, "n", store, CPU).logits
    maps = overlay_bank.obtain(OPTIONS, data, network, "n", store, CPU).maps
    return Made(data, network, store, logits, maps)


def naive_view(image: NDArray[Any], dy: int, dx: int, flipped: bool, shift: int) -> NDArray[Any]:
    """Pad, crop and mirror one image (C, H, W), pixel by pixel."""
    channels, height, width = image.shape
    view = np.zeros_like(image)
    for c, y, x in itertools.product(range(channels), range(height), range(width)):
        from_y = y + dy - shift
        from_x = (width - 1 - x if flipped else x) + dx - shift
        if 0 <= from_y < height and 0 <= from_x < width:
            view[c, y, x] = image[c, from_y, from_x]
    return view


def naive_logits(made: Made, pixels: NDArray[Any]) -> NDArray[Any]:
    """What the teacher says of one image uint8 (C, H, W), normalised here by hand."""
    mean, sd = made.data.mean[:, None, None], made.data.sd[:, None, None]
    image = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / sd)
    with torch.no_grad():
        logits: NDArray[Any] = made.network(image[None])[0].numpy()
    return logits
