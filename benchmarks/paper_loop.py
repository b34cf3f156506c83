"""The training loop as the paper runs it (arXiv 2503.13008), written anew from its facts.

A Dataset opens each image with PIL, crops it from a padding, mirrors it, makes a tensor of it, lays
its map over it with the paper's probability and looks its teacher logits up; a DataLoader collates
batches of it. fp32, contiguous in memory, Adam at 1e-3. What the facts do not settle is left out in
its favour: it does not normalise, and it reads no loss back from the device.
"""

import math
import random
import time

import measure
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from igkd_search import augment, losses, spec

Sample = tuple[Tensor, int, Tensor]


class OverlaidImages(Dataset[Sample]):
    """Images uint8 (N, 3, H, W), maps float (N, H, W), teacher logits (N, classes), one by one."""

    def __init__(
        self,
        images: augment.Pixels,
        maps: Tensor,
        logits: Tensor,
        labels: NDArray[np.int64],
        shift: int,
        config: spec.TrialConfig,
    ) -> None:
        self._pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self._maps, self._logits, self._labels = maps, logits, labels
        self._probability = config.overlay_probability
        self._view = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[2], padding=shift),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        seen: Tensor = self._view(Image.fromarray(self._pixels[index]))
        if random.random() < self._probability:
            sharp = self._maps[index] ** math.exp(random.uniform(0, math.log(2)))
            low, high = sharp.min(), sharp.max()
            seen = 0.5 * seen + 0.5 * (sharp - low) / (high - low)
        return seen, int(self._labels[index]), self._logits[index]


def seconds_of(
    student: nn.Module,
    data: OverlaidImages,
    config: spec.TrialConfig,
    device: torch.device,
    *,
    steps: int,
    loader_workers: int,
) -> float:
    """Seconds of so many steps, from the loader's first batch on: its start is not counted."""
    size = config.batch_size
    # one batch more than is trained on, which is the one that the loader starts with
    order = RandomSampler(data, num_samples=(steps + 1) * size, replacement=True)
    loader = DataLoader(
        data,
        size,
        sampler=order,
        num_workers=loader_workers,
        pin_memory=device.type == "cuda" and loader_workers > 0,
    )
    student = student.to(device).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    batches = iter(loader)
    next(batches)
    began = time.perf_counter()
    for images, labels, logits in batches:
        answers = student(images.to(device))
        loss = losses.distillation_loss(
            answers,
            logits.to(device),
            labels.to(device),
            kd_weight=config.kd_weight,
            temperature=config.temperature,
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    measure.wait()
    return time.perf_counter() - began
