"""Arrays on disk, filled shard by shard: a killed fill goes on at its first unfinished row.

A bank may be larger than memory and take hours, so its rows are computed a shard at a time into a
memory-mapped npy file, and `<name>.progress` counts those whose bytes are on the disk.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from igkd_search import files
from igkd_search.errors import MaterialError, StorageError


def read_array(folder: Path, name: str) -> npt.NDArray[Any]:
    """Return `<folder>/<name>.npy` memory-mapped, read-only; MaterialError if it is no array."""
    path = folder / f"{name}.npy"
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MaterialError(f"{path}: is not a readable npy array ({error})") from error
    return array


def fill(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    shard_rows: int,
    compute: Callable[[int, int], npt.NDArray[Any]],
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write `<name>.npy` of `shape` shard by shard, continuing where a killed process stopped.

    `compute(start, stop)` returns rows start..stop, shape (stop - start, *shape[1:]), in a dtype
    that fits without changing kind. `advance` hears the rows finished by each step, those found
    first. A kill costs at most one shard. Raises StorageError when the disk is full.
    """
    assert shard_rows > 0, shard_rows
    path, progress = folder / f"{name}.npy", folder / f"{name}.progress"
    array, done = _resume(path, progress, shape, np.dtype(dtype))
    if done:
        advance(done)
    for start in range(done, shape[0], shard_rows):
        stop = min(start + shard_rows, shape[0])
        rows = compute(start, stop)
        assert rows.shape == (stop - start, *shape[1:]), (rows.shape, start, stop)
        np.copyto(array[start:stop], rows, casting="same_kind")
        with StorageError.when_writing(path):
            array.flush()
            files.replace(progress, str(stop).encode())
        advance(stop - start)
    progress.unlink(missing_ok=True)


def _resume(
    path: Path, progress: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[np.memmap[Any, Any], int]:
    """Open the array to be filled and tell how many rows are finished; a misfit starts anew."""
    if path.exists():
        # The array is finished, not begun, where no progress file lies beside it.
        done = int(progress.read_bytes()) if progress.exists() else shape[0]
        array = _begun(path, shape, dtype) if done else None
        if array is not None:
            return array, done
    with StorageError.when_writing(path):
        files.replace(progress, b"0")
        try:
            return _allocated(path, shape, dtype), 0
        except OSError:
            # what could be had of the disk would keep it full
            path.unlink(missing_ok=True)
            raise


def _begun(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> "np.memmap[Any, Any] | None":
    try:
        found = open_memmap(path, mode="r")  # r+ would lengthen with zeros what was cut short
    except ValueError:
        return None
    fits = found.shape == shape and found.dtype == dtype
    return open_memmap(path, mode="r+") if fits else None


def _allocated(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A full disk must be an error now, not a SIGBUS at a write into a mapped hole later.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
