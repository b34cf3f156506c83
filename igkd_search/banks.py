"""The two banks of a study: the teacher's logits for every view, and one overlay map an image.

Row i of a bank is image i of the training part. After a build, and when a bank is first opened,
rows are compared with the live teacher, so that a permuted bank never reaches a trial (the fault of
the paper's code). A killed build goes on at its last shard.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import attribution, augment, console, datasets, fitting, shards, spec, vault
from igkd_search.errors import MaterialError

_VERSION = 2  # raise when the same inputs would give other numbers
_SAMPLE = 64  # rows compared with the live teacher
_MAP_SAMPLE = 8
_MAP_CORRELATION = 0.99
# Pixels in one shard, so that memory stays the same whatever the images' size. Backward keeps every
# activation: on a CPU 256 images of 8x8, or 16 of 32x32, need some 300 MB; a GPU wants thousands.
_FORWARD_PIXELS = {"cpu": 2**19, "cuda": 2**25, "mps": 2**21}
_GRADIENT_PIXELS = {"cpu": 2**14, "cuda": 2**22, "mps": 2**16}


def pixels_of(data: datasets.Dataset) -> int:
    """H * W of one image."""
    _, height, width = data.image_shape
    return height * width


def apply_control(maps: NDArray[np.uint8], control: spec.Control, seed: int) -> NDArray[np.uint8]:
    """The maps (N, H, W) an overlay shows: own, another image's, scattered pixels, nothing."""
    generator = np.random.default_rng(seed)
    if control == "shuffled":
        # a random cycle: no image keeps its own map
        order = generator.permutation(len(maps))
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        return maps[other]
    if control == "random":
        flat = generator.permuted(maps.reshape(len(maps), -1), axis=1)
        return flat.reshape(maps.shape)
    return np.zeros_like(maps) if control == "dim" else maps


def live_logits(network: nn.Module, reader: augment.Reader, rows: Tensor, views: Tensor) -> Tensor:
    """The teacher's float32 logits (B, classes) on these views of these rows, without overlay."""
    return fitting.predict(network, reader.normalised(rows, views))


def reader_of(data: datasets.Dataset, device: torch.device) -> augment.Reader:
    """The images of the training part on a device, without maps."""
    mean, sd = (torch.from_numpy(values).to(device) for values in (data.mean, data.sd))
    return augment.Reader.of(torch.tensor(data.images), None, data.views, mean, sd)


