"""Controls: what pairs images with the wrong things on purpose, to show what the right ones add.

An overlay also darkens and adds specks; soft targets also smooth labels. The arms that a claim must
beat show another image's map, the same values at random places, darkening alone, or teach another
image's targets, which is what the paper's public code really did.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from igkd_search import spec
from igkd_search.augment import Maps

Groups = Sequence[NDArray[np.int64]]
"""Disjoint groups that cover all rows: fit and validation rows, so that a search sees its own."""


def other_rows(groups: Groups, seed: int) -> NDArray[np.int64]:
    """For each row another one of its group, (N,): a random cycle, so that none keeps its own."""
    generator = np.random.default_rng(seed)
    other = np.empty(sum(map(len, groups)), np.int64)
    for rows in groups:
        order = generator.permutation(rows)
        other[order] = np.roll(order, 1)
    return other


def apply(maps: Maps, control: spec.Control, groups: Groups, seed: int) -> Maps:
    """What an overlay shows in place of these maps (N, H, W): its own, or what a control puts.

    `none`: the image's own; `shuffled`: another image's of its group; `random`: its own values at
    random places, so the same histogram; `dim`: nothing, so an overlay only darkens.
    """
    if control == "shuffled":
        return maps[other_rows(groups, seed)]
    if control == "random":
        flat = maps.reshape(len(maps), -1)
        return np.random.default_rng(seed).permuted(flat, axis=1).reshape(maps.shape)
    return np.zeros_like(maps) if control == "dim" else maps


def to_unit(maps: Maps) -> NDArray[np.float32]:
    """Stored maps (N, H, W) as float32 in [0, 1]."""
    return maps.astype(np.float32) / np.float32(255 if maps.dtype == np.uint8 else 1)
