"""The bank of soft targets: the teacher's logits of every view that training can show, in fp16.

Row i is image i of the training part, column v its v-th view. What is looked up by (row, view) is
what a live teacher would say of that view, so no trial asks one. After a build, and when a bank is
first opened, rows are compared with the live teacher: a permuted bank never reaches a trial (the
fault of the paper's code). A killed build goes on at its last shard.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import augment, datasets, evaluation, memory, shards, spec, stages, vault
from igkd_search.errors import MaterialError

log = logging.getLogger(__name__)

_VERSION = 3  # raise when the same inputs would give other numbers
_SAMPLE = 64  # rows compared with the live teacher when a bank is opened
_FRESH_SAMPLE = 2048  # after a build
_ERROR = 2e-3  # fp16 rounds by 2^-11; the rest is for another batch size or device
# Pixels of one shard: memory stays the same whatever the images' size; a GPU wants millions
_SHARD_PIXELS = {"cpu": 2**19, "cuda": 2**25, "mps": 2**21}


@dataclass(frozen=True)
class LogitsBank:
    """logits fp16 (N, V, classes), memory-mapped, of V views of each image, and their digest."""

    logits: NDArray[np.float16]
    digest: str


def choose_views(kinds: augment.Views, rows: int, count: int, seed: int) -> NDArray[np.int64]:
    """`count` distinct view indexes of each of `rows` images, (rows, count), ascending in a row.

    Each image has views of its own, so that together they still show every crop (Shen and Xing
    2022, "A fast knowledge distillation framework for visual recognition").
    """
    draws = np.random.default_rng(seed).random((rows, kinds.count), dtype=np.float32)
    return np.sort(np.argsort(draws, axis=1, kind="stable")[:, :count], axis=1).astype(np.int64)


def chosen_views(study: spec.Run, data: datasets.Dataset) -> NDArray[np.int64] | None:
    """The view indexes (N, K) that materials.views restricts training to; None: all views."""
    count = _restriction(study, data)
    if count is None:
        return None
    return choose_views(data.views, len(data.labels), count, study.data.seed)


def _restriction(study: spec.Run, data: datasets.Dataset) -> int | None:
    """materials.views where it leaves any view out."""
    asked = study.materials.views
    return None if asked is None or asked >= data.views.count else asked


def use_bank(study: spec.Run, data: datasets.Dataset) -> bool:
    """Whether targets are stored: when asked, or when all views fit and pay. Logs both costs."""
    options, epochs = study.materials, study.planned_epochs()
    restriction = _restriction(study, data)
    views = restriction or data.views.count
    size = views * len(data.labels) * data.classes * 2  # bytes of fp16
    if options.targets != "auto":
        chosen, why = options.targets != "live", f"targets = '{options.targets}'"
    elif restriction is not None:
        chosen, why = True, f"views = {views}"
    elif size > options.max_bytes:
        chosen, why = False, f"the bank exceeds materials.max_bytes = {options.max_bytes:,}"
    else:
        chosen, why = views <= epochs, f"{views} views, {epochs} epochs planned"
    log.info(
        "targets: %s, since %s (bank: %s teacher forwards, %.1f MB; live: up to %s forwards)",
        "bank" if chosen else "live",
        why,
        f"{views * len(data.labels):,}",
        size / 1e6,
        f"{epochs * len(data.fit_rows):,}",
    )
    return chosen


def live_logits(network: nn.Module, reader: augment.Reader, rows: Tensor, views: Tensor) -> Tensor:
    """The teacher's float32 logits (B, classes) of these views of these rows, without overlay."""
    return evaluation.predict(network, reader.normalised(rows, views))


