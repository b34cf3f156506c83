"""One step as a pure function: what the student sees and is told, with plain numbers or tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import lessons, losses, models, spec

ROWS, SIDE, CLASSES = 5, 4, 3
KNOBS = lessons.Knobs.of(
    spec.TrialConfig(
        kd_weight=0.3,
        temperature=2.0,
        overlay_probability=0.5,
        overlay_strength=0.25,
        overlay_exponent_max=3.0,
        label_smoothing=0.1,
        attention_weight=0.7,
    )
)


class Watched(nn.Module):
    """Remembers what it saw; its logits are the mean of each channel."""

    seen: Tensor

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images.mean((2, 3))


def lesson(**changes: Any) -> lessons.Lesson:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(ROWS, CLASSES, SIDE, SIDE, generator=generator)
    return lessons.Lesson(
        images=images,
        maps=torch.rand(ROWS, SIDE, SIDE, generator=generator),
        chance=torch.tensor([[0.1, 0.9, 0.4, 0.5, 0.2]] * 4),
        mean=torch.tensor([0.1, 0.2, 0.3]),
        sd=torch.tensor([0.5, 1.0, 2.0]),
        labels=torch.tensor([0, 1, 2, 0, 1]),
        targets=torch.randn(ROWS, CLASSES, generator=generator),
        watched=None,
    )._replace(**changes)


def test_the_student_sees_overlay_then_normalisation_then_cutout() -> None:
    given, student = lesson(), Watched()
    lessons.learn(student, given, KNOBS, 2)
    for row in range(ROWS):
        chance = given.chance[0, row].item()
        expected = given.images[row].clone()
        if chance < 0.5:
            expected = 0.75 * expected + 0.25 * given.maps[row] ** (3.0**chance)
        expected = (expected - given.mean[:, None, None]) / given.sd[:, None, None]
        first = max(0, int(chance * SIDE) - 1)
        last = int(chance * SIDE) + 1
        expected[:, first:last, first:last] = 0
        torch.testing.assert_close(student.seen[row], expected)


def test_it_is_told_soft_targets_labels_and_where_to_look() -> None:
    given = lesson()
    student = models.Student([nn.Conv2d(3, 4, 1)], 4, CLASSES)
    told = losses.distillation_loss(
        student(_seen(given)),
        _targets(given),
        given.labels,
        kd_weight=0.3,
        temperature=2.0,
        label_smoothing=0.1,
    )
    torch.testing.assert_close(lessons.learn(student, given, KNOBS, 0), told)
    watched = torch.rand(ROWS, 7, SIDE, SIDE)
    looked = losses.attention_loss(student.features(_seen(given)), watched)
    found = lessons.learn(student, given._replace(watched=watched), KNOBS, 0)
    torch.testing.assert_close(found, told + 0.7 * looked)


def test_without_soft_targets_it_is_cross_entropy() -> None:
    given, student = lesson(targets=None), Watched()
    knobs = KNOBS._replace(kd_weight=0.0, label_smoothing=0.0)
    found = lessons.learn(student, given, knobs, 0)
    assert found.item() == functional.cross_entropy(student(student.seen), given.labels).item()


@pytest.mark.parametrize("cutout", [0, 2])
def test_tensors_say_what_numbers_do(cutout: int) -> None:
    given, student = (
        lesson(watched=torch.rand(ROWS, 2, SIDE, SIDE)),
        models.Student([nn.Conv2d(3, 4, 1)], 4, CLASSES),
    )
    plain = lessons.learn(student, given, KNOBS, cutout)
    tensors = lessons.learn(student, given, KNOBS.on(torch.device("cpu")), cutout)
    torch.testing.assert_close(plain, tensors)


def _seen(given: lessons.Lesson) -> Tensor:
    student = Watched()
    lessons.learn(student, given, KNOBS, 0)
    return student.seen


def _targets(given: lessons.Lesson) -> Tensor:
    assert given.targets is not None
    return given.targets
