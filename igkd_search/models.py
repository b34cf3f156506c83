"""Teacher and student architectures, and what they cost: parameters, multiply-accumulates.

The teacher is torchvision's MobileNetV2 with the strides of 32x32 images; the student is its first
blocks, then global average pooling and one linear layer (arXiv 2503.13008, section 3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2

from igkd_search.errors import StudyError

# expansion, channels, repeats, stride: torchvision's table but for the strides of small images
_SMALL_IMAGE_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenet_v2(classes: int, width: float = 1.0) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) for small images: stem and second stage keep size."""
    network: nn.Module = MobileNetV2(
        num_classes=classes, width_mult=width, inverted_residual_setting=_SMALL_IMAGE_STAGES
    )
    stem = _blocks(network)[0][0]  # type: ignore[index]
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return network


TEACHERS: dict[str, Callable[[int, float], nn.Module]] = {"mobilenet_v2": mobilenet_v2}
"""Architecture name -> (classes, width) -> a fresh network whose `.features` are its blocks."""


class Student(nn.Module):
    """The first blocks of a network, global average pooling and one linear layer.

    Images (B, 3, H, W), normalised, to logits (B, classes).
    """

    def __init__(self, blocks: Sequence[nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


@dataclass(frozen=True, order=True)
class Architecture:
    """What a student is made of; equal architectures share one latency figure."""

    teacher: str
    removed_blocks: int
    width: float = 1.0

    @property
    def name(self) -> str:
        """The key of this architecture in tables, such as `mobilenet_v2-5`."""
        return f"{self.teacher}-{self.removed_blocks}" + (
            f"-x{self.width:g}" if self.width != 1 else ""
        )


def build_teacher(name: str, classes: int, width: float = 1.0) -> nn.Module:
    """A freshly initialised teacher from torch's global generator."""
    return TEACHERS[name](classes, width)


def build_student(architecture: Architecture, classes: int) -> Student:
    """A student initialised from torch's global generator; StudyError without a block."""
    blocks = _blocks(build_teacher(architecture.teacher, classes, architecture.width))
    check_removed_blocks(architecture)
    kept = blocks[: len(blocks) - architecture.removed_blocks]
    norms = [part for part in kept.modules() if isinstance(part, nn.BatchNorm2d)]
    return Student(list(kept), norms[-1].num_features, classes)


def check_removed_blocks(architecture: Architecture) -> None:
    """Raise StudyError unless at least one block of the teacher is left."""
    with torch.device("meta"):
        total = len(_blocks(build_teacher(architecture.teacher, 2, architecture.width)))
    if not 0 <= architecture.removed_blocks < total:
        raise StudyError(
            f"removed_blocks = {architecture.removed_blocks}: {architecture.teacher} has {total} "
            f"blocks; allowed are 0 to {total - 1}"
        )


def copy_prefix(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the teacher's first blocks into a student; StudyError when the widths differ."""
    ours, theirs = student.state_dict(), teacher.state_dict()
    shared = {name: theirs[name] for name in ours if name.startswith("features.")}
    wrong = [name for name, value in shared.items() if value.shape != ours[name].shape]
    if wrong:
        raise StudyError(
            f"initialisation = 'teacher': {wrong[0]} is {tuple(shared[wrong[0]].shape)} in the "
            f"teacher and {tuple(ours[wrong[0]].shape)} in the student; give both the same width"
        )
    student.load_state_dict({**ours, **shared})


def count_parameters(model: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image (C, H, W)."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        # each output value is a dot product over one filter's inputs
        total += output.numel() * (weight.numel() // weight.shape[0])

    layers = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    training, device = model.training, next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *image_shape, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total


def _blocks(network: nn.Module) -> nn.Sequential:
    blocks = network.features
    assert isinstance(blocks, nn.Sequential)
    return blocks
