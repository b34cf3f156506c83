"""Benchmarks run as they are and end with one line of JSON, whether or not a claim holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_training_loop_ends_with_its_claim() -> None:
    smallest = ["--quick", "--repeats", "1", "--batch-size", "4", "--loader-workers", "0"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/training_loop.py", "--device", "cpu", *smallest],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert {"claim", "ratio", "target", "holds", "n", "spread", "device"} <= set(line)
    assert line["target"] == 0.05 and line["batch_size"] == 4
    assert line["against_the_papers_loop"]["target"] is None
    assert line["digits_size"]["image_size"] == 8
