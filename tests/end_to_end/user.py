"""A user who types commands in a folder, and what they print."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# A process between, since a child of this one would be charged with the memory of the whole suite.
MEASURE = """
import pathlib, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(str(peak))
sys.exit(code)
"""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and the most memory that its process ever held."""

    output: str
    log: str
    peak_bytes: int


class Folder:
    """An empty folder in which a user types commands; everything is kept in its ./storage."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def type(self, *command: str) -> Answer:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("OMP_NUM_THREADS", None)  # as many threads as a user gets
        with tempfile.NamedTemporaryFile() as peak:
            found = subprocess.run(
                [sys.executable, "-c", MEASURE, peak.name, sys.executable, *command],
                cwd=self.path,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert found.returncode == 0, found.stderr
            unit = 1 if sys.platform == "darwin" else 1024
            return Answer(found.stdout, found.stderr, int(Path(peak.name).read_text()) * unit)

    def igkd(self, *arguments: str) -> Answer:
        return self.type("-m", "igkd_search", *arguments)

    def igkd_json(self, *arguments: str) -> Any:
        return json.loads(self.igkd(*arguments, "-f", "json").output)
