"""Child processes on a few lines of Python, for what only a second process can show.

`child` starts Python anew. `forked` is for code that trains or prepares: importing torch and the
rest takes ten seconds, so one process of the tests does it, and all others are forks of it.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import igkd_search

# What commands import, some of it only when it is used.
_IMPORTED = ["igkd_search.cli", "igkd_search.launch", "torchmetrics.functional.classification"]
_IMPORTED += ["optuna.storages._rdb.models", "alembic.command"]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(igkd_search.__file__).parents[1])}


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a Python process on `code`, with pipes for all three streams."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=_ENVIRONMENT
    )


def forked(code: str, *arguments: object) -> "Forked":
    """Start `code` in a process that has imported torch, igkd_search and what both import later."""
    return Forked(code, list(map(str, arguments)))


class Forked:
    """A process of its own, with the part of `subprocess.Popen` that tests need."""

    def __init__(self, code: str, arguments: list[str]) -> None:
        (given, mine), (out, said_out), (err, said_err), (ended, ends) = (
            os.pipe() for _ in range(4)
        )
        request = json.dumps([code, arguments]).encode() + b"\n"
        theirs = [given, said_out, said_err, ends]
        socket.send_fds(_server(), [request], theirs)
        for pipe in theirs:
            os.close(pipe)
        self.stdin = os.fdopen(mine, "w", encoding="utf-8")
        self.stdout = os.fdopen(out, encoding="utf-8")
        self.stderr = os.fdopen(err, encoding="utf-8")
        self.returncode: int | None = None
        self._ended = os.fdopen(ended)
        self.pid = int(self._ended.readline())

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal, once it has ended; `timeout` in seconds."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("forked", timeout or 0)
            self.returncode = int(self._ended.readline())
        return self.returncode

    def communicate(self, said: str = "", timeout: float | None = None) -> tuple[str, str]:
        """Say `said`, close its input, and return all that it prints on both streams."""
        if not self.stdin.closed:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(said)
        with ThreadPoolExecutor() as pool:
            output, trouble = pool.map(lambda stream: stream.read(), (self.stdout, self.stderr))
        self.wait(timeout)
        return output, trouble

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        with suppress(BrokenPipeError):
            self.stdin.close()
        self.wait()
        self._ended.close()


@cache
def _server() -> socket.socket:
    """Where to ask for a fork; the process behind ends with this one."""
    ours, theirs = socket.socketpair()
    code = "from tests import children; children.serve()"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=theirs.fileno(), env=_ENVIRONMENT)
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve() -> None:
    """Fork at each request on the socket that is standard input, until it is closed."""
    for name in _IMPORTED:
        import_module(name)
    requests, fork = socket.socket(fileno=os.dup(0)), get_context("fork")
    running: dict[Any, tuple[ForkProcess, int]] = {}
    while True:
        for ready in connection.wait([requests, *running]):
            if ready is not requests:
                process, ends = running.pop(ready)
                process.join()
                os.write(ends, f"{process.exitcode}\n".encode())
                os.close(ends)
                continue
            request, pipes, *_ = socket.recv_fds(requests, 2**18, 4)
            if not request:
                os._exit(0)
            *streams, ends = pipes
            process = fork.Process(target=_run, args=(request, streams))
            process.start()
            for stream in streams:
                os.close(stream)
            os.write(ends, f"{process.pid}\n".encode())
            running[process.sentinel] = process, ends


def _run(request: bytes, streams: list[int]) -> None:
    """Be a program of its own: three streams, arguments, code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = os.fdopen(0, encoding="utf-8"), os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace")
    code, arguments = json.loads(request)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
