"""Random images, maps and soft targets as a trial reads them: what a step costs needs no teacher.

Pixels do not change the time of a step, so the loop is measured on 32x32 images without a download
and without materials that take minutes; `--data` puts real images in their place.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from igkd_search import augment, compiling, registry, spec, training

_CLASSES = 10
_PLANNED_EPOCHS = 20 * 100  # of a search: enough for a GPU to compile, if that is quicker
_VALIDATION_ROWS = 2  # validation is not measured, but a trial has one


@dataclass(frozen=True)
class Kind:
    """The images of a shipped study, and the trial that it runs on them."""

    study: str
    side: int
    views: augment.Views
    batch_size: int

    @property
    def study_batch(self) -> int:
        """The batch size of the study's file."""
        return registry.find(self.study).trial.batch_size

    def at(self, batch_size: int) -> "Kind":
        """The same images in batches of another size."""
        return replace(self, batch_size=batch_size)

    def trial(self) -> spec.TrialConfig:
        """One epoch of the study's trial, with the paper's choice of KD weight and overlay."""
        choice = {"kd_weight": 0.01, "temperature": 2.5, "overlay_probability": 0.1}
        size = {"epochs": 1, "batch_size": self.batch_size, "removed_blocks": 5}
        return registry.find(self.study).trial.model_copy(update=choice | size)


CIFAR = Kind("cifar10", 32, augment.Views(4, True), 64)
"""32x32, at the paper's batch."""
DIGITS = Kind("digits", 8, augment.Views(1, False), 32)
"""8x8, at the batch of `studies/digits.toml`: operators on so few pixels wait for dispatch."""


def images_of(kind: Kind, count: int, folder: Path | None) -> augment.Pixels:
    """uint8 (count, 3, H, W): the first of CIFAR-10 as arrays in `folder`, else random ones."""
    if folder is None:
        shape = (count, 3, kind.side, kind.side)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = np.load(folder / "train_images.npy", mmap_mode="r")
    chosen: augment.Pixels = images[np.arange(count) % len(images)]
    return chosen


def make(kind: Kind, images: augment.Pixels, device: torch.device) -> training.Stock:
    """A stock of these images with a bank of random targets of every view, on the device."""
    count = len(images)
    generator = np.random.default_rng(1)
    maps = generator.integers(0, 256, (count, kind.side, kind.side), dtype=np.uint8)
    mean, sd = (torch.full((3,), value, device=device) for value in (0.47, 0.25))
    targets = torch.empty(
        (count, kind.views.count, _CLASSES), dtype=torch.float16, device=device
    ).normal_()
    return training.Stock(
        reader=augment.Reader.of(images, maps, kind.views, mean, sd),
        labels=torch.from_numpy(generator.integers(0, _CLASSES, count)).to(device),
        targets=targets,
        chosen=None,
        taught_by=None,
        network=nn.Identity(),
        fit_rows=torch.arange(count, device=device),
        validation_rows=torch.arange(_VALIDATION_ROWS, device=device),
        classes=_CLASSES,
        architecture="mobilenet_v2",
        steps=compiling.Steps.of(device, _PLANNED_EPOCHS),
    )
