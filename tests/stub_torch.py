"""A torch in place of the real one, for child processes: a file that says what the test has it say.

Real broken installations are large, and a real card is not everywhere.
"""

from pathlib import Path

import pytest

_TORCH = """
import types
__version__ = "9.9.0"
version = types.SimpleNamespace(cuda="13.9", hip=None)
backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: False))
BROKEN = {broken!r}
FREE = {free!r}

def _properties(index):
    return types.SimpleNamespace(name=f"Card {{index}}", uuid=f"u-{{index}}", major=9, minor=0)

cuda = types.SimpleNamespace(
    device_count=lambda: 2,
    get_device_properties=_properties,
    mem_get_info=lambda index: (FREE[index], 80_000_000_000),
)

class _Sum:
    def sum(self):
        return 3

def zeros(count, device):
    return ones(count, device)

def ones(count, device):
    if device in BROKEN:
        raise RuntimeError(BROKEN[device])
    return _Sum()
"""


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: dict[str, str] | None = None,
    free: tuple[int, int] = (70_000_000_000, 70_000_000_000),
    torch: str | None = None,
    vision: str = "__version__ = '8.8.0'",
) -> None:
    """Let child processes import this torch and torchvision.

    `broken` are devices and what using them raises, `torch` and `vision` other code to import.
    """
    code = _TORCH.format(broken=broken or {}, free=free)
    (folder / "torch.py").write_text(code if torch is None else torch)
    (folder / "torchvision.py").write_text(vision)
    monkeypatch.setenv("PYTHONPATH", str(folder))
