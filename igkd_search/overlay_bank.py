"""The bank of overlay maps: what the teacher looks at in each image, one map an image.

Row i is the map of image i of the training part, as it is; crops and flips move it together with
its image when both are read. The build says how good the maps are (correlation with a much finer
path, and the completeness gap), and sampled rows are computed anew when a bank is first opened. A
killed build goes on at its last shard.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import attribution, datasets, memory, shards, spec, stages, vault
from igkd_search.augment import Maps
from igkd_search.errors import MaterialError

log = logging.getLogger(__name__)

_VERSION = 3  # raise when the same inputs would give other numbers
_CHECKED = 8  # rows attributed anew when a bank is opened
_GAP_SAMPLE = 64
_ALIKE = 0.99  # correlation of two maps that show the same
_REFERENCE_STEPS = 256
_REFERENCE_SHARE = 0.05  # of the bank's own cost, spent on knowing how good it is
# Pixels of the fastest batch: a CPU wants 64 images of 32x32 or fewer, a GPU thousands.
_FASTEST_PIXELS = {"cpu": 2**16, "cuda": 2**22, "mps": 2**18}
_SHARD_ROWS = 64  # at least: each shard costs a flush to the disk


@dataclass(frozen=True)
class OverlayBank:
    """maps (N, H, W), uint8 in [0, 255] or fp16 in [0, 1], memory-mapped, and how good they are."""

    maps: Maps
    digest: str
    fidelity: float
    """Mean correlation of sampled maps with those of a 256-step path."""
    completeness_gap: float
    """Median of |sum of attributions - (f(x) - f(baseline))| / |f(x) - f(baseline)|."""


def obtain(
    options: spec.Overlays,
    data: datasets.Dataset,
    network: nn.Module,
    network_digest: str,
    store: vault.Vault,
    device: torch.device,
) -> OverlayBank:
    """The bank of the images' own maps, found or built; a control acts when they are read.

    MaterialError when it disagrees with fresh attributions or one image exceeds the memory,
    StorageError when the disk is full. A fidelity below 0.99 is a warning.
    """
    inputs = {
        "data": data.fingerprint,
        "teacher": network_digest,
        "overlays": options.model_dump(mode="json", exclude={"control"}),
        "version": _VERSION,
    }
    if store.contains("overlays", inputs):
        stages.settle("overlays", "found")
    artist = _Artist(options, data, network, device)
    folder = store.entry("overlays", inputs, artist.build, artist.check)
    quality = json.loads((folder / "quality.json").read_bytes())
    if quality["fidelity"] < _ALIKE:
        log.warning(
            "overlays: maps correlate at %.3f with a %d-step reference, below %g; raise "
            "overlays.steps (%d)",
            quality["fidelity"],
            quality["reference_steps"],
            _ALIKE,
            options.steps,
        )
    maps = shards.read_array(folder, "maps")
    return OverlayBank(maps, vault.digest(inputs), quality["fidelity"], quality["completeness_gap"])


def draw(
    options: spec.Overlays,
    data: datasets.Dataset,
    network: nn.Module,
    device: torch.device,
    rows: NDArray[np.int64],
) -> Maps:
    """The maps (B, H, W) that the bank holds of these rows, computed now."""
    return _Artist(options, data, network, device).stored(rows)


class _Artist:
    """Draws the maps of one teacher, in batches as large as memory and speed allow."""

    def __init__(
        self,
        options: spec.Overlays,
        data: datasets.Dataset,
        network: nn.Module,
        device: torch.device,
    ) -> None:
        self._options, self._count, self._device = options, len(data.labels), device
        self._shape = data.image_shape[1:]
        self._reader = datasets.reader_of(data, device)
        self._labels = torch.from_numpy(data.labels).to(device)
        example = self._reader.unaugmented(self._rows(datasets.sample_rows(self._count, 1)))
        self._network = attribution.fold_norms(network, example)
        pixels = _FASTEST_PIXELS.get(device.type, _FASTEST_PIXELS["cpu"])
        fastest = max(1, pixels // example[0, 0].numel())
        with self._must_fit():
            self._batch = memory.Batch(memory.fitting_batch(self._network, example, fastest))

    def build(self, folder: Path) -> None:
        """Fill maps.npy, and say in quality.json how good it is."""
        shard = max(_SHARD_ROWS, self._batch.size // self._options.steps)
        dtype = np.uint8 if self._options.dtype == "uint8" else np.float16
        with stages.stage("overlays", self._count, "images") as stage:
            shards.fill(
                folder,
                "maps",
                (self._count, *self._shape),
                dtype,
                shard,
                lambda start, stop: self.stored(np.arange(start, stop)),
                stage.advance,
            )
            stage.advance(0, "comparing with a finer path")
            quality = self._quality(shards.read_array(folder, "maps"))
        vault.write_whole(folder / "quality.json", json.dumps(quality).encode())

    def check(self, folder: Path) -> None:
        """MaterialError unless sampled rows are what the teacher's attributions are now."""
        rows = datasets.sample_rows(self._count, _CHECKED)
        verify(shards.read_array(folder, "maps")[rows], self.stored(rows), rows)

    def _quality(self, maps: Maps) -> dict[str, Any]:
        """How the maps compare with those of a finer path, on as many rows as that may cost."""
        budget = _REFERENCE_SHARE * self._count * self._options.steps / _REFERENCE_STEPS
        rows = datasets.sample_rows(self._count, min(_GAP_SAMPLE, max(_CHECKED, int(budget))))
        reference, _ = self._drawn(rows, _REFERENCE_STEPS)
        correlation = attribution.correlate(torch.from_numpy(np.array(maps[rows])), reference)
        gap_rows = datasets.sample_rows(self._count, _GAP_SAMPLE)
        _, gaps = self._drawn(gap_rows, self._options.steps)
        return {
            "fidelity": correlation.mean().item(),
            "lowest_fidelity": correlation.min().item(),
            "reference_images": len(rows),
            "reference_steps": _REFERENCE_STEPS,
            "completeness_gap": gaps.median().item(),
            "gap_images": len(gap_rows),
            "steps": self._options.steps,
        }

    def stored(self, rows: NDArray[np.int64]) -> Maps:
        """The maps (B, H, W) of these rows, in the type they are stored in."""
        maps, _ = self._drawn(rows, self._options.steps)
        if self._options.dtype == "fp16":
            return maps.half().numpy()
        return (maps * 255).round().to(torch.uint8).numpy()

    def _drawn(self, rows: NDArray[np.int64], steps: int) -> tuple[Tensor, Tensor]:
        """Maps (B, H, W) in [0, 1] and relative gaps (B,) of these rows, on the CPU."""
        with self._must_fit():
            return self._batch.attempt(lambda size: self._in_batches(rows, steps, size))

    @contextmanager
    def _must_fit(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            raise MaterialError(
                f"overlays: the memory of {self._device} does not hold one image's attribution "
                f"({error}); free memory there, or type IGKD_DEVICE=cpu before the command"
            ) from error

    def _in_batches(self, rows: NDArray[np.int64], steps: int, size: int) -> tuple[Tensor, Tensor]:
        at_once = max(1, size // steps)
        parts = [
            self._attributed(self._rows(rows[start : start + at_once]), steps, size)
            for start in range(0, len(rows), at_once)
        ]
        return torch.cat([maps for maps, _ in parts]), torch.cat([gaps for _, gaps in parts])

    def _attributed(self, rows: Tensor, steps: int, size: int) -> tuple[Tensor, Tensor]:
        images, reader, options = self._reader.unaugmented(rows), self._reader, self._options
        found = attribution.attribute(
            self._network,
            images,
            self._labels[rows],
            steps=steps,
            rule=options.rule,
            baselines=attribution.BASELINES[options.baseline](images, reader.mean, reader.sd),
            internal_batch_size=size,
        )
        maps = attribution.to_maps(found.values, options.reduction)
        return maps.cpu(), found.relative_gap().cpu()

    def _rows(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(rows).to(self._device)


def verify(stored: Maps, fresh: Maps, rows: NDArray[np.int64]) -> None:
    """Compare stored maps (B, H, W) with fresh ones of `rows`; MaterialError below 0.99."""
    found = attribution.correlate(*(torch.from_numpy(np.array(maps)) for maps in (stored, fresh)))
    lowest = int(found.argmin())
    # not "below": a correlation that is NaN, since a map is, is below nothing
    if not found[lowest] >= _ALIKE:
        raise MaterialError(
            f"the bank of overlays disagrees with live attributions (row {rows[lowest]}: "
            f"correlation {found[lowest]:.3f}, needed {_ALIKE}): it is not about these images"
        )
