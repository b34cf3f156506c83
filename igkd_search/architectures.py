"""The names of networks: torchvision's classifiers, and those that installed packages bring.

Names only, no torch, so that a study file is checked in a blink. A network of your own comes
through an entry point of the group `igkd_search.architectures`, never through a path in a study
file: a file is data, and what it makes run was installed on purpose. In your pyproject.toml:

    [project.entry-points."igkd_search.architectures"]
    my_net = "my_package:my_net"

`my_net(classes: int, width: float) -> torch.nn.Module` returns a freshly initialised network that
takes normalised images (B, 3, H, W) and answers logits (B, classes). If it has a `.features`, an
`nn.Sequential` whose output is maps (B, C, h, w), students can be cut from it: the blocks are its
children, each with those after it that hold no weight matrix (norms, activations, pools). A
network without one has a single student, itself. docs/architectures.md holds a whole example.
"""

from importlib import metadata

GROUP = "igkd_search.architectures"

_NAMES = """
alexnet
convnext_base convnext_large convnext_small convnext_tiny
densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
googlenet inception_v3 maxvit_t
mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf
regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf
regnet_y_400mf regnet_y_800mf regnet_y_8gf
resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d
shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
squeezenet1_0 squeezenet1_1
swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32
wide_resnet101_2 wide_resnet50_2
"""
TORCHVISION: tuple[str, ...] = tuple(_NAMES.split())
"""torchvision's classifiers, in order; a test holds them equal to what torchvision lists."""


def own() -> list[metadata.EntryPoint]:
    """The entry points of the group that installed packages bring, by name; none is imported."""
    return sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)


def origin(name: str) -> str | None:
    """Where an own network comes from, such as `package:object 1.0`; None for torchvision's."""
    for entry in own():
        if entry.name == name:
            return entry.value if entry.dist is None else f"{entry.value} {entry.dist.version}"
    return None
