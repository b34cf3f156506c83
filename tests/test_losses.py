"""Law 4: KD weight 0 is cross entropy, temperature 1 is torch's own KL, the numbers are known.

The hand-worked rows take logits that are logarithms of powers of two, so that every softmax is a
row of small fractions:

    student z_s = ln (16, 1, 1), teacher z_t = ln (1, 16, 1)
    T = 1:   z_s -> (16, 1, 1) / 18      z_t -> (1, 16, 1) / 18
    T = 2:   z_s -> (4, 1, 1) / 6        z_t -> (1, 4, 1) / 6        (square roots)
    T = 4:   z_s -> (2, 1, 1) / 4        z_t -> (1, 2, 1) / 4
    T = 1/2: z_s -> (256, 1, 1) / 258    z_t -> (1, 256, 1) / 258    (squares)

With r the large entry and n the sum, KL(teacher || student) = (1/n) ln(1/r) + (r/n) ln r
= (r - 1) / n * ln r. In units of ln 2, times T^2:

    T = 1:   1    * 15/18   * 4 =  10/3
    T = 2:   4    * 3/6     * 2 =  4
    T = 4:   16   * 1/4     * 1 =  4
    T = 1/2: 1/4  * 255/258 * 8 =  85/43

Cross entropy of label 0 is -ln(16/18) = ln(9/8), of label 1 it is ln 18.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from igkd_search.losses import attention_loss, cross_entropy, distillation_loss

LN2 = 0.6931471805599453
STUDENT = [math.log(16), 0.0, 0.0]
TEACHER = [0.0, math.log(16), 0.0]
CE = {0: 0.11778303565638346, 1: 2.8903717578961645}  # ln 9/8, ln 18
SOFT = {1.0: 10 / 3 * LN2, 2.0: 4 * LN2, 4.0: 4 * LN2, 0.5: 85 / 43 * LN2}

SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.floats(0.5, 20)


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def draw(seed: int, rows: int = 5, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits that ask for a gradient, teacher logits, labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    return student.requires_grad_(), teacher, labels


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


@given(SEEDS, TEMPERATURES)
@settings(max_examples=25, deadline=None)
def test_kd_weight_0_is_cross_entropy_to_the_last_bit(seed: int, temperature: float) -> None:
    student, teacher, labels = draw(seed)
    ours = distillation_loss(student, teacher, labels, kd_weight=0.0, temperature=temperature)
    theirs = functional.cross_entropy(student, labels)
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient(ours, student), gradient(theirs, student))


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_temperature_1_with_kd_weight_1_is_torchs_own_kl(seed: int) -> None:
    student, teacher, labels = draw(seed)
    ours = distillation_loss(student, teacher, labels, kd_weight=1.0, temperature=1.0)
    theirs = functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student))


@pytest.mark.parametrize("temperature", SOFT)
@pytest.mark.parametrize("kd_weight", [0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("label", CE)
def test_the_numbers_worked_by_hand(temperature: float, kd_weight: float, label: int) -> None:
    loss = distillation_loss(
        double(STUDENT),
        double(TEACHER),
        torch.tensor([label]),
        kd_weight=kd_weight,
        temperature=temperature,
    )
    expected = kd_weight * SOFT[temperature] + (1 - kd_weight) * CE[label]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kd_weight", "temperature", "expected"),
    [
        # 0.01 * 4 ln 2 + 0.99 * ln 18 = 0.0277259 + 2.8614680
        (0.01, 2.0, 2.8891939),
        # 0.5 * 10/3 ln 2 + 0.5 * ln 18 = 1.1552453 + 1.4451859
        (0.5, 1.0, 2.6004312),
        # 0.9 * 4 ln 2 + 0.1 * ln 18 = 2.4953298 + 0.2890372
        (0.9, 4.0, 2.7843670),
    ],
)
def test_the_sums_worked_by_hand(kd_weight: float, temperature: float, expected: float) -> None:
    loss = distillation_loss(
        double(STUDENT),
        double(TEACHER),
        torch.tensor([1]),
        kd_weight=kd_weight,
        temperature=temperature,
    )
    assert loss.item() == pytest.approx(expected, abs=5e-7)


def test_both_terms_are_means_over_the_batch_not_sums() -> None:
    # a second row where student and teacher are uniform: KL 0, cross entropy ln 3
    student = double(STUDENT, [0.0, 0.0, 0.0])
    teacher = double(TEACHER, [7.0, 7.0, 7.0])
    labels = torch.tensor([1, 2])
    soft = distillation_loss(student, teacher, labels, kd_weight=1.0, temperature=2.0)
    hard = distillation_loss(student, teacher, labels, kd_weight=0.0, temperature=2.0)
    assert soft.item() == pytest.approx(4 * LN2 / 2, rel=1e-12)
    assert hard.item() == pytest.approx((CE[1] + math.log(3)) / 2, rel=1e-12)


@given(SEEDS, TEMPERATURES)
@settings(max_examples=25, deadline=None)
def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(
    seed: int, temperature: float
) -> None:
    student, _, labels = draw(seed)
    ours = distillation_loss(
        student, student.detach() + 5, labels, kd_weight=1.0, temperature=temperature
    )
    assert abs(ours.item()) < 1e-3
    assert gradient(ours, student).abs().max() < 1e-4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_gradient_is_the_temperature_times_the_difference_of_softmaxes(
    temperature: float,
) -> None:
    # d/dz_s of T^2 KL = T (softmax(z_s / T) - softmax(z_t / T)); r = 16^(1/T), n = r + 2
    student = double(STUDENT).requires_grad_()
    loss = distillation_loss(
        student, double(TEACHER), torch.tensor([0]), kd_weight=1.0, temperature=temperature
    )
    large = 16 ** (1 / temperature)
    by_hand = temperature * (large - 1) / (large + 2)
    torch.testing.assert_close(gradient(loss, student), double([by_hand, -by_hand, 0.0]))


@pytest.mark.parametrize("temperature", [200.0, 400.0, 800.0])
def test_gradients_keep_their_size_however_hot(temperature: float) -> None:
    # T^2 makes the limit of the gradient (z_s - z_t) / classes, logits centred, whatever T;
    # both rows are centred alike, and z_s - z_t = ln 16 * (1, -1, 0)
    student = double(STUDENT).requires_grad_()
    loss = distillation_loss(
        student, double(TEACHER), torch.tensor([0]), kd_weight=1.0, temperature=temperature
    )
    limit = math.log(16) / 3
    torch.testing.assert_close(
        gradient(loss, student), double([limit, -limit, 0.0]), rtol=0.01, atol=1e-9
    )


def test_label_smoothing_acts_on_the_cross_entropy_alone() -> None:
    student, teacher, labels = double(STUDENT), double(TEACHER), torch.tensor([0])
    # 0.7 ln(9/8) + 0.1 (ln(9/8) + ln 18 + ln 18)
    smoothed = 0.8 * CE[0] + 0.2 * CE[1]
    for kd_weight in (0.0, 0.4, 1.0):
        loss = distillation_loss(
            student, teacher, labels, kd_weight=kd_weight, temperature=2.0, label_smoothing=0.3
        )
        expected = kd_weight * 4 * LN2 + (1 - kd_weight) * smoothed
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_weight_and_temperature_may_be_tensors() -> None:
    student, teacher, labels = draw(0)
    plain = distillation_loss(student, teacher, labels, kd_weight=0.3, temperature=2.5)
    tensors = distillation_loss(
        student,
        teacher,
        labels,
        kd_weight=torch.tensor(0.3),
        temperature=torch.tensor(2.5),
    )
    assert tensors.shape == ()
    torch.testing.assert_close(tensors, plain)
    torch.testing.assert_close(gradient(tensors, student), gradient(plain, student))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_a_tensor_of_label_smoothing_is_torchs_own(smoothing: float) -> None:
    student, teacher, labels = draw(3)
    theirs = functional.cross_entropy(student, labels, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(student, labels, smoothing), theirs)
    ours = cross_entropy(student, labels, torch.tensor(smoothing))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student))
    whole, tensor = (
        distillation_loss(
            student, teacher, labels, kd_weight=0.4, temperature=2.0, label_smoothing=given
        )
        for given in (smoothing, torch.tensor(smoothing))
    )
    torch.testing.assert_close(whole, tensor)


# --- attention


def maps(*images: list[list[list[float]]]) -> Tensor:
    """Maps (B, C, h, w)."""
    return torch.tensor(images)


LEFT = [[3.0, 0.0], [0.0, 0.0]]
RIGHT = [[0.0, 5.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        # the same place: both are the unit vector (1, 0, 0, 0)
        (maps([LEFT]), maps([LEFT]), 0.0),
        # places apart: |(1, 0) - (0, 1)|^2
        (maps([LEFT]), maps([RIGHT]), 2.0),
        # the size and the sign of a map say nothing, nor how many channels there are
        (maps([LEFT]), 1e3 * maps([LEFT]), 0.0),
        (maps([LEFT]), -maps([LEFT]), 0.0),
        (maps([LEFT]), maps([LEFT, LEFT, LEFT]), 0.0),
        # squares 9 and 16 of a 3-4-5 over two places: q = (9, 16) / sqrt(337), against (1, 0)
        (maps([[[3.0, 4.0]]]), maps([[[1.0, 0.0]]]), 2 - 2 * 9 / math.sqrt(337)),
        # channels are averaged as squares: (1 + 0, 0 + 1) / 2, so q = (1, 1) / sqrt(2)
        (maps([[[1.0, 0.0]], [[0.0, -1.0]]]), maps([[[1.0, 0.0]]]), 2 - math.sqrt(2)),
        # a mean over the batch: 0 and 2
        (maps([LEFT], [LEFT]), maps([LEFT], [RIGHT]), 1.0),
    ],
)
def test_the_distance_of_attention_worked_by_hand(
    student: Tensor, teacher: Tensor, expected: float
) -> None:
    assert attention_loss(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    assert attention_loss(teacher, student).item() == pytest.approx(expected, abs=1e-6)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_attention_lies_between_0_and_2_and_a_step_downhill_brings_it_closer(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(3, 4, 3, 3, generator=generator).requires_grad_()
    teacher = torch.randn(3, 7, 3, 3, generator=generator)
    before = attention_loss(student, teacher)
    assert 0 < before.item() < 2
    slope = gradient(before, student)
    assert torch.isfinite(slope).all() and slope.any()
    assert attention_loss(student - 0.1 * slope, teacher) < before


def test_maps_that_are_black_do_not_burst() -> None:
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = attention_loss(student, torch.ones(2, 3, 2, 2))
    assert loss.item() == pytest.approx(1.0)
    assert torch.isfinite(gradient(loss, student)).all()


def test_attention_over_fewer_places_is_compared_with_its_mean_over_each_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 2, 2, generator=generator)
    teacher = torch.randn(2, 5, 4, 4, generator=generator)
    ours = functional.normalize(student.square().mean(1).flatten(1), dim=1)
    places = teacher.square().mean(1).reshape(2, 2, 2, 2, 2).mean((2, 4))
    theirs = functional.normalize(places.flatten(1), dim=1)
    expected = (ours - theirs).square().sum(1).mean()
    torch.testing.assert_close(attention_loss(student, teacher), expected)
