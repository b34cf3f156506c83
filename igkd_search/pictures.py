"""What the student of a trial saw in its very first step, as a small document to be drawn later.

The step is drawn as the training drew it, from the same seed, so that what is shown is what was
trained on: the views, which of them an overlay was laid over, and how strongly.
"""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from igkd_search import documents, lessons, resizing, spec, training

COLUMNS = 8
_OVERLAID = 5  # at most, beside others without an overlay
_LARGEST = 48  # pixels a side: enough to see, and some kB


def seen(
    config: spec.TrialConfig, stock: training.Stock, seed: int, control: spec.Control = "none"
) -> bytes:
    """COLUMNS images of the first step of a trial: the view, its map, and what the student saw.

    `control` is what the study's overlays really are. Overlaid images come first. The bytes are
    those of a document (`documents`), of at most some hundred kB whatever the images are.
    """
    lesson = training.first_lesson(config, stock, seed)
    chosen = _choose(lesson.chance[0] < config.overlay_probability)
    part = lesson._replace(
        images=lesson.images[chosen],
        maps=lesson.maps[chosen],
        chance=lesson.chance[:, chosen],
        labels=lesson.labels[chosen],
    )
    shown = _as_resized(lessons.see(part, lessons.Knobs.of(config), config.cutout), config)
    mean, sd = (values[:, None, None] for values in (lesson.mean, lesson.sd))
    rows = {"view": part.images, "map": part.maps[:, None], "seen": shown * sd + mean}
    return documents.dump(
        {
            "rows": {name: _packed(_small(pixels)) for name, pixels in rows.items()},
            "labels": part.labels.tolist(),
            "overlaid": (part.chance[0] < config.overlay_probability).tolist(),
            "probability": config.overlay_probability,
            "strength": config.overlay_strength,
            "exponent_max": config.overlay_exponent_max,
            "cutout": config.cutout,
            "resolution": config.resolution,
            "control": control,
        }
    )


def _choose(overlaid: Tensor) -> Tensor:
    """Which of the batch are shown: some with an overlay, then others."""
    with_, without = (where.nonzero()[:, 0] for where in (overlaid, ~overlaid))
    first = with_[: max(_OVERLAID, COLUMNS - len(without))]
    return torch.cat([first, without])[:COLUMNS]


def _as_resized(pixels: Tensor, config: spec.TrialConfig) -> Tensor:
    """Images (B, C, H, W) with no more in them than a student of a lower resolution gets."""
    size = (pixels.shape[2], pixels.shape[3])
    if config.resolution is None or config.resolution == max(size):
        return pixels
    resize = resizing.Resize(size, resizing.reduced(*size, config.resolution)).to(pixels.device)
    return functional.interpolate(resize(pixels), size, mode="nearest")


def _small(pixels: Tensor) -> Tensor:
    """Images (B, C, H, W) no larger than is kept."""
    side = max(pixels.shape[2:])
    if side <= _LARGEST:
        return pixels
    size = [max(1, round(each * _LARGEST / side)) for each in pixels.shape[2:]]
    return functional.interpolate(pixels.contiguous(), size, mode="area")


def _packed(pixels: Tensor) -> str:
    """Images (B, C, H, W) in [0, 1], side by side in one PNG as text."""
    strip = np.concatenate(list(pixels.clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()), axis=1)
    strip = (strip * 255).round().astype(np.uint8)
    image = Image.fromarray(strip[..., 0] if strip.shape[2] == 1 else strip)
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
