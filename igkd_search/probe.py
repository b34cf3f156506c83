"""What torch says of itself and of every device, as one line of JSON; a process of its own.

`installation` runs it: an extension built for another torch ends the process that imports it, and a
driver that hangs holds its caller for ever; neither must happen to who wants to know.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any


def main() -> None:
    """Print what is found on the last line of standard output."""
    found: dict[str, Any] = {"torch": _said(_torch), "torchvision": _said(_torchvision)}
    if "version" in found["torch"]:
        found["devices"] = _devices()
    print(json.dumps(found))


def _said(ask: Any) -> dict[str, Any]:
    """What was said, or the error in its place; whatever a broken installation may raise."""
    try:
        answer: dict[str, Any] = ask()
    except Exception as error:
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0] if lines else ''}".strip(": ")}
    return answer


def _torch() -> dict[str, Any]:
    import torch

    builds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    return {"version": torch.__version__, "builds": {k: v for k, v in builds.items() if v}}


def _torchvision() -> dict[str, Any]:
    import torchvision

    return {"version": torchvision.__version__}


def _devices() -> list[dict[str, Any]]:
    import torch

    devices = [_cpu()]
    if torch.backends.mps.is_available():
        devices.append({"name": "mps"} | _said(lambda: _used("mps")))
    cuda = _said(_cuda)
    if "error" in cuda:
        return [*devices, {"name": "cuda", **cuda}] if _has_card() else devices
    return [*devices, *({"name": f"cuda:{i}"} | _said(lambda i=i: _card(i)) for i in cuda["cards"])]


def _cpu() -> dict[str, Any]:
    import psutil

    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count()
    memory = psutil.virtual_memory().total
    return {"name": "cpu", "kind": platform.machine(), "cores": cores, "bytes": memory}


def _cuda() -> dict[str, Any]:
    import torch

    # its error is the driver's verdict, where is_available only says no
    torch.zeros(1, device="cuda")
    return {"cards": list(range(torch.cuda.device_count()))}


def _card(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "kind": properties.name,
        "uuid": f"GPU-{properties.uuid}",
        "capability": f"{properties.major}.{properties.minor}",
        "bytes": total,
        "free": free,
        **_used(f"cuda:{index}"),
    }


def _used(device: str) -> dict[str, Any]:
    """A sum made there: the only proof that this build of torch has code for this card."""
    import torch

    assert int(torch.ones(3, device=device).sum()) == 3
    return {}


def _has_card() -> bool:
    """Whether the kernel knows an NVIDIA or AMD card, whatever torch can make of it."""
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"))


if __name__ == "__main__":
    main()
