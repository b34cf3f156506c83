"""Every name builds a network for small and large images; what it refuses is said beforehand."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from igkd_search import networks
from igkd_search.architectures import TORCHVISION
from igkd_search.errors import StudyError
from tests import own_networks

# whose first maps of 32x32 images are 32x32
SMALL_STEMS = {
    "densenet121": "features.conv0",
    "efficientnet_b0": "features.0.0",
    "efficientnet_v2_s": "features.0.0",
    "mnasnet0_5": "layers.0",
    "mobilenet_v2": "features.0.0",
    "mobilenet_v3_small": "features.0.0",
    "regnet_x_400mf": "stem.0",
    "resnet18": "conv1",
    "resnext50_32x4d": "conv1",
    "shufflenet_v2_x0_5": "conv1.0",
    "wide_resnet50_2": "conv1",
}
# the sides that they take, of those tried
SIDES = {"alexnet": 64, "inception_v3": 96, "maxvit_t": 224, "vit_h_14": 224}


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_name_builds_a_network_that_answers_logits(name: str) -> None:
    side = SIDES.get(name, 32)
    network = networks.skeleton(name, 7, 1.0, side)
    assert networks.output_shape(network, (3, side, side)) == (2, 7)
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(("name", "first"), SMALL_STEMS.items())
def test_the_stem_keeps_the_size_of_small_images(name: str, first: str) -> None:
    for side, strides in ((32, (1, 1)), (64, (1, 1)), (65, (2, 2))):
        network = networks.skeleton(name, 10, 1.0, side)
        convolution = network.get_submodule(first)
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.stride == strides
        pools = [part for part in network.modules() if isinstance(part, nn.MaxPool2d)]
        assert side > 64 or not pools


@pytest.mark.parametrize("name", [*SMALL_STEMS, "convnext_tiny", "swin_t", "vgg11", "vit_b_16"])
def test_large_images_get_torchvisions_own_network(name: str) -> None:
    options = {"image_size": 224} if name == "vit_b_16" else {}
    with torch.device("meta"), networks._CountsOnCpu():
        theirs = torchvision_models.get_model(name, weights=None, num_classes=10, **options)
    ours = networks.skeleton(name, 10, 1.0, 224)
    shapes = [
        {key: value.shape for key, value in network.state_dict().items()}
        for network in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "regnet_y_400mf", "shufflenet_v2_x0_5"])
def test_a_network_learns_from_real_images_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(0)
        network = networks.build(name, 4).train()
        images = torch.randn(2, 3, 32, 32)
        loss = nn.functional.cross_entropy(network(images), torch.tensor([0, 3]))
        torch.autograd.backward(loss)
    assert all(
        parameter.grad is not None and bool(parameter.grad.isfinite().all())
        for parameter in network.parameters()
    )


def test_a_skeleton_leaves_the_generator_alone(own: Callable[..., None]) -> None:
    own(random="tests.own_networks:randomly")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in ("mobilenet_v2", "resnet18", "swin_t", "random"):
        networks.output_shape(networks.skeleton(name, 5, 1.0, 32), (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_a_width_that_an_architecture_lacks_is_refused(name: str) -> None:
    expected = (
        f"width = 0.5: {name} has one width; allowed is 1 (mobilenet_v2 and entry points of "
        "igkd_search.architectures take others)"
    )
    for refused in (networks.build, networks.skeleton, networks.check):
        arguments = (name, 0.5) if refused is networks.check else (name, 10, 0.5, 32)
        with pytest.raises(StudyError) as caught:
            refused(*arguments)
        assert str(caught.value) == expected
    networks.check("mobilenet_v2", 0.5)


# --- own architectures


def test_an_entry_point_is_built_with_its_classes_and_width(own: Callable[..., None]) -> None:
    own(mine="tests.own_networks:blocks")
    network = networks.build("mine", 6, 0.5, 32)
    assert isinstance(network, own_networks.Blocks)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    assert network.features[0].out_channels == 4  # half of eight
    networks.check("mine", 0.5)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_package:net", "importing it failed: ModuleNotFoundError"),
        ("tests.own_networks:absent", "importing it failed: AttributeError"),
        ("tests.own_networks:NUMBER", "it is int, not a function (classes, width)"),
    ],
)
def test_an_entry_point_that_cannot_be_had_is_named(
    own: Callable[..., None], value: str, said: str
) -> None:
    own(mine=value)
    with pytest.raises(StudyError) as caught:
        networks.check("mine", 1.0)
    assert str(caught.value).startswith(f"architecture 'mine' ({value}, an entry point of")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tests.own_networks:broken", "building it failed: ZeroDivisionError"),
        ("tests.own_networks:no_module", "it returned str, not a torch.nn.Module"),
    ],
)
def test_an_entry_point_that_builds_nothing_is_named(
    own: Callable[..., None], value: str, said: str
) -> None:
    own(mine=value)
    with pytest.raises(StudyError, match="type: python -m pydoc") as caught:
        networks.build("mine", 3)
    assert said in str(caught.value)


# --- images


def shape_of(name: str) -> Callable[[tuple[int, int, int]], tuple[int, ...]]:
    return lambda image: networks.output_shape(
        networks.skeleton(name, 5, 1.0, max(image[1:])), image
    )


@pytest.mark.parametrize(("name", "fits"), SIDES.items())
def test_images_that_an_architecture_cannot_take_are_refused_with_those_it_can(
    name: str, fits: int
) -> None:
    with pytest.raises(StudyError) as caught:
        networks.check_images(name, shape_of(name), (3, 32, 32))
    said = str(caught.value)
    assert said.startswith(f"{name} cannot take images of 32x32 pixels (")
    assert f"; it takes {fits}x{fits}; give images of that size, or another architecture" in said
    assert networks.check_images(name, shape_of(name), (3, fits, fits)) == (2, 5)


def test_images_need_not_be_square_where_the_network_does_not_mind() -> None:
    assert networks.check_images("resnet18", shape_of("resnet18"), (3, 24, 40)) == (2, 5)
    with pytest.raises(StudyError, match=r"vit_b_32 cannot take images of 32x64 .* 32x32;"):
        networks.check_images("vit_b_32", shape_of("vit_b_32"), (3, 32, 64))


def test_nothing_that_fits_is_said_too() -> None:
    def refuse(image: tuple[int, int, int]) -> tuple[int, ...]:
        raise RuntimeError("never\nmore")

    with pytest.raises(StudyError, match=r"\(never\); it takes none of \(32, 64") as caught:
        networks.check_images("mine", refuse, (3, 8, 8))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_network_of_values_is_asked_on_the_cpu(own: Callable[..., None]) -> None:
    # its forward reads a value, which the meta device has not
    own(mine="tests.own_networks:by_value")
    network = networks.skeleton("mine", 4, 1.0, 32)
    assert networks.output_shape(network, (3, 8, 8)) == (2, 4)
    answer: Tensor = network(torch.zeros(1, 3, 8, 8))
    assert answer.device.type == "cpu"
