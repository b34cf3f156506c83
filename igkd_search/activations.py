"""How much memory the intermediate tensors of one forward take at their peak.

What a device must hold beside the weights. It is counted, not measured, so it is the same on every
machine: eager PyTorch, one image, every tensor from the operator that makes it until Python drops
it, views of a tensor once. Left out are weights, buffers, the input itself, and what an operator
takes for itself while it runs. An engine that plans its memory takes less.
"""

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of what operators return, from their making to their end."""

    def __init__(self, held: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = held  # storages that are there anyway
        self._users: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._follow(each)
        self.peak = max(self.peak, sum(self._sizes.values()))
        return found

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._users[key] += 1
            self._sizes[key] = storage.nbytes()
            weakref.finalize(tensor, self._drop, key)

    def _drop(self, key: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            del self._users[key], self._sizes[key]


def peak_bytes(resting: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """The peak for one normalised image (C, H, W) in a network in eval mode on the CPU."""
    image = torch.zeros(1, *image_shape)
    there = [image, *resting.parameters(), *resting.buffers()]
    counter = _Counter({tensor.untyped_storage()._cdata for tensor in there})
    with torch.no_grad(), counter:
        answer = resting(image)
    del answer
    return counter.peak
