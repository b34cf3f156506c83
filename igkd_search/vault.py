"""Files on disk written whole or not at all: content-addressed, locked, checksummed, memory-mapped.

What all trials share (teacher, banks, latency table, ONNX files) is costly to make and read by many
processes for days. So an entry is named by the digest of its inputs, made under a lock in a partial
folder that a killed process leaves for its successor, sealed with checksums and renamed into place:

    <root>/<kind>/<digest[:16]>/            finished, with manifest.json; never written again
    <root>/<kind>/<digest[:16]>.partial/    being built, or left by a process that died
    <root>/<kind>/<digest[:16]>.lock        held by the one process that builds

Sharp edge: the lock is the kernel's (flock); where a network folder has none, each host needs its
own folder.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igkd_search import __version__
from igkd_search.errors import MaterialError, StorageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_TEMPORARY = ".{name}.{unique}.tmp"


def digest(inputs: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of `inputs`, JSON values only, whatever the order of their keys."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a power cut, sees the old or the new whole.

    The folder must exist: one that another process removed must not come back half. Raises
    StorageError (disk full, read-only, missing); the old content is kept then.
    """
    temporary = path.with_name(_TEMPORARY.format(name=path.name, unique=uuid.uuid4().hex))
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class Vault:
    """A folder of finished entries; each is verified on its first opening by this object.

    One object a process is meant: later openings cost one look at the manifest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._opened: set[Path] = set()

    def folder(self, kind: str, inputs: Mapping[str, Any]) -> Path:
        """Return where the entry of these inputs lies or would lie."""
        return self.root / kind / digest(inputs)[:16]

    def contains(self, kind: str, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a finished entry exists (its checksums are not read)."""
        return _stamp(self.folder(kind, inputs)) is not None

    def entry(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], None],
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """Return the folder of the finished entry, built here only if no sound one exists.

        `build(folder)` writes into a partial folder and continues from what it finds there: that
        folder outlives a kill or an exception. `check(folder)` raises MaterialError on wrong
        content; it judges a fresh build (then nothing is kept) and an entry's first opening (then
        it is rebuilt once, with a warning, as after a failed checksum). Of many processes one
        builds, the rest wait. Raises StorageError when the folder cannot be read or written.
        """
        folder = self.folder(kind, inputs)
        while True:
            seen = _stamp(folder)
            if seen is not None and folder in self._opened:
                return folder
            # Judged outside the lock, so that many readers of a large bank hash it in parallel.
            fault = None if seen is None else _fault(folder, inputs, check)
            if seen is not None and fault is None:
                break
            with self._locked(folder):
                if _stamp(folder) != seen:
                    continue  # another process built it meanwhile: judge that one
                if fault is not None:
                    log.warning("%s: %s; the entry is removed and built again", folder, fault)
                self._make(folder, inputs, build, check)
            break
        self._opened.add(folder)
        return folder

    def _make(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        build: Callable[[Path], None],
        check: Callable[[Path], None] | None,
    ) -> None:
        partial = folder.with_name(folder.name + ".partial")
        with self._writing():
            _remove(folder)
            partial.mkdir(exist_ok=True)
        try:
            build(partial)
        except OSError as error:
            if error.errno in _FULL:
                raise self._unwritable(error) from error
            raise
        if check is not None:
            try:
                check(partial)
            except MaterialError:
                _remove(partial)
                raise
        with self._writing():
            _seal(partial, inputs)
            os.rename(partial, folder)
            _sync(folder.parent)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        # Imported here: filelock draws in asyncio, which a look at the vault need not pay for.
        from filelock import FileLock, Timeout

        with self._writing():
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(folder.name + ".lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("waiting for another process that builds %s", folder)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.root}: cannot be written ({error.strerror or error}); "
            "free space there, or choose another folder with --home or IGKD_HOME"
        )


def read_array(folder: Path, name: str) -> "npt.NDArray[Any]":
    """Return `<folder>/<name>.npy` memory-mapped, read-only; MaterialError if it is no array."""
    import numpy as np

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
    dtype: "npt.DTypeLike",
    shard_rows: int,
    compute: Callable[[int, int], "npt.NDArray[Any]"],
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write `<name>.npy` of `shape` shard by shard, continuing where a killed process stopped.

    `compute(start, stop)` returns rows start..stop, shape (stop - start, *shape[1:]), in a dtype
    that fits without changing kind. `advance` hears the rows finished by each step, those found
    first. `<name>.progress` counts the finished rows once their bytes are on the disk, so a kill
    costs at most one shard. Raises StorageError when the disk is full.
    """
    import numpy as np

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
        array.flush()
        write_whole(progress, str(stop).encode())
        advance(stop - start)
    progress.unlink(missing_ok=True)


def _resume(
    path: Path, progress: Path, shape: tuple[int, ...], dtype: "np.dtype[Any]"
) -> tuple["np.memmap[Any, Any]", int]:
    """Open the array to be filled and tell how many rows are finished; a misfit starts anew."""
    from numpy.lib.format import open_memmap

    if path.exists():
        # The array is finished, not begun, where no progress file lies beside it.
        done = int(progress.read_bytes()) if progress.exists() else shape[0]
        if done:
            array = open_memmap(path, mode="r+")
            if array.shape == shape and array.dtype == dtype:
                return array, done
    write_whole(progress, b"0")
    try:
        array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # A full disk must be an error now, not a SIGBUS at a write into a mapped hole later.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise _refused(path, error) from error
    return array, 0


def _seal(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Bring every file to the disk and write the manifest that vouches for them."""
    for litter in folder.rglob(_TEMPORARY.format(name="*", unique="*")):
        litter.unlink()  # of a process killed within write_whole
    paths = [path for path in sorted(folder.rglob("*")) if path != folder / MANIFEST]
    for path in paths:
        _sync(path)
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
        }
        for path in paths
        if path.is_file()
    }
    manifest = {
        "inputs": inputs,
        "files": files,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "igkd_search": __version__,
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def _fault(
    folder: Path, inputs: Mapping[str, Any], check: Callable[[Path], None] | None
) -> str | None:
    """Say what is wrong with a finished entry, or None: its manifest, its files, its content."""
    try:
        fault = _mismatch(folder, inputs)
    except FileNotFoundError as error:
        return f"{error.filename} vanished"
    except OSError as error:
        # What cannot be read just now may be sound: it is not this process's to remove.
        raise StorageError(f"{folder}: cannot be read ({error.strerror or error})") from error
    if fault is None and check is not None:
        try:
            check(folder)
        except MaterialError as error:
            return str(error)
    return fault


def _mismatch(folder: Path, inputs: Mapping[str, Any]) -> str | None:
    """Name the first file that is not what the manifest vouches for."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        known, files = digest(manifest["inputs"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    if known != digest(inputs):
        return f"{MANIFEST} names other inputs"
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record["bytes"] or file_digest(path) != record["sha256"]:
            return f"{name} does not match its checksum"
    return None


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return what changes whenever the entry is made anew; None when there is no finished entry."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:  # whatever hides it: building says clearly what is wrong with the folder
        return None
    return status.st_ino, status.st_mtime_ns


def _remove(folder: Path) -> None:
    # The manifest first: from then on the folder is no entry, even if a kill leaves the rest of it.
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder; a file must be synced everywhere.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}); "
        "free space there, or choose another folder (--home, IGKD_HOME or -o)"
    )
