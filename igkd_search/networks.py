"""Any architecture by name -> a fresh network that suits images of a size.

Images of up to 64 pixels a side get a stem that keeps their size where the family has one; larger
ones get torchvision's own network unchanged, so that its checkpoints fit. What an architecture
makes of images is asked of a skeleton on the meta device, which has shapes and no memory.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from igkd_search import architectures
from igkd_search.errors import StudyError

SMALL = 64
"""Images of up to so many pixels a side are small."""
_SIDES = (32, 64, 96, 128, 224, 384)  # tried in turn to say what an architecture does take
_WITH_WIDTHS = {"mobilenet_v2"}

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


def _mobilenet_v2(classes: int, width: float, image_side: int) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018); for small images stem and second stage keep the size."""
    stages = _SMALL_IMAGE_STAGES if image_side <= SMALL else None
    network: nn.Module = models.MobileNetV2(
        num_classes=classes, width_mult=width, inverted_residual_setting=stages
    )
    if image_side <= SMALL:
        _first_convolution(network).stride = (1, 1)
    return network


def _of_torchvision(name: str, classes: int, width: float, image_side: int) -> nn.Module:
    """torchvision's network, with the stem of small images where its family has one."""
    network: nn.Module = models.get_model(
        name, weights=None, num_classes=classes, **_options(name, image_side)
    )
    if image_side <= SMALL and type(network) in _SMALL_STEMS:
        _SMALL_STEMS[type(network)](network)
    return network


def has_one_size(name: str) -> bool:
    """Whether a network of this name takes images of the one size that it was built for."""
    return name in BUILDERS and bool(_options(name, 1).keys() & {"image_size", "input_size"})


def _options(name: str, image_side: int) -> dict[str, Any]:
    if name.startswith("vit_"):
        return {"image_size": image_side}
    if name == "maxvit_t":
        return {"input_size": (image_side, image_side)}
    if name in ("googlenet", "inception_v3"):
        # one answer an image; and torchvision warns unless it is told how to initialise
        return {"aux_logits": False, "init_weights": True}
    return {}


BUILDERS: dict[str, Callable[[int, float, int], nn.Module]] = {
    **{name: partial(_of_torchvision, name) for name in architectures.TORCHVISION},
    "mobilenet_v2": _mobilenet_v2,
}
"""Architecture name -> (classes, width, image side in pixels) -> a fresh network."""


def _keep_size(network: nn.Module) -> None:
    _first_convolution(network).stride = (1, 1)


