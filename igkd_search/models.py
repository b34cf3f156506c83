"""Teacher and student networks, and what they cost: parameters, multiply-accumulates.

The student is the first blocks of a network, then global average pooling and one linear layer
(arXiv 2503.13008, section 3). What the blocks of an architecture are is said here; `networks`
builds it.
"""

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from igkd_search import networks, resizing, spec
from igkd_search.errors import StudyError

# torchvision's networks that are their children in this order, up to one of the heads
_IN_ORDER = (
    models.GoogLeNet,
    models.Inception3,
    models.MNASNet,
    models.RegNet,
    models.ResNet,
    models.ShuffleNetV2,
)
_HEADS = {"avgpool", "fc", "classifier"}
_LARGE = 512  # pixels a side, which no network shrinks to nothing


class Student(nn.Module):
    """The first blocks of a network, global average pooling and one linear layer.

    Images (B, 3, H, W), normalised, to logits (B, classes); `resize` goes before the first block.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        channels: int,
        classes: int,
        resize: resizing.Resize | None = None,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """What the last block says of images (B, 3, H, W): maps (B, C, h, w)."""
        maps: Tensor = self.features(images if self.resize is None else self.resize(images))
        return maps

    def answer(self, maps: Tensor) -> Tensor:
        """Logits (B, classes) from what the last block says, (B, C, h, w)."""
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits


class Resized(nn.Module):
    """A whole network that is shown smaller images, (B, 3, H, W), than it is given."""

    def __init__(self, resize: resizing.Resize, network: nn.Module) -> None:
        super().__init__()
        self.resize, self.network = resize, network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.resize(images))
        return logits


def build_teacher(name: str, classes: int, width: float = 1.0, image_side: int = 32) -> nn.Module:
    """A freshly initialised teacher from torch's global generator; see `networks.build`."""
    return networks.build(name, classes, width, image_side)


def build_student(
    architecture: spec.Architecture, classes: int, image_shape: tuple[int, int, int] = (3, 32, 32)
) -> nn.Module:
    """A student of images (C, H, W), initialised from torch's global generator.

    A Student, or the network itself where it has no blocks to remove. StudyError without a block.
    """
    check_removed_blocks(architecture)
    side = _side(architecture, image_shape)
    network = networks.build(architecture.network, classes, architecture.width, side)
    resize = _resize(architecture, image_shape)
    cut = blocks(network)
    if cut is None:
        return network if resize is None else Resized(resize, network)
    channels = _maps_shape(architecture, classes, image_shape)[1]
    return Student(cut[: len(cut) - architecture.removed_blocks], channels, classes, resize)


def _resize(
    architecture: spec.Architecture, image_shape: tuple[int, ...]
) -> resizing.Resize | None:
    given, seen = image_shape[1:], _seen(architecture, image_shape)[1:]
    if given == seen:
        return None
    return resizing.Resize((given[0], given[1]), (seen[0], seen[1]))


