"""A teacher's file of weights: safetensors, or a plain state dict that torch saved.

No pickle runs: torch reads with `weights_only`, which knows tensors and plain containers and
refuses all else. Training scripts wrap their state dicts, so one level of the usual wrappers is
taken off, and the prefix that DataParallel puts before every name.
"""

import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from igkd_search import spec, vault
from igkd_search.errors import MaterialError, StudyError, reason_of

log = logging.getLogger(__name__)

WEIGHTS = "teacher.safetensors"
"""The name of the weights in an entry of the vault."""
_CONVERSION_VERSION = 1  # raise when the same file would be converted otherwise
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."
_SAVE = (
    "save its weights alone: torch.save(model.state_dict(), 'teacher.pt'), or "
    "safetensors.torch.save_file(model.state_dict(), 'teacher.safetensors')"
)


def check(options: spec.Teacher) -> Path:
    """The file that a study names; StudyError or MaterialError when it is absent or another."""
    assert options.checkpoint is not None
    path = Path(options.checkpoint)
    if not path.is_file():
        raise StudyError(
            f"teacher.checkpoint: {path}: no such file; give the path of a safetensors file or a "
            "state dict, or remove the key to train a teacher"
        )
    _reader(path)
    if options.checkpoint_sha256 not in (None, vault.file_digest(path)):
        raise MaterialError(
            f"{path}: its sha256 is {vault.file_digest(path)}, not {options.checkpoint_sha256}; "
            "this is another teacher than the one that was stated"
        )
    return path


def as_safetensors(file: Path, store: vault.Vault) -> Path:
    """The file itself, or the entry of the vault that a state dict is converted into, once."""
    if file.suffix == ".safetensors":
        return file

    def convert(folder: Path) -> None:
        found = read(file)
        _log_precision(file, found)
        whole = {
            # a copy each: safetensors refuses tensors that share memory
            key: (value.float() if value.is_floating_point() else value).clone().contiguous()
            for key, value in found.items()
        }
        vault.write_whole(folder / WEIGHTS, save(whole))

    inputs = {"file": vault.file_digest(file), "version": _CONVERSION_VERSION}
    return store.entry("teacher", inputs, convert) / WEIGHTS


def load(network: nn.Module, path: Path, shown: Path | None = None) -> None:
    """Load a file of weights; MaterialError names the first key that does not fit.

    `shown` is the file that messages name, by default `path`.
    """
    found, wanted, shown = read(path), network.state_dict(), shown or path
    for key in [*wanted, *found]:
        ours, theirs = _form(wanted.get(key)), _form(found.get(key))
        if ours != theirs:
            raise MaterialError(
                f"{shown}: {key} is {theirs} in the file, but {ours} in the "
                "architecture that the study names"
            )
    _log_precision(shown, found)
    network.load_state_dict(found)


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    # of floats any precision will do
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _log_precision(file: Path, found: Mapping[str, Tensor]) -> None:
    kinds = {str(value.dtype) for value in found.values() if value.is_floating_point()}
    others = sorted(name.removeprefix("torch.") for name in kinds - {"torch.float32"})
    if others:
        log.info("%s: holds %s; converted to float32", file, ", ".join(others))


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file on the CPU; MaterialError says what else was found."""
    return _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], dict[str, Tensor]]:
    if path.suffix not in READERS:
        raise MaterialError(
            f"{path}: its name ends in {path.suffix or 'nothing'!r}; allowed are "
            f"{', '.join(READERS)}; {_SAVE}"
        )
    return READERS[path.suffix]


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MaterialError(f"{path}: not a readable safetensors file: {error}") from error


def _plain(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise MaterialError(
            f"{path}: holds code or other objects beside tensors, which are never loaded; where it "
            f"was made, {_SAVE}"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise MaterialError(
            f"{path}: not a readable state dict ({reason_of(error)}); where it was made, {_SAVE}"
        ) from error
    return _unprefixed(_checked(path, _unwrapped(found)))


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": _safetensors,
    ".pt": _plain,
    ".pth": _plain,
    ".bin": _plain,
}
"""How the name of a file ends -> what reads it."""


def _unwrapped(found: Any) -> Any:
    if isinstance(found, Mapping):
        for name in _WRAPPERS:
            if isinstance(found.get(name), Mapping):
                return found[name]
    return found


def _checked(path: Path, found: Any) -> dict[str, Tensor]:
    what = _fault(found)
    if what is not None:
        raise MaterialError(
            f"{path}: {what}; wanted is a state dict, names to tensors, plain or under one of "
            f"{', '.join(_WRAPPERS)}; {_SAVE}"
        )
    return dict(found)


def _fault(found: Any) -> str | None:
    if not isinstance(found, Mapping):
        return f"holds {type(found).__name__}"
    if not found:
        return "holds nothing"
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return f"its entry {name!r} is {type(value).__name__}"
    return None


def _unprefixed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(_PREFIX) for name in found):
        return found
    return {name.removeprefix(_PREFIX): value for name, value in found.items()}
