"""Which rows a step sees, each in which view: a whole epoch is drawn at once, on the device.

The order of the rows, their crops and flips and all other chance but a network's own dropout come
from one generator before the first step, so that a batch is slices of tensors that are there
already and waits for nothing. Every batch has the same shape: rows that do not fill one wait for
another epoch's order. Where images stay on the host, those of the next step are sent while this one
computes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igkd_search import augment, spec

Indexes = NDArray[np.int64]
Fetch = Callable[[Indexes, Indexes], tuple[Tensor | None, Tensor | None]]
"""(rows (B,), places (B,)) -> their packed pixels and soft targets, sent from the host, or None."""


@dataclass(frozen=True)
class Batch:
    """What one step sees, on the device."""

    rows: Tensor
    """(B,) rows of the training part."""
    places: Tensor
    """(B,) the column of the bank of targets that holds the view."""
    views: Tensor
    """(B,) view indexes."""
    chance: Tensor
    """(4, B) uniform in [0, 1): two for the overlay, two for the place of a cutout."""
    pixels: Tensor | None = None
    """Packed pixels (B, H', W', C') of the rows, where they came from the host."""
    targets: Tensor | None = None
    """Soft targets fp16 (B, classes), where they came from the host."""


class Feed:
    """Draws the epochs of one training.

    `chosen` (N, K) restricts each row to these view indexes. `fetch` brings what is not on the
    device. The halves of the images that alternating flips begin with are drawn from `seed`.
    """

    def __init__(
        self,
        rows: Tensor,
        kinds: augment.Views,
        recipe: spec.Recipe,
        seed: int,
        *,
        chosen: Tensor | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self.rows, self._kinds, self._chosen, self._fetch = rows, kinds, chosen, fetch
        self._halves: Tensor | None = None
        if recipe.alternating_flip:
            generator = torch.Generator(rows.device).manual_seed(seed)
            self._halves = torch.randint(
                2, (len(rows),), generator=generator, device=rows.device, dtype=torch.int64
            )

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """The batches of `size` rows of the epoch of this number, counted from 1."""
        steps = len(self.rows) // size
        device = self.rows.device
        order = torch.randperm(len(self.rows), generator=generator, device=device)
        order = order[: steps * size]
        rows = self.rows[order]
        places, views = self._draw(rows, order, number, generator)
        chance = torch.rand(steps, 4, size, generator=generator, device=device)
        parts = (torch.split(drawn, size) for drawn in (rows, places, views))
        batches = map(Batch, *parts, chance)
        return batches if self._fetch is None else self._sent(list(batches), self._fetch)

    def _draw(
        self, rows: Tensor, order: Tensor, number: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A place in the bank of targets and the view it holds, for each row: (n,) and (n,)."""
        if self._chosen is not None:
            count = self._chosen.shape[1]
            places = torch.randint(count, rows.shape, generator=generator, device=rows.device)
            return places, self._chosen[rows, places]
        flipped = None if self._halves is None else (self._halves[order] + number) % 2
        views = self._kinds.draw(len(rows), generator, flipped)
        return views, views

    def _sent(self, batches: list[Batch], fetch: Fetch) -> Iterator[Batch]:
        rows, places = (
            torch.stack([getattr(batch, name) for batch in batches]).cpu().numpy()
            for name in ("rows", "places")
        )
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
            ahead = pool.submit(fetch, rows[0], places[0])
            for step, batch in enumerate(batches):
                pixels, targets = ahead.result()
                if step + 1 < len(batches):
                    ahead = pool.submit(fetch, rows[step + 1], places[step + 1])
                yield replace(batch, pixels=pixels, targets=targets)