def logits(
    data: datasets.Dataset,
    network: nn.Module,
    network_digest: str,
    store: vault.Vault,
    device: torch.device,
) -> tuple[NDArray[np.float16], str]:
    """The bank of the teacher's logits, fp16 (N, views, classes), and its fingerprint."""
    inputs = {
        "data": data.fingerprint,
        "teacher": network_digest,
        "views": [data.views.shift, data.views.flip],
        "version": _VERSION,
    }
    reader, views = reader_of(data, device), data.views.count
    if store.contains("targets", inputs):
        console.settle("targets", "found")

    def compute(start: int, stop: int) -> NDArray[np.float16]:
        rows = torch.arange(start, stop, device=device).repeat_interleave(views)
        kinds = torch.arange(views, device=device).repeat(stop - start)
        logits = live_logits(network, reader, rows, kinds)
        return logits.half().cpu().numpy().reshape(stop - start, views, data.classes)

    def build(folder: Path) -> None:
        shape = (len(data.labels), views, data.classes)
        with console.stage("targets", len(data.labels), "images") as stage:
            budget = _FORWARD_PIXELS.get(device.type, _FORWARD_PIXELS["cpu"])
            shard = max(1, budget // (views * pixels_of(data)))
            shards.fill(folder, "logits", shape, np.float16, shard, compute, stage.advance)

    def verify(folder: Path) -> None:
        verify_logits(shards.read_array(folder, "logits"), network, reader)

    folder = store.entry("targets", inputs, build, verify)
    return shards.read_array(folder, "logits"), vault.digest(inputs)


def verify_logits(bank: NDArray[np.float16], network: nn.Module, reader: augment.Reader) -> None:
    """Compare sampled rows, each in a view of its own, with the live teacher (laws 1 and 2).

    MaterialError when any differs by more than fp16 can explain: the row is about another image.
    """
    rows = np.unique(np.linspace(0, len(bank) - 1, _SAMPLE).astype(np.int64))
    views = np.random.default_rng(0).integers(reader.kinds.count, size=len(rows))
    device = reader.packed.device
    live = live_logits(
        network, reader, torch.from_numpy(rows).to(device), torch.from_numpy(views).to(device)
    )
    expected = live.cpu().numpy()
    error = np.abs(bank[rows, views].astype(np.float32) - expected).max(axis=1)
    allowed = 2e-3 * np.maximum(1, np.abs(expected).max(axis=1))
    wrong = rows[error > allowed]
    if len(wrong):
        raise MaterialError(
            f"the bank of targets disagrees with the live teacher on {len(wrong)} of {len(rows)} "
            f"sampled rows (row {wrong[0]} by {error.max():.3g}): it is not about these images"
        )


def overlay_maps(
    options: spec.Overlays,
    data: datasets.Dataset,
    network: nn.Module,
    network_digest: str,
    store: vault.Vault,
    device: torch.device,
) -> tuple[NDArray[np.uint8], float, str]:
    """The bank of overlay maps, uint8 (N, H, W), the completeness gap and the bank's fingerprint.

    The gap is the median of |sum of attributions - (f(x) - f(baseline))| / |f(x) - f(baseline)|
    over sampled images. The maps are the images' own: `apply_control` acts when they are read.
    """
    inputs = {
        "data": data.fingerprint,
        "teacher": network_digest,
        "overlays": options.model_dump(mode="json", exclude={"control"}),
        "version": _VERSION,
    }
    reader, labels = reader_of(data, device), torch.from_numpy(data.labels).to(device)
    if store.contains("overlays", inputs):
        console.settle("overlays", "found")

    budget = _GRADIENT_PIXELS.get(device.type, _GRADIENT_PIXELS["cpu"])

    def attribute(rows: Tensor) -> attribution.Attribution:
        images = reader.unaugmented(rows)
        return attribution.attribute(
            network,
            images,
            labels[rows],
            steps=options.steps,
            rule=options.rule,
            internal_batch_size=max(options.steps, budget // pixels_of(data)),
        )

    def maps_of(rows: Tensor) -> NDArray[np.uint8]:
        maps = attribution.to_maps(attribute(rows).values)
        return (maps * 255).round().to(torch.uint8).cpu().numpy()

    def build(folder: Path) -> None:
        count, height, width = len(data.labels), *data.image_shape[1:]

        def compute(start: int, stop: int) -> NDArray[np.uint8]:
            return maps_of(torch.arange(start, stop, device=device))

        with console.stage("overlays", count, "images") as stage:
            shard = max(1, budget // (options.steps * pixels_of(data)))
            shape = (count, height, width)
            shards.fill(folder, "maps", shape, np.uint8, shard, compute, stage.advance)
        sample = _sample_rows(count, _SAMPLE).to(device)
        found = attribute(sample)
        gap = found.relative_gap().median().item()
        text = json.dumps({"completeness_gap": gap, "images": len(sample), "steps": options.steps})
        vault.write_whole(folder / "completeness.json", text.encode())

    def verify(folder: Path) -> None:
        sample = _sample_rows(len(data.labels), _MAP_SAMPLE)
        verify_maps(shards.read_array(folder, "maps")[sample.numpy()], maps_of(sample.to(device)))

    folder = store.entry("overlays", inputs, build, verify)
    gap = json.loads((folder / "completeness.json").read_bytes())["completeness_gap"]
    return shards.read_array(folder, "maps"), gap, vault.digest(inputs)


def verify_maps(stored: NDArray[np.uint8], live: NDArray[np.uint8]) -> None:
    """Compare stored maps (B, H, W) with fresh ones; MaterialError below correlation 0.99."""
    for row, (ours, theirs) in enumerate(zip(stored, live, strict=True)):
        centred = [m.astype(np.float64).ravel() - m.mean() for m in (ours, theirs)]
        norm = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
        same = bool((ours == theirs).all())
        correlation = 1.0 if same else float(centred[0] @ centred[1]) / norm if norm else 0.0
        if correlation < _MAP_CORRELATION:
            raise MaterialError(
                f"the bank of overlays disagrees with live attributions (sampled row {row}: "
                f"correlation {correlation:.3f}, needed {_MAP_CORRELATION}): it is not about these "
                "images"
            )


def _sample_rows(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, size).astype(np.int64)))
