"""Optimizers by name, the schedule of the learning rate, and the moving average of the weights."""

import copy
import importlib
import math
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Group = dict[str, Any]


def build(
    name: str,
    model: nn.Module,
    *,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """The optimizer of this name in OPTIMIZERS for a model, as one fused call a step.

    Norms and biases, whatever is not a matrix, are not decayed.
    """
    import_what_torch_delays()
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups, learning_rate, momentum)


def _sgd(groups: list[Group], rate: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)


def _adamw(groups: list[Group], rate: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _adam(groups: list[Group], rate: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=rate, fused=True)


OPTIMIZERS: dict[str, Callable[[list[Group], float, float], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}
"""Name -> (parameter groups, learning rate, momentum) -> optimizer."""


def learning_rate(
    peak: float, warmup: float, step: int, steps: int, schedule: str = "cosine"
) -> float:
    """The rate of `step` in [0, steps): linear over a share `warmup`, then as SCHEDULES has it."""
    warming = round(warmup * steps)
    if step < warming:
        return peak * (step + 1) / warming
    return peak * SCHEDULES[schedule]((step - warming) / max(steps - warming, 1))


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda share: 1.0, "cosine": _cosine}
"""Name -> share of the steps after the warm-up, in [0, 1] -> share of the peak rate."""


class Average:
    """The exponential moving average of a model's weights and statistics: a second model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._decay = decay
        self._averaged, self._weights = _floats(self.model), _floats(model)

    def update(self, step: int) -> None:
        """Move towards the weights after `step`; quickly at first, or it would keep the start."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._weights, 1 - decay)


def _floats(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def import_what_torch_delays() -> None:
    """Import what torch imports at an optimizer's first use, so that no Ctrl-C is lost in it.

    Some of those nine hundred modules swallow a KeyboardInterrupt: until they are there, signals
    wait.
    """
    name = "torch._dynamo"
    if name in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _: caught.append(number)) for n in numbers}
    try:
        importlib.import_module(name)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    for number in caught:
        signal.raise_signal(number)
