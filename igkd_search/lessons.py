"""What a student is asked and told in one step, as one pure function that may be compiled.

Everything that a batch needs is looked up before (training); what varies between trials comes in as
a value, so that one compiled graph serves them all.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from igkd_search import augment, losses, models, spec


class Knobs(NamedTuple):
    """What trials vary by value: floats, or 0-dim float32 tensors where the step is compiled.

    A float is a constant of a compiled step, and each trial would compile its own.
    """

    kd_weight: float | Tensor
    temperature: float | Tensor
    overlay_probability: float | Tensor
    overlay_strength: float | Tensor
    overlay_exponent_max: float | Tensor
    label_smoothing: float | Tensor
    attention_weight: float | Tensor

    @classmethod
    def of(cls, config: spec.TrialConfig) -> "Knobs":
        """Those of a trial, as floats."""
        return cls(*(getattr(config, name) for name in cls._fields))

    def on(self, device: torch.device) -> "Knobs":
        """The same as tensors on a device."""
        return Knobs(*(torch.tensor(knob, dtype=torch.float32, device=device) for knob in self))


class Lesson(NamedTuple):
    """What one step learns from; of the same shapes at every step of a trial."""

    images: Tensor
    """(B, C, H, W) in [0, 1], in the views that were drawn."""
    maps: Tensor
    """(B, H, W) in [0, 1], in the same views."""
    chance: Tensor
    """(4, B), see batches.Batch."""
    mean: Tensor
    """(C,), of the fit rows in [0, 1]."""
    sd: Tensor
    labels: Tensor
    """(B,)."""
    targets: Tensor | None
    """The teacher's logits (B, classes) on these views; None: no soft targets, kd_weight is 0."""
    watched: Tensor | None
    """What the teacher's block beside the student's last one says, (B, C', h, w); None: off."""


class Key(NamedTuple):
    """All of a trial that changes the graph of its step."""

    architecture: spec.Architecture
    batch_size: int
    cutout: int
    soft: bool
    """Whether there are soft targets."""
    watched: bool
    """Whether there is attention to transfer."""

    def __str__(self) -> str:
        return f"{self.architecture.name}, batch {self.batch_size}"


def see(lesson: Lesson, knobs: Knobs, cutout: int) -> Tensor:
    """What the student is shown, normalised (B, C, H, W): views, overlaid and cut out by chance."""
    overlaid = augment.overlay(
        lesson.images,
        lesson.maps,
        lesson.chance[:2],
        probability=knobs.overlay_probability,
        strength=knobs.overlay_strength,
        exponent_max=knobs.overlay_exponent_max,
    )
    seen = augment.normalise(overlaid, lesson.mean, lesson.sd)
    return augment.cut_out(seen, lesson.chance[2:], cutout) if cutout else seen


def learn(model: nn.Module, lesson: Lesson, knobs: Knobs, cutout: int) -> Tensor:
    """The loss of a step: overlay, normalise, cut out `cutout` pixels a side, answer, compare.

    Pure but for the model's own statistics and dropout. Only what is in a Key changes its graph.
    """
    logits, attention = _answer(model, see(lesson, knobs, cutout), lesson.watched)
    loss = losses.distillation_loss(
        logits,
        # without soft targets their term is multiplied by zero
        logits.detach() if lesson.targets is None else lesson.targets,
        lesson.labels,
        kd_weight=knobs.kd_weight,
        temperature=knobs.temperature,
        label_smoothing=knobs.label_smoothing,
    )
    return loss if attention is None else loss + knobs.attention_weight * attention


def _answer(model: nn.Module, seen: Tensor, watched: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The student's logits, and how far it looks elsewhere than the teacher."""
    if watched is None:
        return model(seen).float(), None
    assert isinstance(model, models.Student)
    maps = model.maps(seen)
    return model.answer(maps).float(), losses.attention_loss(maps, watched)