def _seen(architecture: spec.Architecture, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape (C, h, w) of what its first layer sees of images (C, H, W)."""
    channels, height, width = image_shape
    side = architecture.resolution or max(height, width)
    return channels, *resizing.reduced(height, width, side)


def _side(architecture: spec.Architecture, image_shape: tuple[int, ...]) -> int:
    """The image side that the network of a student is built for.

    Its stem is that of the images as they are: the student has the strides of its teacher's blocks,
    and costs less at a lower resolution, never more. Networks of one size must have the other.
    """
    seen = _seen(architecture, image_shape)
    return max((seen if networks.has_one_size(architecture.network) else image_shape)[1:])


def blocks(network: nn.Module) -> list[nn.Module] | None:
    """The parts that a student is the first of, maps (B, C, H, W) to maps; None if it has none.

    A part without a weight matrix (norm, activation, pool) belongs to the block before it.
    """
    if isinstance(network, _IN_ORDER):
        parts = [
            part
            for _, child in takewhile(lambda item: item[0] not in _HEADS, network.named_children())
            for part in _spread(child)
        ]
    elif isinstance(network, models.SwinTransformer):
        return None  # its features are (B, H, W, C)
    elif isinstance(features := getattr(network, "features", None), nn.Sequential):
        parts = list(features)
    else:
        return None
    groups: list[list[nn.Module]] = []
    for part in parts:
        if not groups or (_has_weights(part) and any(map(_has_weights, groups[-1]))):
            groups.append([])
        groups[-1].append(part)
    if isinstance(network, models.DenseNet):
        groups[-1].append(nn.ReLU(inplace=True))  # a function call in torchvision's forward
    return [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]


def _spread(part: nn.Module) -> list[nn.Module]:
    if not isinstance(part, nn.Sequential):
        return [part]
    return [piece for child in part for piece in _spread(child)]


def _has_weights(part: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in part.parameters())


def check_removed_blocks(architecture: spec.Architecture) -> None:
    """Raise StudyError unless there is such a network and at least one block of it is left."""
    name, removed = architecture.network, architecture.removed_blocks
    cut = _blocks_of(architecture)
    if cut is None and removed != 0:
        raise StudyError(
            f"removed_blocks = {removed}: {name} has no blocks that can be removed; type "
            "trial.removed_blocks = 0 for the whole network as the student"
        )
    if cut is not None and not 0 <= removed < len(cut):
        raise StudyError(
            f"removed_blocks = {removed}: {name} has {len(cut)} "
            f"blocks; allowed are 0 to {len(cut) - 1}"
        )


def _blocks_of(architecture: spec.Architecture) -> list[nn.Module] | None:
    # the number of blocks is the same for images of all sizes, and every network takes this one
    return blocks(networks.skeleton(architecture.network, 2, architecture.width, 224))


def check_blocks(architecture: spec.Architecture) -> None:
    """StudyError unless this network has blocks whose maps can be compared."""
    if _blocks_of(architecture) is None:
        raise StudyError(
            f"trial.attention_weight compares the maps of blocks, but {architecture.network} has "
            "none; type trial.attention_weight = 0"
        )


def check_teacher_images(
    name: str, classes: int, width: float, image_shape: tuple[int, ...]
) -> None:
    """StudyError unless this network takes images (3, H, W) and answers logits (B, classes)."""

    def shape_of(image: tuple[int, ...]) -> tuple[int, ...]:
        return _shape(name, None, classes, width, image)

    found = networks.check_images(name, shape_of, image_shape)
    if found != (2, classes):
        raise StudyError(
            f"architecture '{name}' answers {found} to two images; wanted are logits (2, {classes})"
        )


def check_student_images(
    architecture: spec.Architecture, classes: int, image_shape: tuple[int, ...]
) -> None:
    """StudyError unless this student takes images (3, H, W), brought to its resolution."""
    name, resolution = architecture.network, architecture.resolution
    given = max(image_shape[1:])
    if resolution is not None and resolution > given:
        raise StudyError(
            f"trial.resolution = {resolution} is more than the {image_shape[1]}x{image_shape[2]} "
            f"pixels of the images; allowed are sides of up to {given}, or leave it out"
        )
    seen = _seen(architecture, image_shape)
    if _blocks_of(architecture) is None:
        check_teacher_images(name, classes, architecture.width, seen)
        return

    def shape_of(image: tuple[int, ...]) -> tuple[int, ...]:
        if resolution is None:
            return _maps_shape(architecture, classes, image)
        return _maps_shape(architecture, classes, image_shape, seen=image)

    networks.check_images(architecture.name, shape_of, seen)
    if resolution is not None and name in networks.BUILDERS:  # own ones may refuse large images
        _check_strides(architecture, classes, image_shape)


def _check_strides(
    architecture: spec.Architecture, classes: int, image_shape: tuple[int, ...]
) -> None:
    """StudyError where the last maps of a student would show less than a pixel of what it sees."""
    resolution, large = architecture.resolution, (3, _LARGE, _LARGE)
    stride = _LARGE // max(_maps_shape(architecture, classes, image_shape, seen=large)[2:])
    if resolution is not None and resolution < stride:
        raise StudyError(
            f"trial.resolution = {resolution} is too small for {architecture.name}, whose blocks "
            f"shrink images {stride} times; type {stride} or more, or remove more blocks"
        )


def check_prefix(architecture: spec.Architecture) -> None:
    """StudyError where a teacher's weights do not fit into this student for its resolution."""
    if architecture.resolution is not None and networks.has_one_size(architecture.network):
        raise StudyError(
            f"trial.initialisation = 'teacher': {architecture.network} has weights for each place "
            "of an image, which fit no other resolution; leave trial.resolution out, or type "
            "initialisation = 'random'"
        )


def _maps_shape(
    architecture: spec.Architecture,
    classes: int,
    image_shape: tuple[int, ...],
    seen: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """The shape (2, C, h, w) of what the blocks of a student make of two images.

    Its network is that for `image_shape`; `seen`, by default what its resolution makes of it, is
    the shape of what the first block is shown.
    """
    name, side = architecture.network, _side(architecture, image_shape)
    seen = seen or _seen(architecture, image_shape)
    shape = _shape(name, architecture.removed_blocks, classes, architecture.width, seen, side)
    if len(shape) != 4:
        raise StudyError(
            f"architecture '{name}': its features give {shape} for two images; wanted are maps "
            "(2, C, h, w)"
        )
    return shape


def _shape(
    name: str,
    removed_blocks: int | None,
    classes: int,
    width: float,
    image_shape: tuple[int, ...],
    side: int | None = None,
) -> tuple[int, ...]:
    """What two images give in the network, or in the blocks of it that are not removed.

    `side` is the one that the network is built for, by default that of the images.
    """
    # asking takes a quarter of a second, and each trial asks; own networks may answer otherwise
    ask = _shape_known if name in networks.BUILDERS else _shape_known.__wrapped__
    return ask(
        name, removed_blocks, classes, width, tuple(image_shape), side or max(image_shape[1:])
    )


@lru_cache(maxsize=256)
def _shape_known(
    name: str,
    removed_blocks: int | None,
    classes: int,
    width: float,
    image_shape: tuple[int, ...],
    side: int,
) -> tuple[int, ...]:
    network = networks.skeleton(name, classes, width, side)
    if removed_blocks is None:
        return networks.output_shape(network, image_shape)
    shapes = _shapes_known(name, classes, width, image_shape, side)
    left = len(blocks(network) or []) - removed_blocks
    if left <= len(shapes):
        return shapes[left - 1]
    return networks.output_shape(first_blocks(network, removed_blocks), image_shape)


@lru_cache(maxsize=64)
def _shapes_known(
    name: str, classes: int, width: float, image_shape: tuple[int, ...], side: int
) -> list[tuple[int, ...]]:
    """What two images give after each block of a network of torchvision, up to one that fails.

    A search asks for dozens of students that are prefixes of the same few networks.
    """
    if name not in networks.BUILDERS:
        return []
    network = networks.skeleton(name, classes, width, side)
    maps = torch.zeros(2, *image_shape, device=next(network.parameters()).device)
    found: list[tuple[int, ...]] = []
    # whoever needs the block that fails asks it alone, and learns why
    with torch.no_grad(), contextlib.suppress(Exception):
        for block in blocks(network) or []:
            maps = block(maps)
            found.append(tuple(maps.shape))
    return found


def copy_prefix(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the teacher's first blocks into a student; StudyError when the widths differ.

    All of it where a network without blocks is its own student.
    """
    ours, shared = student.state_dict(), _prefix(student, teacher)
    for name, value in shared.items():
        if name not in ours or value.shape != ours[name].shape:
            found = tuple(ours[name].shape) if name in ours else "absent"
            raise StudyError(
                f"initialisation = 'teacher': {name} is {tuple(value.shape)} in the "
                f"teacher and {found} in the student; give both the same width"
            )
    student.load_state_dict({**ours, **shared})


def _prefix(student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """The teacher's weights under the names that they have in the student."""
    cut = blocks(teacher)
    if not isinstance(student, Student) or cut is None:
        under = "network." if isinstance(student, Resized) else ""
        return {f"{under}{name}": value for name, value in teacher.state_dict().items()}
    return {
        f"features.{index}.{name}": value
        for index, block in enumerate(cut[: len(student.features)])
        for name, value in block.state_dict().items()
    }


def first_blocks(network: nn.Module, removed_blocks: int) -> nn.Sequential:
    """The blocks of a network that are left without its last ones, sharing their weights."""
    cut = blocks(network)
    assert cut is not None, "a network without blocks has no first ones"
    return nn.Sequential(*cut[: len(cut) - removed_blocks]).train(network.training)


def count_parameters(model: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image (C, H, W)."""
    training, device = model.training, next(model.parameters()).device
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        # fused attention is one call, whose products not every torch counts
        torch.backends.mha.set_fastpath_enabled(False)
        plain, counter = sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
        with torch.no_grad(), plain, counter:
            model.eval()(torch.zeros(1, *image_shape, device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        model.train(training)
    return int(counter.get_total_flops()) // 2
