"""Benchmarks run as they are and end with one line of JSON, whether or not a claim holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def ends_with(benchmark: str, *options: str) -> dict[str, Any]:
    """The line of JSON that a benchmark ends with."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / benchmark, "--quick", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"claim", "ratio", "target", "holds", "n", "spread", "device"} <= set(line)
    return line


def test_training_loop_ends_with_its_claim() -> None:
    smallest = ["--repeats", "1", "--batch-size", "4", "--loader-workers", "0"]
    line = ends_with("training_loop.py", "--device", "cpu", *smallest)
    assert line["target"] == 0.05 and line["batch_size"] == 4
    assert line["against_the_papers_loop"]["target"] is None
    assert line["digits_size"]["image_size"] == 8


def test_storage_ends_with_its_claim() -> None:
    line = ends_with("storage.py", "--workers", "2")
    assert line["target"] == 0.01 and line["workers"] == 2
    assert line["duplicates"] == 0
    assert [(load["database"], load["n"]) for load in line["loads"]] == [
        ("sqlite", 1),
        ("postgresql", 1),
    ]
    assert all(load["overhead_ms"] > 0 and load["claim_ms"] > 0 for load in line["loads"])


def test_search_ends_with_its_claim_and_the_same_command_goes_on(tmp_path: Path) -> None:
    few = ["--device", "cpu", "--trials", "2", "--methods", "random", "tpe-hyperband"]
    options = [*few, "--home", str(tmp_path / "home"), "--output", str(tmp_path / "output")]
    line = ends_with("search.py", *options)
    assert line["target"] == 4 and line["n"] == 1
    random, ours = line["methods"]["random"], line["methods"]["tpe-hyperband"]
    assert random["trials"] == [{"complete": 2}] and random["reached"] == 1
    assert (line["ratio"] is None) == (ours["epochs_needed"] == [None])
    told = json.loads((tmp_path / "output" / "search-digits.json").read_text())
    # a curve rises, and all methods have spent the same
    assert told["epochs_spent"] == {"random": [line["epochs"]], "tpe-hyperband": [line["epochs"]]}
    for curves in told["curves"].values():
        assert all(curve == sorted(curve) for curve in curves)
    assert (tmp_path / "output" / "search-digits.png").stat().st_size > 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*.json")}
    assert ends_with("search.py", *options) == line
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*.json")}


def test_alignment_ends_with_its_claim(tmp_path: Path) -> None:
    line = ends_with("alignment.py", "--device", "cpu", "--output", str(tmp_path))
    assert line["holds"] and line["kd_weight"] == 0.9
    own, other = (line["accuracies"][targets] for targets in ("bank", "shuffled"))
    assert own["0"] == other["0"], "without soft targets there is nothing to shuffle"
    assert json.loads((tmp_path / "alignment.json").read_text())["accuracies"] == line["accuracies"]
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")
