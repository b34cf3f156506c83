"""Who uses a vault just now, so that nothing is pruned under a process that prepares a study.

A study is registered only when its materials are finished, so until then no database names them.
Each process that prepares holds a lock file of its own for as long as that takes; the kernel lets
go of it when the process dies, so no clock decides who is still there:

    <root>/users/<unique>.lock      held by one process that prepares
    <root>/users.lock               held for a moment to come in, and by who prunes all the while
"""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from igkd_search.errors import StorageError

log = logging.getLogger(__name__)


@contextmanager
def using(root: Path) -> Iterator[None]:
    """Count this process among the users of the vault at `root` while the body runs.

    Waits, with a message, for a process that prunes. StorageError when the folder is not writable.
    """
    own = FileLock(root / "users" / f"{uuid.uuid4().hex}.lock")
    with StorageError.when_writing(root):
        (root / "users").mkdir(parents=True, exist_ok=True)
    with _gate(root), StorageError.when_writing(root):
        own.acquire(timeout=0)
    try:
        yield
    finally:
        Path(own.lock_file).unlink(missing_ok=True)
        own.release()


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep users out while the body runs; StorageError with their number when there are some."""
    with _gate(root):
        present = [path for path in (root / "users").glob("*.lock") if not _cleared(path)]
        if present:
            count = "a process is" if len(present) == 1 else f"{len(present)} processes are"
            raise StorageError(
                f"{root}: {count} preparing materials here that no study names yet; nothing was "
                "removed, type the command again when they have finished"
            )
        yield


def _cleared(path: Path) -> bool:
    """Remove the lock file of a process that died; False when its process lives."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (OSError, Timeout):  # of another account it cannot be tried
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True


@contextmanager
def _gate(root: Path) -> Iterator[None]:
    gate = FileLock(root / "users.lock")
    with StorageError.when_writing(root):
        try:
            gate.acquire(timeout=1)  # another user comes in within less
        except Timeout:
            log.info("waiting for another process that prunes %s", root)
            gate.acquire()
    try:
        yield
    finally:
        gate.release()
