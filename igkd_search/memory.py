"""How much fits into memory: what one image costs in a backward, what is free, what to do if wrong.

A bank is built in batches as large as memory and speed allow. The estimate is counted, not guessed,
and when it fails all the same (others share the device) the batch is halved and the work repeated.
"""

import ctypes
import gc
import logging
import os
import platform
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_WITHOUT_CLASS = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory",
    "MPS backend out of memory",
)
"""What allocators say that raise a plain RuntimeError."""
_OF_A_CONVOLUTION = "could not create a primitive"
"""All that oneDNN says when it gets no memory; what it cannot compute it says at more length."""
_MALLOPT = (-3, -1)  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
_KEPT_BYTES = 2**30
_SHARE = 0.5  # of what is free: gradients and workspaces need about as much as what is counted


def free_bytes(device: torch.device) -> int:
    """What a process could allocate now: of the GPU's memory, else of the machine's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return int(psutil.virtual_memory().available)


def holds(device: torch.device, size: int) -> bool:
    """Whether `size` bytes can stay on a device and leave half of what is free to the work."""
    return size <= _SHARE * free_bytes(device)


def backward_bytes(model: nn.Module, image: Tensor) -> int:
    """The bytes that a forward of one image (1, C, H, W) keeps for its backward."""
    kept: dict[int, Tensor] = {}
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def note(tensor: Tensor) -> Tensor:
        # detached: an output that its own node holds would never be freed
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        model(image.detach().requires_grad_())
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def fitting_batch(model: nn.Module, image: Tensor, fastest: int) -> int:
    """How many images like this one (1, C, H, W) go through a backward at once: `fastest` or fewer.

    At least 1, and no more than half of what is free can hold.
    """
    room = int(_SHARE * free_bytes(image.device)) // max(backward_bytes(model, image), 1)
    return max(1, min(fastest, room))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up; "memory format" and the like in a message are bugs."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return said == _OF_A_CONVOLUTION or any(text in said for text in _WITHOUT_CLASS)


def what_was_asked(error: BaseException) -> str:
    """What an allocator that gave up says, in words where it has none."""
    said = str(error) or "no memory is left"
    return f"a convolution found no memory ({said})" if said == _OF_A_CONVOLUTION else said


class Batch:
    """How many images are worked on at once: halved, for good, whenever memory runs out."""

    def __init__(self, size: int) -> None:
        assert size > 0, size
        self.size = size

    def attempt(self, work: Callable[[int], Result]) -> Result:
        """What `work(size)` returns; it is repeated with half the size while memory runs out.

        What memory refuses a single image is raised as it came.
        """
        while True:
            try:
                return work(self.size)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.size == 1:
                    raise
            # outside of the handler, whose traceback would keep the failed batch alive
            log.warning("out of memory with %d images at once; halved", self.size)
            self.size //= 2
            give_back()


def keep_freed() -> bool:
    """Let this process keep the memory that tensors free, for those of the next step; if it can.

    By default glibc returns blocks of 32 MB and more to the system at once, and a step that gets
    them anew waits while each page is cleared: a third of its time with 64 images of 32x32
    (docs/performance.md). Nothing changes where the C library is another, or its own variables
    (MALLOC_..., GLIBC_TUNABLES) say what it shall do.
    """
    decided = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if decided or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, _KEPT_BYTES) == 1 for option in _MALLOPT)


def trim() -> None:
    """Return to the system what was freed, before work of another kind that asks for much."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def give_back() -> None:
    """Free what a failed attempt left behind, so that the next one finds the memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
