"""`igkd prepare` in real processes: killed in a bank, two at once, on a full disk; then as ever."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igkd_search import materials
from tests import tiny
from tests.children import forked

PREPARE = """
import json, os, resource, signal, sys
from pathlib import Path
from igkd_search import cli, logits_bank, overlay_bank, shards

study, home, log, plan = sys.argv[1:5]
plan = json.loads(plan)
fill = shards.fill

def watched(folder, name, shape, dtype, rows, compute, advance):
    if name == plan.get("full"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    def noted(start, stop):
        if [name, start] == plan.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if [name, start] == plan.get("wait"):
            print("building", flush=True)
            sys.stdin.readline()
        with open(log, "a") as file:
            file.write(f"{name} {start} {stop}\\n")
        return compute(start, stop)
    fill(folder, name, shape, dtype, 10, noted, advance)

shards.fill = watched
cli.app(["prepare", study, "--home", home])
"""
SHARDS = [f"{start} {min(start + 10, tiny.TRAIN)}" for start in range(0, tiny.TRAIN, 10)]


@pytest.fixture
def fresh(home: Path, shared: materials.Materials, tmp_path: Path) -> Path:
    """A home folder with all materials but the banks."""
    return tiny.copy_entries(home, tmp_path / "home", "teacher", "latency", "onnx")


@pytest.fixture
def study_file(arrays: Path, tmp_path: Path) -> Path:
    return tiny.write_study(tmp_path / "tiny.toml", arrays)


def prepare(study: Path, home: Path, log: Path, **plan: Any) -> Any:
    return forked(PREPARE, study, home, log, json.dumps(plan))


def computed(log: Path, name: str) -> Sequence[str]:
    """The shards that were computed, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")]


def banks(home: Path) -> dict[str, Any]:
    found = {path.stem: np.load(path) for path in (home / "vault").rglob("*.npy")}
    assert set(found) == {"logits", "maps"}
    return found


def check(home: Path, shared: materials.Materials) -> None:
    """Both banks are there, whole, and what an undisturbed process builds."""
    found = banks(home)
    assert shared.targets is not None
    assert not list((home / "vault").rglob("*.partial"))
    # other shards are other batches, which may round otherwise in the last place
    np.testing.assert_allclose(found["logits"], shared.targets, rtol=2e-3, atol=2e-3)
    assert np.abs(found["maps"].astype(int) - shared.maps).max() <= 1


@pytest.mark.parametrize("name", ["maps", "logits"])
def test_killed_in_the_middle_of_a_bank_it_goes_on_at_that_shard(
    fresh: Path, study_file: Path, tmp_path: Path, shared: materials.Materials, name: str
) -> None:
    log = tmp_path / "log"
    with prepare(study_file, fresh, log, kill=[name, 30]) as doomed:
        _, said = doomed.communicate()
        assert doomed.returncode == -signal.SIGKILL, said
    assert computed(log, name) == SHARDS[:3]
    with prepare(study_file, fresh, log) as second:
        _, said = second.communicate()
        assert second.returncode == 0, said
    assert computed(log, name) == SHARDS  # none twice, none left out
    check(fresh, shared)


def test_of_two_at_once_one_builds_and_the_other_waits_and_says_so(
    fresh: Path, study_file: Path, tmp_path: Path, shared: materials.Materials
) -> None:
    log = tmp_path / "log"
    with prepare(study_file, fresh, log, wait=["maps", 30]) as builder:
        assert builder.stdout.readline() == "building\n"
        with prepare(study_file, fresh, log) as other:
            assert any("waiting for another process" in line for line in other.stderr)
            builder.stdin.write("\n")
            builder.stdin.close()
            assert other.wait() == 0
        assert builder.wait() == 0
    assert computed(log, "maps") == computed(log, "logits") == SHARDS
    check(fresh, shared)


@pytest.mark.parametrize("name", ["maps", "logits"])
def test_a_full_disk_is_said_leaves_no_half_bank_and_the_same_command_goes_on(
    fresh: Path, study_file: Path, tmp_path: Path, shared: materials.Materials, name: str
) -> None:
    log, kind = tmp_path / "log", {"maps": "overlays", "logits": "targets"}[name]
    with prepare(study_file, fresh, log, full=name) as cramped:
        _, said = cramped.communicate()
        assert cramped.returncode == 1, said
    error = said[said.index("error: ") :]
    assert error.count("\n") == 1 and "cannot be written (File too large)" in error
    assert "type the command again (what is finished is kept)" in error
    assert not list((fresh / "vault" / kind).rglob("*.npy"))
    assert not list((fresh / "vault" / kind).rglob("manifest.json"))
    with prepare(study_file, fresh, log) as roomy:
        _, said = roomy.communicate()
        assert roomy.returncode == 0, said
    check(fresh, shared)