def obtain(
    data: datasets.Dataset,
    network: nn.Module,
    network_digest: str,
    store: vault.Vault,
    device: torch.device,
    chosen: NDArray[np.int64] | None = None,
) -> LogitsBank:
    """The bank of all views, or of the `chosen` view indexes (N, K), found or built.

    MaterialError when it disagrees with the live teacher, StorageError when the disk is full.
    """
    inputs = {
        "data": data.fingerprint,
        "teacher": network_digest,
        "views": [data.views.shift, data.views.flip],
        "chosen": None if chosen is None else hashlib.sha256(chosen.tobytes()).hexdigest(),
        "version": _VERSION,
    }
    reader = datasets.reader_of(data, device)
    if store.contains("targets", inputs):
        stages.settle("targets", "found")

    def build(folder: Path) -> None:
        _fill(folder, data, network, reader, chosen)

    def check(folder: Path) -> None:
        # of a fresh bank many rows, from as many shards: none may lie elsewhere
        sample = _FRESH_SAMPLE if folder.suffix == vault.PARTIAL else _SAMPLE
        verify(shards.read_array(folder, "logits"), network, reader, chosen, sample)

    folder = store.entry("targets", inputs, build, check)
    return LogitsBank(shards.read_array(folder, "logits"), vault.digest(inputs))


def _fill(
    folder: Path,
    data: datasets.Dataset,
    network: nn.Module,
    reader: augment.Reader,
    chosen: NDArray[np.int64] | None,
) -> None:
    device, views = reader.device, _views_of(reader, chosen)
    count = len(data.labels)
    pixels = data.images.shape[2] * data.images.shape[3]
    shard = max(1, _SHARD_PIXELS.get(device.type, _SHARD_PIXELS["cpu"]) // (views * pixels))
    batch = memory.Batch(shard)

    def compute(start: int, stop: int) -> NDArray[np.float16]:
        return batch.attempt(
            lambda size: np.concatenate(
                [logits_of(first, min(first + size, stop)) for first in range(start, stop, size)]
            )
        )

    def logits_of(start: int, stop: int) -> NDArray[np.float16]:
        rows = np.arange(start, stop).repeat(views)
        places = np.tile(np.arange(views), stop - start)
        logits = live_logits(network, reader, *_on(device, rows, _indexes(chosen, rows, places)))
        stored = logits.half().cpu().numpy().reshape(stop - start, views, data.classes)
        if not np.isfinite(stored).all():
            raise MaterialError(
                f"the teacher's logits reach {logits.abs().max():.3g}; a bank holds fp16, up to "
                "65504: train or import a calmer teacher, or set materials.targets = 'live'"
            )
        return stored

    with stages.stage("targets", count, "images") as stage:
        shape = (count, views, data.classes)
        shards.fill(folder, "logits", shape, np.float16, shard, compute, stage.advance)


def verify(
    bank: NDArray[np.float16],
    network: nn.Module,
    reader: augment.Reader,
    chosen: NDArray[np.int64] | None = None,
    sample: int = _SAMPLE,
) -> None:
    """Compare sampled rows, each in a view of its own, with the live teacher (laws 1 and 2).

    MaterialError when any differs by more than fp16 can explain: the row is about another image.
    """
    rows = datasets.sample_rows(len(bank), sample)
    places = np.random.default_rng(0).integers(_views_of(reader, chosen), size=len(rows))
    views, device = _indexes(chosen, rows, places), reader.device
    pieces = [slice(start, start + _SAMPLE) for start in range(0, len(rows), _SAMPLE)]
    asked = [live_logits(network, reader, *_on(device, rows[s], views[s])) for s in pieces]
    live = torch.cat(asked).cpu().numpy()
    error = np.abs(bank[rows, places].astype(np.float32) - live).max(axis=1)
    # not "error > bound": what overflowed fp16 is infinite or NaN, and NaN exceeds nothing
    wrong = rows[~(error <= error_bound(live))]
    if len(wrong):
        raise MaterialError(
            f"the bank of targets disagrees with the live teacher on {len(wrong)} of {len(rows)} "
            f"sampled rows (row {wrong[0]} by {error.max():.3g}): it is not about these images"
        )


def error_bound(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the bank may lie from float32 logits (B, classes): (B,), a share of the largest."""
    largest: NDArray[np.float32] = np.maximum(1, np.abs(logits).max(axis=1))
    return largest * np.float32(_ERROR)


def _views_of(reader: augment.Reader, chosen: NDArray[np.int64] | None) -> int:
    return reader.kinds.count if chosen is None else chosen.shape[1]


def _indexes(
    chosen: NDArray[np.int64] | None, rows: NDArray[np.int64], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    return places if chosen is None else chosen[rows, places]


def _on(device: torch.device, *arrays: NDArray[np.int64]) -> list[Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]
