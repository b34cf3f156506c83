"""What a student is told: soft targets as the paper weighs them, and where the teacher looks."""

import torch
from torch import Tensor
from torch.nn import functional


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    kd_weight: float | Tensor,
    temperature: float | Tensor,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """kd_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - kd_weight) * CE.

    Logits are (B, classes), labels (B,) integers; both terms are batch means, in nats. The factor
    T^2 keeps the gradients of the soft targets at one size whatever the temperature. Label
    smoothing acts on the cross entropy alone. Source: arXiv 1503.02531, as arXiv 2503.13008 weighs
    it in the equation of section 3.
    """
    hard = cross_entropy(student_logits, labels, label_smoothing)
    soft = functional.kl_div(
        functional.log_softmax(student_logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return kd_weight * temperature**2 * soft + (1 - kd_weight) * hard


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Mean cross entropy in nats; the smoothing may be a tensor, so that one graph serves all."""
    if not isinstance(label_smoothing, Tensor):
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    shares = functional.log_softmax(logits, dim=1)
    hard = functional.nll_loss(shares, labels)
    return torch.lerp(hard, -shares.mean(), label_smoothing)


def attention_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """How far two networks look at different places: batch mean of |q_s - q_t|^2, in [0, 2].

    Maps are what a block answers, (B, C, h, w) with any C each; q is the mean over channels of
    their squares, as a vector of length 1 over the h * w places. Source: Zagoruyko and Komodakis
    2017 (arXiv 1612.03928), activation-based attention. Where the student sees fewer pixels than
    the teacher, the teacher's attention is averaged over the student's places.
    """
    student, teacher = _attention(student_maps), _attention(teacher_maps)
    if student.shape != teacher.shape:
        size = (student.shape[1], student.shape[2])
        teacher = functional.adaptive_avg_pool2d(teacher[:, None], size)[:, 0]
    return (_directed(student) - _directed(teacher)).square().sum(1).mean()


def _attention(maps: Tensor) -> Tensor:
    return maps.float().square().mean(1)


def _directed(attention: Tensor) -> Tensor:
    return functional.normalize(attention.flatten(1), dim=1)