def _resnet_stem(network: nn.Module) -> None:
    # 3x3 without a pool (He et al. 2016, section 4.2), initialised as torchvision does
    conv = nn.Conv2d(3, _first_convolution(network).out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = conv, nn.Identity()


def _densenet_stem(network: nn.Module) -> None:
    features = network.features
    assert isinstance(features, nn.Sequential)
    conv = nn.Conv2d(3, _first_convolution(network).out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    features.conv0 = conv
    del features.pool0


def _shufflenet_stem(network: nn.Module) -> None:
    _first_convolution(network).stride = (1, 1)
    network.maxpool = nn.Identity()


_SMALL_STEMS: dict[type[nn.Module], Callable[[nn.Module], None]] = {
    models.DenseNet: _densenet_stem,
    models.EfficientNet: _keep_size,
    models.MNASNet: _keep_size,
    models.MobileNetV3: _keep_size,
    models.RegNet: _keep_size,
    models.ResNet: _resnet_stem,
    models.ShuffleNetV2: _shufflenet_stem,
}
"""torchvision's class -> what makes its first layers keep the size of small images."""


def _first_convolution(network: nn.Module) -> nn.Conv2d:
    return next(part for part in network.modules() if isinstance(part, nn.Conv2d))


def build(name: str, classes: int, width: float = 1.0, image_side: int = 32) -> nn.Module:
    """A freshly initialised network, from torch's global generator.

    Normalised images (B, 3, H, W), `image_side` the larger of H and W, to logits (B, classes).
    StudyError for a width that the architecture lacks, or an own one that cannot be imported.
    """
    check_width(name, width)
    if name in BUILDERS:
        return BUILDERS[name](classes, width, image_side)
    make = _imported(name)
    try:
        network = make(classes, width)
    except Exception as error:
        raise _unusable(name, f"building it failed: {error!r}") from error
    if not isinstance(network, nn.Module):
        raise _unusable(name, f"it returned {type(network).__name__}, not a torch.nn.Module")
    return network


def check(name: str, width: float) -> None:
    """StudyError unless there is such a network in this width; an own one is imported for it."""
    check_width(name, width)
    if name not in BUILDERS:
        _imported(name)


def check_width(name: str, width: float) -> None:
    """StudyError when torchvision's network of this name comes in one width only."""
    if width != 1 and name in BUILDERS and name not in _WITH_WIDTHS:
        raise StudyError(
            f"width = {width:g}: {name} has one width; allowed is 1 (mobilenet_v2 and entry points "
            f"of {architectures.GROUP} take others)"
        )


def _imported(name: str) -> Callable[[int, float], Any]:
    entries = [entry for entry in architectures.own() if entry.name == name]
    assert entries, f"{name}: the study file was not checked"
    try:
        found = entries[0].load()
    except Exception as error:
        raise _unusable(name, f"importing it failed: {error!r}") from error
    if not callable(found):
        raise _unusable(name, f"it is {type(found).__name__}, not a function (classes, width)")
    make: Callable[[int, float], Any] = found
    return make


def _unusable(name: str, what: str) -> StudyError:
    return StudyError(
        f"architecture '{name}' ({architectures.origin(name)}, an entry point of "
        f"{architectures.GROUP}): {what}; to read what is wanted, type: python -m pydoc "
        "igkd_search.architectures"
    )


class _CountsOnCpu(TorchFunctionMode):
    """Networks compute layer counts with these functions as they are built: those need values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.arange, torch.linspace, torch.tensor):
            options.setdefault("device", "cpu")
        return func(*args, **options)


def skeleton(name: str, classes: int, width: float, image_side: int) -> nn.Module:
    """The network in eval mode, to ask shapes of; torchvision's is on the meta device.

    It leaves torch's generator as it was. It is shared: change nothing in it.
    """
    if name in BUILDERS:
        check_width(name, width)
        return _on_meta(name, classes, width, image_side)
    # an own network may compute with values that meta lacks
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return build(name, classes, width, image_side).eval()


@lru_cache(maxsize=8)
def _on_meta(name: str, classes: int, width: float, image_side: int) -> nn.Module:
    with torch.device("meta"), _CountsOnCpu():
        return BUILDERS[name](classes, width, image_side).to("meta").eval()


def output_shape(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a network in eval mode makes of two blank images (C, H, W)."""
    device = next(network.parameters()).device
    with torch.no_grad():
        answer = network(torch.zeros(2, *image_shape, device=device))
    return tuple(answer.shape)


def check_images(
    name: str, shape_of: Callable[[tuple[int, int, int]], tuple[int, ...]], image: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape that `shape_of(image shape)` gives; StudyError when such images are refused.

    It says which sides of square images the network called `name` does take.
    """
    channels, height, width = image
    try:
        return shape_of((channels, height, width))
    except StudyError:
        raise
    except Exception as error:
        fits = next((s for s in _SIDES if _takes(shape_of, (channels, s, s))), None)
        allowed = f"it takes {fits}x{fits}" if fits else f"it takes none of {_SIDES} a side"
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise StudyError(
            f"{name} cannot take images of {height}x{width} pixels ({reason}); {allowed}; give "
            "images of that size, or another architecture, such as mobilenet_v2 or resnet18"
        ) from error


def _takes(shape_of: Callable[[tuple[int, int, int]], Any], image: tuple[int, int, int]) -> bool:
    try:
        shape_of(image)
    except Exception:
        return False
    return True
