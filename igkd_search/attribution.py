"""Integrated Gradients maps of a classifier (Sundararajan et al. 2017), by Captum.

One map an image: |IG| of the true label's logit against a baseline, reduced over channels and
min-max scaled to [0, 1]. Captum asks for the gradient of every logit row by itself; here one
backward of the summed label logits gives the same numbers in less time (`one_backward`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torch.fx.experimental import optimization
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

log = logging.getLogger(__name__)


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
    baselines: Tensor | None = None,
    internal_batch_size: int = 1024,
) -> Attribution:
    """Integrated Gradients of each label's logit along the straight path from a baseline.

    Images (B, C, H, W) are normalised and so are `baselines`, by default zero, the mean colour of
    the fit rows; labels (B,). The model must be in eval mode. `rule` is one of Captum's integration
    rules. At most `internal_batch_size` images are evaluated at once, and at least one of each row.
    """
    assert not model.training, "attributions of a model in training mode depend on the batch"
    method = IntegratedGradients(model)
    method.gradient_func = one_backward
    values, gap = method.attribute(
        images,
        baselines=torch.zeros_like(images) if baselines is None else baselines,
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


def _mean(images: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return torch.zeros_like(images)


def _black(images: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return (-mean / sd)[:, None, None].expand_as(images).contiguous()


def _blur(images: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    # a Gaussian of an eighth of the side takes shapes and leaves colours
    sigma = max(images.shape[-2:]) / 8
    radius = min(round(3 * sigma), min(images.shape[-2:]) - 1)
    blurred: Tensor = gaussian_blur(images, [2 * radius + 1] * 2, [sigma, sigma])
    return blurred


BASELINES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "black": _black,
    "blur": _blur,
    "mean": _mean,
}
"""Name -> (normalised images (B, C, H, W), mean and sd (C,) of pixels) -> normalised baselines.

Sturmfels, Lundberg and Lee (2020), "Visualizing the impact of feature attribution baselines"."""

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda values: values.abs().amax(dim=1),
    "norm": lambda values: values.norm(dim=1),
    "sum": lambda values: values.abs().sum(dim=1),
}
"""Name -> attributions (B, C, H, W) -> how much each pixel counts (B, H, W); the paper's is sum."""


def to_maps(values: Tensor, reduction: str = "sum") -> Tensor:
    """Attributions (B, C, H, W) to maps (B, H, W): reduced over channels, min-max to [0, 1].

    A constant map carries no order of pixels and becomes zero, never NaN.
    """
    maps = REDUCTIONS[reduction](values)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


def correlate(ours: Tensor, theirs: Tensor) -> Tensor:
    """Pearson correlation (B,) of each pair of maps (B, H, W); equal maps, constant too, give 1."""
    ours, theirs = ours.flatten(1).double(), theirs.flatten(1).double()
    one, other = (maps - maps.mean(1, keepdim=True) for maps in (ours, theirs))
    found = functional.cosine_similarity(one, other, eps=1e-12)
    return torch.where((ours == theirs).all(1), 1.0, found)


def fold_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """The model with each BatchNorm folded into the convolution before it: same logits, less work.

    Images (B, C, H, W) prove that the logits are the same; a model that cannot be traced, or whose
    logits change, is returned as it is.
    """
    assert not model.training
    try:
        folded: nn.Module = optimization.fuse(model)
    except Exception as error:  # whatever a foreign architecture does to the tracer: it still works
        log.debug("norms stay where they are: %s", error)
        return model
    with torch.no_grad():
        expected, found = model(images), folded(images)
    same = torch.allclose(expected, found, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return folded.to(memory_format=torch.channels_last) if same else model
