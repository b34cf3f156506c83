"""What a network answers, and how good the answers are: accuracy, loss, calibration, confusion."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import augment

_BINS = 15  # of confidence, as Guo et al. 2017 (arXiv 1706.04599) take them
# Pixels of one chunk of a forward: 64 images of 32x32 need some 100 MB; a GPU wants thousands.
_FORWARD_PIXELS = {"cpu": 2**16, "cuda": 2**21, "mps": 2**18}

Confusion = tuple[tuple[int, ...], ...]
"""Counts (classes, classes): row the true class, column the answer."""


@dataclass(frozen=True)
class Scores:
    """How good answers are: accuracy in [0, 1], mean cross entropy in nats, calibration error.

    calibration_error is the expected one, in [0, 1]: how far the confidence of answers lies from
    their accuracy, averaged over 15 bins of confidence (Guo et al. 2017).
    """

    accuracy: float
    loss: float
    calibration_error: float
    confusion: Confusion


def class_accuracy(confusion: Confusion) -> tuple[float | None, ...]:
    """The share of each class that is answered right; None for a class without images."""
    return tuple(row[index] / sum(row) if sum(row) else None for index, row in enumerate(confusion))


def score(logits: Tensor, labels: Tensor) -> Scores:
    """The scores of float logits (N, classes) against labels (N,)."""
    # not at the top: with its own imports torchmetrics takes seconds, and no short command needs it
    from torchmetrics.functional import classification

    classes = logits.shape[1]
    confusion = classification.multiclass_confusion_matrix(
        logits.argmax(1), labels, classes, validate_args=False
    )
    loss = functional.cross_entropy(logits, labels)
    calibration = classification.multiclass_calibration_error(
        logits.softmax(1), labels, classes, _BINS, validate_args=False
    )
    counts = tuple(map(tuple, confusion.tolist()))
    return Scores(
        accuracy=sum(row[index] for index, row in enumerate(counts)) / len(labels),
        loss=loss.item(),
        calibration_error=calibration.item(),
        confusion=counts,
    )


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch: int | None = None) -> Scores:
    """The scores of a model in eval mode on normalised images (N, C, H, W) and labels (N,)."""
    return score(predict(model, images, batch), labels)


def score_rows(model: nn.Module, reader: augment.Reader, labels: Tensor, rows: Tensor) -> Scores:
    """The scores of a model in eval mode on these rows of `labels` (N,), read as they are."""
    _, height, width = reader.image_shape
    chunks = torch.split(rows, chunk_of(rows.device, height * width))
    return score(predict_each(model, map(reader.unaugmented, chunks)), labels[rows])


def predict(model: nn.Module, images: Tensor, batch: int | None = None) -> Tensor:
    """float32 logits (N, classes) of normalised images (N, C, H, W), in eval mode, in chunks."""
    batch = batch or chunk_of(images.device, images[0, 0].numel())
    return predict_each(model, torch.split(images, batch))


def predict_each(model: nn.Module, chunks: Iterable[Tensor]) -> Tensor:
    """float32 logits (N, classes) of normalised images that come in chunks (n, C, H, W)."""
    assert not model.training
    parts = []
    for chunk in chunks:
        # not inference_mode, whose results a loss cannot use; not autocast, which would round them
        with torch.no_grad(), torch.autocast(chunk.device.type, enabled=False), _full_precision():
            parts.append(model(chunk).float())
    return torch.cat(parts)


def chunk_of(device: torch.device, pixels: int) -> int:
    """How many images of so many pixels a device best takes in one forward."""
    return max(1, _FORWARD_PIXELS.get(device.type, _FORWARD_PIXELS["cpu"]) // pixels)


def _full_precision() -> AbstractContextManager[None]:
    """Convolutions without TF32, cuDNN's default: a bank must be what any other host computes."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
