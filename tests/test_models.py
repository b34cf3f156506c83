"""Architectures cost what the paper's table says, and a student is the beginning of its teacher."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import models, networks, spec
from igkd_search.architectures import TORCHVISION
from igkd_search.errors import StudyError
from igkd_search.models import Student
from igkd_search.spec import Architecture

IMAGE = (3, 32, 32)
BLOCKS = 19
TEACHER_PARAMETERS, TEACHER_MMAC = 2_236_682, 87.98
# removed blocks: parameters, compression, millions of multiply-accumulates, their ratio
STUDENTS = {
    3: (1_019_402, 2.19, 68.85, 1.28),
    5: (543_498, 4.12, 58.70, 1.50),
    7: (306_954, 7.29, 43.88, 2.01),
    9: (185_738, 12.04, 36.36, 2.42),
    11: (77_194, 28.97, 29.62, 2.97),
    13: (40_970, 54.59, 23.56, 3.73),
    15: (16_042, 139.43, 14.93, 5.89),
    17: (1_994, 1121.71, 1.70, 51.6),
}
TINY = 0.1  # width of networks whose numbers do not matter


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    """The full teacher, without memory: its cost is a matter of shapes."""
    with torch.device("meta"):
        return models.build_teacher("mobilenet_v2", 10)


def student_of(removed_blocks: int) -> nn.Module:
    with torch.device("meta"):
        return models.build_student(Architecture("mobilenet_v2", removed_blocks), 10)


def built(architecture: Architecture, classes: int) -> Student:
    student = models.build_student(architecture, classes)
    assert isinstance(student, Student)
    return student


def seeded_teacher(width: float = TINY) -> nn.Module:
    """A tiny teacher whose running statistics differ from those of a fresh one."""
    torch.manual_seed(0)
    network = models.build_teacher("mobilenet_v2", 4, width)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 16, 16))
    return network.eval()


def test_the_teacher_costs_what_the_paper_says(teacher: nn.Module) -> None:
    assert models.count_parameters(teacher) == TEACHER_PARAMETERS
    assert round(models.count_macs(teacher, IMAGE) / 1e6, 2) == TEACHER_MMAC


@pytest.mark.parametrize("removed_blocks", STUDENTS)
def test_students_cost_what_the_table_says(teacher: nn.Module, removed_blocks: int) -> None:
    parameters, compression, mmac, ratio = STUDENTS[removed_blocks]
    student = student_of(removed_blocks)
    macs, of_teacher = models.count_macs(student, IMAGE), models.count_macs(teacher, IMAGE)
    assert models.count_parameters(student) == parameters
    assert round(models.count_parameters(teacher) / parameters, 2) == compression
    assert round(macs / 1e6, 2) == mmac
    assert of_teacher / macs == pytest.approx(ratio, abs=0.05 if ratio > 10 else 0.005)


def test_multiply_accumulates_are_counted_by_hand_on_a_tiny_network() -> None:
    # convolution: 4 filters of 3x3x3 at 6x6 places (padded); depthwise: 4 of 3x3 at 4x4;
    # linear on 4 values: 5 rows
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    by_hand = 6 * 6 * 4 * 27 + 4 * 4 * 4 * 9 + 4 * 5
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert network.training
    assert models.count_macs(network, (3, 6, 6)) == by_hand
    assert network.training  # counting leaves the network as it was
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(part._forward_hooks for part in network.modules())


def test_parameters_are_counted_by_hand_on_a_tiny_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    assert models.count_parameters(network) == (4 * 27 + 4) + (4 + 4) + (4 * 5 + 5)


@pytest.mark.parametrize("removed_blocks", [0, 1, 5, 11, 18])
def test_a_student_is_the_beginning_of_its_teacher(removed_blocks: int) -> None:
    network = seeded_teacher()
    student = built(Architecture("mobilenet_v2", removed_blocks, TINY), 4).eval()
    models.copy_prefix(student, network)
    images = torch.randn(2, 3, 16, 16)
    blocks = network.features
    assert isinstance(blocks, nn.Sequential)
    with torch.inference_mode():
        expected = blocks[: BLOCKS - removed_blocks](images)
        assert torch.equal(student.features(images), expected)
        logits = student.classifier(expected.mean((2, 3)))
        assert torch.equal(student(images), logits) and logits.shape == (2, 4)


def test_copying_the_beginning_leaves_the_classifier_and_the_teacher_alone() -> None:
    network = seeded_teacher()
    student = built(Architecture("mobilenet_v2", 11, TINY), 4)
    head = student.classifier.weight.clone()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    models.copy_prefix(student, network)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)  # the copy shares no memory with its source
    assert torch.equal(student.classifier.weight, head + 1)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


def test_a_teacher_of_another_width_is_refused() -> None:
    student = models.build_student(Architecture("mobilenet_v2", 11, 0.5), 4)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(StudyError) as refusal:
        models.copy_prefix(student, seeded_teacher(1.0))
    assert str(refusal.value) == (
        "initialisation = 'teacher': features.0.0.weight is (32, 3, 3, 3) in the teacher and "
        "(16, 3, 3, 3) in the student; give both the same width"
    )
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("removed_blocks", [-1, BLOCKS, BLOCKS + 1])
def test_removing_a_block_that_is_not_there_is_refused(removed_blocks: int) -> None:
    architecture = Architecture("mobilenet_v2", removed_blocks, TINY)
    expected = f"removed_blocks = {removed_blocks}: mobilenet_v2 has 19 blocks; allowed are 0 to 18"
    with pytest.raises(StudyError) as checked:
        models.check_removed_blocks(architecture)
    with pytest.raises(StudyError) as built:
        models.build_student(architecture, 4)
    assert str(checked.value) == str(built.value) == expected


@pytest.mark.parametrize("removed_blocks", [0, BLOCKS - 1])
def test_the_outermost_students_that_there_are_pass_the_check(removed_blocks: int) -> None:
    architecture = Architecture("mobilenet_v2", removed_blocks, TINY)
    models.check_removed_blocks(architecture)
    kept = built(architecture, 4).features
    assert len(kept) == BLOCKS - removed_blocks


def test_the_stem_and_the_second_stage_keep_the_size_of_small_images() -> None:
    blocks = seeded_teacher().features
    assert isinstance(blocks, nn.Sequential)
    images = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        sizes = [blocks[:end](images).shape[-1] for end in (1, 4, 7, 11, 14, BLOCKS)]
    assert sizes == [32, 32, 16, 8, 8, 4]


def test_the_same_seed_builds_the_same_student() -> None:
    def build(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return models.build_student(Architecture("mobilenet_v2", 13, TINY), 4).state_dict()

    one, again, other = build(1), build(1), build(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["features.0.0.weight"], other["features.0.0.weight"])


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (Architecture("mobilenet_v2", 5), "mobilenet_v2-5"),
        (Architecture("mobilenet_v2", 5, 1), "mobilenet_v2-5"),
        (Architecture("mobilenet_v2", 11, 0.5), "mobilenet_v2-11-x0.5"),
        (Architecture("mobilenet_v2", 0, 1.25), "mobilenet_v2-0-x1.25"),
    ],
)
def test_the_name_of_an_architecture(architecture: Architecture, name: str) -> None:
    assert architecture.name == name


def test_a_trial_is_of_the_teachers_architecture_unless_it_names_another() -> None:
    trial = spec.TrialConfig(removed_blocks=3, width=0.5)
    assert Architecture.of(trial, "mobilenet_v2") == Architecture("mobilenet_v2", 3, 0.5)
    other = trial.model_copy(update={"architecture": "resnet18"})
    assert Architecture.of(other, "mobilenet_v2").name == "resnet18-3-x0.5"


# --- students of other families

BLOCKS_OF = {
    "alexnet": 5,
    "convnext_tiny": 8,
    "densenet121": 8,
    "efficientnet_b0": 9,
    "efficientnet_v2_s": 8,
    "googlenet": 12,
    "inception_v3": 16,
    "mnasnet0_5": 20,
    "mobilenet_v2": 19,
    "mobilenet_v3_large": 17,
    "mobilenet_v3_small": 13,
    "regnet_x_400mf": 23,
    "regnet_y_400mf": 17,
    "resnet18": 9,
    "resnet50": 17,
    "resnext50_32x4d": 17,
    "shufflenet_v2_x0_5": 18,
    "squeezenet1_0": 9,
    "vgg11": 8,
    "vgg16_bn": 13,
    "wide_resnet50_2": 17,
}
UNCUT = [name for name in TORCHVISION if name.startswith(("maxvit", "swin", "vit"))]
# what takes a network's last maps, before or after they are pooled
HEADS = ("avgpool", "fc", "classifier")


@pytest.mark.parametrize(("name", "count"), BLOCKS_OF.items())
def test_the_blocks_of_a_family_are_counted(name: str, count: int) -> None:
    for side in (32, 224):  # whatever the stem
        cut = models.blocks(networks.skeleton(name, 2, 1.0, side))
        assert cut is not None and len(cut) == count
    expected = f"removed_blocks = {count}: {name} has {count} blocks; allowed are 0 to {count - 1}"
    with pytest.raises(StudyError) as caught:
        models.check_removed_blocks(Architecture(name, count))
    assert str(caught.value) == expected
    models.check_removed_blocks(Architecture(name, count - 1))


def test_every_other_name_has_blocks_too() -> None:
    # the largest of a family are as its smallest, which the table above holds
    shown = {re.split(r"[_\d]", name)[0] for name in BLOCKS_OF}
    others = set(TORCHVISION) - set(UNCUT)
    assert {re.split(r"[_\d]", name)[0] for name in others} == shown


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("alexnet", 64),
        ("convnext_tiny", 32),
        ("densenet121", 32),
        ("efficientnet_b0", 32),
        ("googlenet", 32),
        ("inception_v3", 96),
        ("mnasnet0_5", 32),
        ("mobilenet_v3_small", 32),
        ("regnet_y_400mf", 32),
        ("resnet18", 32),
        ("shufflenet_v2_x0_5", 32),
        ("squeezenet1_1", 32),
        ("vgg11_bn", 32),
    ],
)
def test_all_blocks_together_give_the_last_maps_of_the_network(name: str, side: int) -> None:
    torch.manual_seed(0)
    network = networks.build(name, 4, 1.0, side).eval()
    seen: list[Tensor] = []

    def look(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].clone())

    head = next(part for key, part in network.named_children() if key in HEADS)
    head.register_forward_pre_hook(look)
    images = torch.randn(2, 3, side, side)
    student = models.build_student(Architecture(name, 0), 4, (3, side, side)).eval()
    assert isinstance(student, Student)
    models.copy_prefix(student, network)
    with torch.inference_mode():
        network(images)
        maps = student.features(images)
        found = maps if seen[0].ndim == 4 and seen[0].shape == maps.shape else maps.mean((2, 3))
        torch.testing.assert_close(found, seen[0].reshape(found.shape))
        assert student(images).shape == (2, 4)


@pytest.mark.parametrize("name", BLOCKS_OF)
def test_every_cut_gives_a_student_that_answers_logits(name: str) -> None:
    side = {"alexnet": 64, "inception_v3": 96}.get(name, 32)
    count = BLOCKS_OF[name]
    for removed in {0, 1, count // 2, count - 1}:
        models.check_student_images(Architecture(name, removed), 5, (3, side, side))
    student = models.build_student(Architecture(name, count - 1), 5, (3, side, side)).eval()
    assert isinstance(student, Student)
    assert len(student.features) == 1
    assert student(torch.zeros(2, 3, side, side)).shape == (2, 5)


@pytest.mark.parametrize("name", UNCUT)
def test_what_has_no_blocks_is_its_own_student(name: str) -> None:
    with pytest.raises(StudyError) as caught:
        models.check_removed_blocks(Architecture(name, 5))
    assert str(caught.value) == (
        f"removed_blocks = 5: {name} has no blocks that can be removed; type "
        "trial.removed_blocks = 0 for the whole network as the student"
    )
    models.check_removed_blocks(Architecture(name, 0))


def test_its_own_student_is_the_network_itself() -> None:
    torch.manual_seed(1)
    student = models.build_student(Architecture("vit_b_32", 0), 4)
    torch.manual_seed(1)
    network = models.build_teacher("vit_b_32", 4, 1.0, 32)
    assert type(student) is type(network)
    theirs = network.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in student.state_dict().items())
    torch.manual_seed(2)
    other = models.build_student(Architecture("vit_b_32", 0), 4)
    models.copy_prefix(other, network)
    assert all(torch.equal(value, theirs[key]) for key, value in other.state_dict().items())


def test_a_cut_may_take_images_that_the_whole_cannot() -> None:
    image = (3, 32, 32)
    with pytest.raises(StudyError, match="alexnet cannot take images of 32x32 pixels"):
        models.check_teacher_images("alexnet", 4, 1.0, image)
    with pytest.raises(StudyError, match="alexnet-0 cannot take images of 32x32 pixels"):
        models.check_student_images(Architecture("alexnet", 0), 4, image)
    models.check_student_images(Architecture("alexnet", 3), 4, image)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_the_beginning_is_copied_whatever_the_blocks_are_called(name: str) -> None:
    torch.manual_seed(0)
    network = networks.build(name, 4).eval()
    student = models.build_student(Architecture(name, 3), 4).eval()
    assert isinstance(student, Student)
    models.copy_prefix(student, network)
    cut = models.blocks(network)
    assert cut is not None
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = nn.Sequential(*cut[:-3])(images)
        assert torch.equal(student.features(images), expected)


def test_the_beginning_of_another_network_is_refused() -> None:
    student = models.build_student(Architecture("resnet18", 3), 4)
    with pytest.raises(StudyError, match=r"initialisation = 'teacher': features\.0"):
        models.copy_prefix(student, seeded_teacher())


def test_products_of_attention_are_counted_as_torchvision_does() -> None:
    # https://docs.pytorch.org/vision: 17.56 and 4.49 billion; on the CPU the layers are fused
    for name, billions in (("vit_b_16", 17.56), ("swin_t", 4.49)):
        network = networks.skeleton(name, 1000, 1.0, 224)
        assert round(models.count_macs(network, (3, 224, 224)) / 1e9, 2) == billions
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Flatten(2), layer)  # images (1, 3, 2, 4) as 3 tokens of 8
    projections, attention, feed = 3 * 8 * (3 * 8 + 8), 2 * 3 * 3 * 8, 2 * 3 * 8 * 16
    assert models.count_macs(network, (3, 2, 4)) == projections + attention + feed
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_torchvisions_networks_give_is_asked_once(
    own: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    own(mine="tests.own_networks:blocks")
    asked: list[int] = []
    output_shape = networks.output_shape

    def counted(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        asked.append(len(list(network.children())))
        return output_shape(network, image_shape)

    monkeypatch.setattr(networks, "output_shape", counted)
    before = models._shapes_known.cache_info().misses
    for removed in (2, 2, 3, 4):  # all of them at once
        models.check_student_images(Architecture("mobilenet_v2", removed, 0.3), 7, (3, 24, 24))
    assert models._shapes_known.cache_info().misses == before + 1 and not asked
    for _ in range(3):  # an own network may answer otherwise
        models.check_student_images(Architecture("mine", 2, 0.3), 7, (3, 24, 24))
    assert len(asked) == 3


# --- students of own architectures


def test_a_student_is_cut_from_an_own_architecture(own: Callable[..., None]) -> None:
    own(mine="tests.own_networks:blocks")
    with pytest.raises(StudyError, match="removed_blocks = 3: mine has 3 blocks; allowed are 0 to"):
        models.check_removed_blocks(Architecture("mine", 3))
    for removed, channels in ((0, 12), (1, 8), (2, 4)):
        architecture = Architecture("mine", removed, 0.5)
        student = models.build_student(architecture, 5)
        assert isinstance(student, Student)
        assert student.classifier.in_features == channels
        assert student(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
        models.check_student_images(architecture, 5, (3, 8, 8))
    models.check_teacher_images("mine", 5, 0.5, (3, 8, 8))


def test_an_own_architecture_without_features_is_its_own_student(own: Callable[..., None]) -> None:
    own(mine="tests.own_networks:by_value")
    with pytest.raises(StudyError, match=r"mine has no blocks .* trial\.removed_blocks = 0"):
        models.check_removed_blocks(Architecture("mine", 1))
    models.check_student_images(Architecture("mine", 0), 5, (3, 8, 8))


def test_an_own_architecture_that_breaks_its_contract_is_refused(own: Callable[..., None]) -> None:
    own(flat="tests.own_networks:flat", many="tests.own_networks:one_too_many")
    with pytest.raises(StudyError, match=r"'flat': its features give \(2, 3\).* \(2, C, h, w\)"):
        models.check_student_images(Architecture("flat", 0), 5, (3, 8, 8))
    with pytest.raises(StudyError, match=r"'many' answers \(2, 6\).* wanted are logits \(2, 5\)"):
        models.check_teacher_images("many", 5, 1.0, (3, 8, 8))


def resized(removed: int, resolution: int | None, side: int = 32) -> nn.Module:
    torch.manual_seed(4)
    architecture = Architecture("mobilenet_v2", removed, TINY, resolution)
    return models.build_student(architecture, 4, (3, side, side)).eval()


def test_a_student_of_a_lower_resolution_is_the_same_network_on_smaller_images() -> None:
    plain, small = resized(13, None), resized(13, 16)
    assert isinstance(plain, Student) and isinstance(small, Student)
    assert plain.state_dict().keys() == small.state_dict().keys()
    assert models.count_parameters(plain) == models.count_parameters(small)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shrunk = functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    with torch.inference_mode():
        torch.testing.assert_close(small(images), plain(shrunk), rtol=1e-4, atol=1e-5)
    by_hand = 3 * (16 * 32 * 32 + 16 * 32 * 16)  # rows, then columns
    seen = models.count_macs(plain, (3, 16, 16))
    assert models.count_macs(small, (3, 32, 32)) == seen + by_hand


def test_at_the_resolution_of_the_images_nothing_is_resized() -> None:
    same = resized(13, 32)
    assert isinstance(same, Student) and same.resize is None


def test_a_large_image_s_network_keeps_its_strides_at_a_low_resolution() -> None:
    small = resized(13, 64, side=128)
    convolutions = [part for part in small.modules() if isinstance(part, nn.Conv2d)]
    assert convolutions[0].stride == (2, 2), "the stem is that of the teacher"
    models.check_student_images(Architecture("mobilenet_v2", 13, TINY, 64), 4, (3, 128, 128))


@pytest.mark.parametrize(
    ("architecture", "image", "said"),
    [
        (
            Architecture("mobilenet_v2", 5, 1.0, 33),
            (3, 32, 24),
            "trial.resolution = 33 is more than the 32x24 pixels of the images; allowed are sides "
            "of up to 32, or leave it out",
        ),
        (
            Architecture("mobilenet_v2", 3, 1.0, 4),
            (3, 32, 32),
            "trial.resolution = 4 is too small for mobilenet_v2-3-r4, whose blocks shrink images 8 "
            "times; type 8 or more, or remove more blocks",
        ),
    ],
)
def test_a_resolution_that_cannot_be_is_refused(
    architecture: Architecture, image: tuple[int, int, int], said: str
) -> None:
    with pytest.raises(StudyError) as caught:
        models.check_student_images(architecture, 4, image)
    assert str(caught.value) == said


def test_a_resolution_that_a_network_refuses_says_which_it_takes() -> None:
    with pytest.raises(StudyError, match=r"alexnet-0-r8 cannot take images of 8x8 pixels.*64x64"):
        models.check_student_images(Architecture("alexnet", 0, 1.0, 8), 4, (3, 64, 64))


def test_the_teacher_s_blocks_start_a_student_of_another_resolution() -> None:
    network, student = seeded_teacher(TINY), resized(13, 16)
    models.copy_prefix(student, network)
    theirs = network.state_dict()
    for name, value in student.state_dict().items():
        if name.startswith("features."):
            assert torch.equal(value, theirs[name])


def test_a_whole_network_is_resized_as_well_and_one_of_one_size_is_built_for_it() -> None:
    whole = models.build_student(Architecture("swin_t", 0, 1.0, 32), 4, (3, 64, 64))
    assert isinstance(whole, models.Resized)
    network = models.build_teacher("swin_t", 4, 1.0, 64)
    models.copy_prefix(whole, network)
    assert set(whole.state_dict()) == {f"network.{name}" for name in network.state_dict()}
    fixed = Architecture("vit_b_32", 0, 1.0, 32)
    models.check_student_images(fixed, 4, (3, 64, 64))
    with pytest.raises(
        StudyError, match=r"trial\.initialisation = 'teacher': vit_b_32 has weights"
    ):
        models.check_prefix(fixed)
    models.check_prefix(Architecture("vit_b_32", 0))
    models.check_prefix(Architecture("swin_t", 0, 1.0, 32))
