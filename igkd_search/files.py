"""Bytes on disk: a file replaced whole or not at all, and brought to the disk before it counts.

Plain OSErrors come out of here; `vault` and `shards` say them in the user's words.
"""

import contextlib
import errno
import logging
import os
import stat
import uuid
from pathlib import Path

log = logging.getLogger(__name__)

_TEMPORARY = ".{name}.{unique}.tmp"


def replace(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a power cut, sees the old or the new whole.

    The folder must exist. OSError when the disk is full and so on; the old content is kept then.
    """
    temporary = path.with_name(_TEMPORARY.format(name=path.name, unique=uuid.uuid4().hex))
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_private(path: Path) -> str:
    """The text of a file that holds a secret; warned of when other users can read it.

    OSError, whose `strerror` says why, when it cannot be read or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise OSError(errno.EINVAL, "not a text file") from error
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s can be read by other users; type chmod 600 %s", path, path)
    return text


def sync(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder; a file must be synced everywhere.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def remove_litter(folder: Path) -> None:
    """Remove what processes that were killed within `replace` left below a folder."""
    for litter in folder.rglob(_TEMPORARY.format(name="*", unique="*")):
        litter.unlink()
