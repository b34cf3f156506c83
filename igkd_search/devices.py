"""Devices: which one computes, how many CPU threads it gets, and what its hardware can do.

Everything here works on `cuda`, `mps` and `cpu`; one argument says which.
"""

import os
import re

import torch
from torch import nn

from igkd_search.errors import StudyError

ALLOWED = "cuda, cuda:N, mps, cpu"
_SMALL_IMAGE = 16 * 16  # pixels


def choose(asked: str | None = None) -> torch.device:
    """The device that is asked for, else that of IGKD_DEVICE, else the best there is.

    StudyError when it is none, or this machine or this build of torch lacks it.
    """
    where = "--device" if asked else "IGKD_DEVICE"
    name = asked or os.environ.get("IGKD_DEVICE")
    if not name:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if re.fullmatch(r"cuda(:\d+)?|mps|cpu", name) is None:
        raise StudyError(f"{where} = {name}: no device to train on; allowed: {ALLOWED}")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # torch goes on for a screen about how it might have been built
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise StudyError(f"{where} = {name}: {reason}; allowed: {ALLOWED}") from error


def uuid_of(device: torch.device) -> str | None:
    """The identity of a GPU, the same in every process and under every numbering; else None."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def use_threads(image_shape: tuple[int, int, int], workers: int = 1) -> int:
    """Set torch's CPU threads for images (C, H, W) and return how many: cores / workers.

    Up to 16x16 it is one: the layers are so small that a second thread gains a quarter on a quiet
    machine and loses a factor of twenty on a busy one, where it spins while it waits.
    OMP_NUM_THREADS is always obeyed.
    """
    _, height, width = image_shape
    if "OMP_NUM_THREADS" not in os.environ:
        small = height * width <= _SMALL_IMAGE
        torch.set_num_threads(1 if small else max(1, cores() // workers))
    return torch.get_num_threads()


def cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_bf16(device: torch.device) -> bool:
    """Whether a step is quicker in bf16: where the hardware computes in it, not in emulation.

    On a CPU always no: torch has no public test for its bf16 units that all supported versions
    know, and a record would depend on which CPU it was made on.
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def autocast(device: torch.device) -> torch.autocast:
    """The precision of a training step on a device: bf16 where that is quicker, else as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device))


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, channels last in memory: 2x on a CPU, the rule on GPUs."""
    return model.to(device).to(memory_format=torch.channels_last)
