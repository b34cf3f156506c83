"""Which GPUs are meant, as CUDA_VISIBLE_DEVICES names them, found without importing torch.

A process sees the GPUs that its environment named before torch was imported, so whoever starts
workers must know the names and must not need torch for it.
"""

import os
import re
import subprocess
from collections.abc import Callable, Mapping

from igkd_search.errors import StudyError

ALLOWED = "indexes (0,1), UUIDs (GPU-...), MIG names (MIG-...), or all"
VISIBLE = "CUDA_VISIBLE_DEVICES"
_NAME = re.compile(r"\d+|GPU-[0-9A-Fa-f-]+|MIG-[0-9A-Za-z-]+(/\d+/\d+)?")
_SECONDS = 60


def named(
    asked: str,
    environment: Mapping[str, str] = os.environ,
    listing: Callable[[], str] | None = None,
) -> tuple[str, ...]:
    """The GPUs of `0,1`, `GPU-...,MIG-...` or `all`, each as one process is to be told.

    Indexes count what CUDA_VISIBLE_DEVICES of this process leaves, as torch's do; without it, in
    the order of nvidia-smi. `listing` is what `nvidia-smi -L` says. StudyError for anything else.
    """
    visible = _split(environment[VISIBLE]) if VISIBLE in environment else None
    if asked.strip() == "all":
        found = visible if visible is not None else _listed((listing or ask_driver)())
        if not found:
            raise StudyError(f"--gpus all: there is none here; leave it out, allowed: {ALLOWED}")
        return tuple(found)
    names = [_checked(name, asked, visible) for name in _split(asked)]
    if not names:
        raise StudyError(f"--gpus {asked!r}: names no GPU; allowed: {ALLOWED}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StudyError(
            f"--gpus {asked}: {twice} is named twice; several workers share a GPU by "
            "--workers-per-gpu"
        )
    return tuple(names)


def environment_of(gpu: str) -> dict[str, str]:
    """What a process's environment must hold to see this GPU alone, under nvidia-smi's order."""
    return {VISIBLE: gpu, "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}


def ask_driver() -> str:
    """What `nvidia-smi -L` prints; StudyError when it is not there or fails."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stdout", None) or str(error)).strip().splitlines()
        raise StudyError(
            f"--gpus all: nvidia-smi does not say which there are ({' '.join(reason[:1])}); name "
            f"them, allowed: {ALLOWED}"
        ) from error
    return found.stdout


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _checked(name: str, asked: str, visible: list[str] | None) -> str:
    if _NAME.fullmatch(name) is None:
        raise StudyError(f"--gpus {asked}: {name!r} is no GPU; allowed: {ALLOWED}")
    if not name.isdigit() or visible is None:
        return str(int(name)) if name.isdigit() else name
    if int(name) >= len(visible):
        raise StudyError(
            f"--gpus {asked}: there is no GPU {name}, since {VISIBLE} = {','.join(visible)} leaves "
            f"{len(visible)}, counted from 0"
        )
    return visible[int(name)]


def _listed(listing: str) -> list[str]:
    """UUIDs in order; the slices of a GPU that is cut into some, which then computes only so."""
    found: list[list[str]] = []
    for line in listing.splitlines():
        uuid = re.search(r"\(UUID: ((GPU|MIG)-[^)]+)\)", line)
        if uuid is None:
            continue
        if uuid[2] == "GPU":
            found.append([uuid[1]])
        else:
            found[-1].append(uuid[1])
    return [name for whole, *slices in found for name in (slices or [whole])]
