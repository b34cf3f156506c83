"""Architectures cost what the paper's table says, and a student is the beginning of its teacher."""

from typing import get_args

import pytest
import torch
from torch import nn

from igkd_search import models, spec
from igkd_search.errors import StudyError
from igkd_search.models import Architecture

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
    student = models.build_student(Architecture("mobilenet_v2", removed_blocks, TINY), 4).eval()
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
    student = models.build_student(Architecture("mobilenet_v2", 11, TINY), 4)
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
    kept = models.build_student(architecture, 4).features
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


def test_the_study_file_names_the_teachers_that_there_are() -> None:
    assert set(get_args(spec.TeacherArchitecture)) == set(models.TEACHERS)
