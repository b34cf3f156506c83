"""The test part: opened when every model is finished, read once by each, and the reading recorded.

The counter of a model is raised before the model answers, so that a reading whose answers were lost
is counted too. What a model has answered stays in its folder: no later command asks it again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igkd_search import augment, datasets, evaluation, sources, spec, stages, vault
from igkd_search.errors import StudyError

log = logging.getLogger(__name__)

ANSWERS, READS, SET = "test.json", "test_reads.json", "test_set.json"


@dataclass(frozen=True)
class Part:
    """The opened test part: pixels uint8 (N, 3, H, W) on the host, labels (N,) on the device."""

    pixels: sources.Pixels
    labels: Tensor
    reader: augment.Reader

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """These images (B, 3, H, W) as networks take them: never augmented, normalised."""
        unit = torch.tensor(np.asarray(self.pixels[rows])).to(self.labels.device).float().div_(255)
        unit = unit.contiguous(memory_format=torch.channels_last)
        return augment.normalise(unit, self.reader.mean, self.reader.sd)

    def chunks(self) -> Iterator[NDArray[np.int64]]:
        """All rows in order, as many at once as the device best takes."""
        _, height, width = self.pixels.shape[1:]
        size = evaluation.chunk_of(self.labels.device, height * width)
        every = np.arange(len(self.pixels))
        return (every[start : start + size] for start in range(0, len(every), size))


@dataclass(frozen=True)
class Candidate:
    """A finished model: the folder that its answers are kept in, and how it answers.

    `logits` maps normalised images (B, C, H, W) and their pixels, uint8, to logits (B, classes);
    `more` adds what else is measured on the very same part.
    """

    folder: Path
    logits: Callable[[Tensor, sources.Pixels], Tensor]
    more: Callable[[Part], Mapping[str, Any]] = lambda part: {}

    @property
    def is_read(self) -> bool:
        """Whether its answers are known."""
        return (self.folder / ANSWERS).is_file()

    def answers(self) -> dict[str, Any]:
        """reads, accuracy, loss, calibration_error, predictions and confidence, an image each."""
        found: dict[str, Any] = json.loads((self.folder / ANSWERS).read_bytes())
        return found


def read(
    candidates: Sequence[Candidate],
    data: spec.Data,
    training: datasets.Dataset,
    reader: augment.Reader,
    folder: Path,
    home: Path,
) -> dict[str, Any]:
    """Have those answer that have not, and say what the test part is; it stays shut if all have.

    Returns images, labels, sha256 and duplicates, the test images that were trained on too.
    StudyError when the test part is another than the earlier answers are about.
    """
    kept = folder / SET
    known: dict[str, Any] | None = json.loads(kept.read_bytes()) if kept.is_file() else None
    waiting = [each for each in candidates if not each.is_read]
    if not waiting and known is not None:
        return known
    pixels, labels = datasets.load_test(data, home, training.classes)
    found = _described(pixels, labels, training)
    if known is not None and found != known:
        raise StudyError(
            f"{kept}: the test part is another now than when the first models of this folder read "
            "it; restore it, or give an empty folder with -o"
        )
    vault.write_whole(kept, json.dumps(found).encode())
    part = Part(pixels, torch.tensor(labels).to(reader.mean.device), reader)
    with stages.stage("test", len(waiting), "models") as stage:
        for each in waiting:
            reads = _count(each.folder)
            told = {"reads": reads, **_answered(each, part)}
            vault.write_whole(each.folder / ANSWERS, json.dumps(told).encode())
            stage.advance()
    return found


def _described(
    pixels: sources.Pixels, labels: NDArray[np.int64], training: datasets.Dataset
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for image in pixels:
        digest.update(image.tobytes())
    duplicates = datasets.count_duplicates(training.images, pixels)
    if duplicates:
        log.warning(
            "%d of %d test images are in the training part too: the test accuracy may be too high",
            duplicates,
            len(pixels),
        )
    return {
        "images": len(labels),
        "labels": labels.tolist(),
        "sha256": digest.hexdigest(),
        "duplicates": duplicates,
    }


def _answered(candidate: Candidate, part: Part) -> dict[str, Any]:
    logits = torch.cat(
        [candidate.logits(part.images(rows), part.pixels[rows]) for rows in part.chunks()]
    )
    scores = evaluation.score(logits, part.labels)
    confidence, predictions = logits.softmax(1).max(1)
    return {
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "calibration_error": scores.calibration_error,
        "predictions": predictions.tolist(),
        "confidence": [round(each, 4) for each in confidence.tolist()],
        **candidate.more(part),
    }


def _count(folder: Path) -> int:
    """One more reading by a model; 1 unless a process died between reading and writing."""
    path = folder / READS
    reads = 1 + (int(json.loads(path.read_bytes())) if path.exists() else 0)
    vault.write_whole(path, json.dumps(reads).encode())
    return reads
