"""Which process on which host a worker is, told apart from others that get its pid later."""

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_HIDDEN = "hidden"


@dataclass(frozen=True)
class Identity:
    """Who claims: a worker (`owner`, unique) and its process, told apart from reused pids."""

    host: str
    pid: int
    process_started: str
    boot_id: str
    owner: str

    def died_here(self, host: str | None, boot_id: str | None, pid: int, started: str) -> bool:
        """Whether that process was one of this host, of this boot, and is gone; unsure is no."""
        if (host, boot_id) != (self.host, self.boot_id):
            return False
        return process_start(pid) not in (started, _HIDDEN)


def this_process() -> Identity:
    """A new worker in this process."""
    started = process_start(os.getpid())
    assert started is not None
    return Identity(socket.gethostname(), os.getpid(), started, _boot_id(), uuid.uuid4().hex)


def process_start(pid: int) -> str | None:
    """When this process started, for comparison only; None when no such process is at work."""
    try:
        if not psutil.LINUX:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        # Ticks since boot: psutil's start time moves when the wall clock is set.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return _HIDDEN
    except (FileNotFoundError, ProcessLookupError):
        return _HIDDEN if _answers(pid) else None


def _answers(pid: int) -> bool:
    """Whether the kernel knows the process; on shared hosts /proc may hide other users' ones."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


@cache
def _boot_id() -> str:
    """This boot of this kernel and, in containers, whose pids are meant."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return repr(psutil.boot_time())
