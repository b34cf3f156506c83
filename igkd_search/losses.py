"""The distillation loss of Hinton, Vinyals and Dean (arXiv 1503.02531), as the paper weighs it."""

from torch import Tensor
from torch.nn import functional


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    kd_weight: float | Tensor,
    temperature: float | Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """kd_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - kd_weight) * CE.

    Logits are (B, classes), labels (B,) integers; both terms are batch means, in nats. The factor
    T^2 keeps the gradients of the soft targets at one size whatever the temperature. Label
    smoothing acts on the cross entropy alone. Source: arXiv 2503.13008, equation of section 3.
    """
    hard = functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)
    soft = functional.kl_div(
        functional.log_softmax(student_logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return kd_weight * temperature**2 * soft + (1 - kd_weight) * hard
