"""Entries on disk, whole or not at all: addressed by their inputs, locked, checksummed.

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
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igkd_search import __version__, files
from igkd_search.errors import MaterialError, StorageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PARTIAL = ".partial"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


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
    with StorageError.when_writing(path):
        files.replace(path, data)


class Vault:
    """A folder of finished entries; each is verified on its first opening by this object.

    One object a process is meant: later openings cost one look at the manifest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._opened: set[Path] = set()

    @property
    def opened(self) -> tuple[str, ...]:
        """What was opened or built through this object, each as "kind/digest", in order."""
        return tuple(sorted(f"{folder.parent.name}/{folder.name}" for folder in self._opened))

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

    def remove(self, folder: Path) -> bool:
        """Remove an entry, finished or partial; False when a process is building it just now.

        `folder` is what lies in the vault. Raises StorageError when it cannot be removed.
        """
        with StorageError.when_writing(self.root), trying(folder) as free:
            if free:
                (folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder)
                self._opened.discard(folder)
        return free

    def _make(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        build: Callable[[Path], None],
        check: Callable[[Path], None] | None,
    ) -> None:
        partial = folder.with_name(folder.name + PARTIAL)
        with StorageError.when_writing(self.root):
            _remove(folder)
            partial.mkdir(exist_ok=True)
        try:
            build(partial)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageError.of_writing(self.root, error) from error
            raise
        if check is not None:
            try:
                check(partial)
            except MaterialError:
                _remove(partial)
                raise
        with StorageError.when_writing(self.root):
            _seal(partial, inputs)
            os.rename(partial, folder)
            files.sync(folder.parent)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        from filelock import Timeout

        with StorageError.when_writing(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = _lock_of(folder)
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
def trying(folder: Path) -> Iterator[bool]:
    """Hold an entry's lock while the body runs, unless a process builds it: yields whether held."""
    from filelock import Timeout

    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock_of(folder: Path) -> "BaseFileLock":
    # Imported here: filelock draws in asyncio, which a look at the vault need not pay for.
    from filelock import FileLock

    return FileLock(folder.with_name(folder.name.removesuffix(PARTIAL) + ".lock"))


def _seal(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Bring every file to the disk and write the manifest that vouches for them."""
    files.remove_litter(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path != folder / MANIFEST]
    for path in paths:
        files.sync(path)
    recorded = {
        path.relative_to(folder).as_posix(): {
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
        }
        for path in paths
        if path.is_file()
    }
    manifest = {
        "inputs": inputs,
        "files": recorded,
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
        known, recorded = digest(manifest["inputs"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    if known != digest(inputs):
        return f"{MANIFEST} names other inputs"
    for name, record in recorded.items():
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
