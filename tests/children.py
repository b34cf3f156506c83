"""Child processes on a few lines of Python, for what only a second process can show."""

import os
import subprocess
import sys
from pathlib import Path

import igkd_search

_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(igkd_search.__file__).parents[1])}


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a Python process on `code`, with pipes for all three streams."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=_ENVIRONMENT
    )
