"""Integrated Gradients maps of a classifier (Sundararajan et al. 2017), by Captum.

One map an image: the sum over channels of |IG| of the true label's logit against the mean image,
min-max scaled to [0, 1]. Captum asks for the gradient of every logit row by itself; here one
backward of the summed label logits gives the same numbers in less time (`one_backward`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn


@dataclass(frozen=True)
class Attribution:
    """Attributions (B, C, H, W), raw, and what the steps leave out of them (B,), in logits.

    gap = sum of attributions - (f(x) - f(baseline)), which is zero for infinitely many steps.
    """

    values: Tensor
    gap: Tensor

    def relative_gap(self) -> Tensor:
        """|gap| as a share of |f(x) - f(baseline)|, (B,)."""
        change = self.values.sum((1, 2, 3)) - self.gap
        return self.gap.abs() / change.abs().clamp_min(torch.finfo(change.dtype).tiny)


def attribute(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    rule: str = "gausslegendre",
    internal_batch_size: int = 1024,
) -> Attribution:
    """Integrated Gradients of each label's logit along the straight path from the zero baseline.

    Images (B, C, H, W) are normalised, so zero is the mean image of the fit rows; labels (B,). The
    model must be in eval mode. `rule` is one of Captum's integration rules.
    """
    assert not model.training, "attributions of a model in training mode depend on the batch"
    method = IntegratedGradients(model)
    method.gradient_func = one_backward
    values, gap = method.attribute(
        images,
        baselines=torch.zeros_like(images),
        target=labels,
        n_steps=steps,
        method=rule,
        internal_batch_size=max(internal_batch_size, len(images)),
        return_convergence_delta=True,
    )
    return Attribution(values.detach(), gap.detach())


def one_backward(
    forward_fn: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    target_ind: Any = None,
    additional_forward_args: Any = None,
) -> tuple[Tensor, ...]:
    """The gradients of each row's target logit with respect to its input, from one backward.

    In eval mode rows do not see each other, so the gradient of the sum is the sum of gradients. The
    signature is that of Captum's `gradient_func`.
    """
    assert isinstance(target_ind, Tensor) and additional_forward_args is None
    with torch.enable_grad():
        logits = forward_fn(*inputs)
        # for a single image Captum hands over its one label, not one a step
        targets = target_ind.view(-1, 1).expand(len(logits), 1)
        return torch.autograd.grad(logits.gather(1, targets).sum(), inputs)


def to_maps(values: Tensor) -> Tensor:
    """Attributions (B, C, H, W) to maps (B, H, W): sum of |IG| over channels, min-max to [0, 1].

    A constant map carries no order of pixels and becomes zero, never NaN.
    """
    maps = values.abs().sum(dim=1)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)
