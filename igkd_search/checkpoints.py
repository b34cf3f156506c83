"""Checkpoints of a training: all that an epoch changes, one file an epoch, whole or not at all.

A run writes into a folder of its own; the newest below its parent, of any attempt, is where the
next attempt goes on. A file holds tensors (safetensors) and, as JSON, the records so far.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from igkd_search import files
from igkd_search.errors import MaterialError, StorageError

log = logging.getLogger(__name__)

_VERSION = 2  # raise when a checkpoint of before cannot be continued
_PATTERN = "epoch-[0-9]*.safetensors"


def path_of(folder: Path, epoch: int) -> Path:
    """Where the checkpoint after so many completed epochs lies."""
    return folder / f"epoch-{epoch:04d}.safetensors"


def epoch_of(path: Path) -> int:
    """How many epochs a checkpoint of this name has completed."""
    return int(path.stem.removeprefix("epoch-"))


def write(path: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Write a checkpoint, then remove the older ones beside it; StorageError when it cannot."""
    whole = {key: value.contiguous() for key, value in tensors.items()}
    state = {"version": str(_VERSION), "plain": json.dumps(plain)}
    with StorageError.when_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, save(whole, metadata=state))
    for older in path.parent.glob(_PATTERN):
        if epoch_of(older) < epoch_of(path):
            older.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, on the CPU, and its plain part; MaterialError if unreadable."""
    with _readable(path), safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["plain"])


def read_plain(path: Path) -> dict[str, Any]:
    """The plain part of a checkpoint alone; MaterialError if unreadable."""
    with _readable(path), safe_open(path, framework="pt") as file:
        plain: dict[str, Any] = json.loads(file.metadata()["plain"])
        return plain


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MaterialError(f"{path}: not a checkpoint that can be read: {error}") from error


def newest(folder: Path) -> Path | None:
    """The checkpoint with the most epochs below `folder`, of any attempt, or None."""
    found = sorted(
        folder.glob(f"**/{_PATTERN}"), key=lambda path: (epoch_of(path), path.parent.name)
    )
    for path in reversed(found):
        try:
            fault = _fault(path)
        except FileNotFoundError:
            continue  # its owner has just written a newer one
        if fault is None:
            return path
        # it must not end the run again and again: an older one, or the start, will do
        log.warning("%s: %s; removed", path, fault)
        path.unlink(missing_ok=True)
    return None


def take_over(folder: Path, into: Path) -> Path | None:
    """The newest checkpoint below `folder`, under a name of its own in `into`; or None.

    A late owner of the attempt before may still write, and removes what is older: under its own
    name the file stays.
    """
    while (found := newest(folder)) is not None:
        mine = into / found.name
        if mine == found:
            return found
        with StorageError.when_writing(into):
            into.mkdir(parents=True, exist_ok=True)
        try:
            _link(found, mine)
        except FileNotFoundError:
            continue  # its owner has just written a newer one
        return mine
    return None


def _link(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        content = path.read_bytes()
        with StorageError.when_writing(name):
            files.replace(name, content)


def _fault(path: Path) -> str | None:
    """Why a training cannot go on from this file, or None."""
    try:
        with safe_open(path, framework="pt") as file:
            version = (file.metadata() or {}).get("version")
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        return f"not a checkpoint that can be read ({error})"
    if version != str(_VERSION):
        return f"a checkpoint of version {version}, where this igkd goes on from {_VERSION}"
    return None


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
