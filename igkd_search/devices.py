"""Devices: which one computes, how many CPU threads it gets, and what its hardware can do.

Everything here works on `cuda`, `mps` and `cpu`; one argument says which.
"""

import math
import os
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from igkd_search.errors import StudyError

ALLOWED = "cuda, cuda:N, mps, cpu"
WORKERS = "IGKD_WORKERS"
"""How many workers share the cores of this host, as whoever started them says."""
_DEVICE_FAILED = ("CUDA error", "cuDNN error", "cuBLAS error", "CUBLAS_STATUS", "CUDNN_STATUS")
_SMALL_IMAGE = 16 * 16  # pixels
_CGROUPS = Path("/sys/fs/cgroup")


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


def has_failed(error: BaseException) -> bool:
    """Whether an error is the machine's: of a disk, or of a device that answers no more.

    After such an error of CUDA every later call of the process fails as well.
    """
    if isinstance(error, (OSError, getattr(torch, "AcceleratorError", OSError))):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(word in said for word in _DEVICE_FAILED)


def uuid_of(device: torch.device) -> str | None:
    """The identity of a GPU, the same in every process and under every numbering; else None."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def use_threads(image_shape: tuple[int, int, int], workers: int | None = None) -> int:
    """Set torch's CPU threads for images (C, H, W) and return how many: cores / workers.

    Up to 16x16 it is one: the layers are so small that a second thread gains a quarter on a quiet
    machine and loses a factor of twenty on a busy one, where it spins while it waits.
    `workers` share the cores, by default those of IGKD_WORKERS, else one. OMP_NUM_THREADS is always
    obeyed. StudyError when IGKD_WORKERS is no number.
    """
    _, height, width = image_shape
    if "OMP_NUM_THREADS" not in os.environ:
        small = height * width <= _SMALL_IMAGE
        share = cores() // (workers or _workers_here())
        torch.set_num_threads(1 if small else max(1, share))
    return torch.get_num_threads()


def _workers_here() -> int:
    asked = os.environ.get(WORKERS, "1")
    if not asked.isdigit() or int(asked) < 1:
        raise StudyError(
            f"{WORKERS} = {asked}: must be how many workers share this host, 1 or more"
        )
    return int(asked)


def cores(cgroups: Path = _CGROUPS) -> int:
    """How many CPU cores this process may use, containers' quotas (rounded up) included."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = _quota(cgroups)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """The cores' worth of time that a container's cgroup allows; None where nothing limits it."""
    for read in (_quota_2, _quota_1):
        # not there, not readable, or of another form: no limit that we could keep
        with suppress(OSError, ValueError):
            quota, period = read(cgroups)
            if quota > 0 and period > 0:
                return quota / period
    return None


def _quota_2(cgroups: Path) -> tuple[int, int]:
    quota, period = (cgroups / "cpu.max").read_text().split()
    return int(quota), int(period)  # "max" is no number


def _quota_1(cgroups: Path) -> tuple[int, int]:
    quota, period = ((cgroups / "cpu" / f"cpu.cfs_{n}_us").read_text() for n in ("quota", "period"))
    return int(quota), int(period)  # -1 is no limit


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
