"""`igkd run` in real processes: killed in the middle of a trial, refused memory; then as ever."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from igkd_search import artifacts, database, materials, results
from tests import tiny
from tests.children import forked

KILLED = """
import json, os, signal, sys
from igkd_search import cli, training

study, home, plan = sys.argv[1:]
trial, step = json.loads(plan)
train, loss = training.train, training.Distillation.loss
trials, steps = [], []

def watched(*arguments, **options):
    trials.append(steps.clear())
    yield from train(*arguments, **options)

def counted(task, model, batch):
    steps.append(batch)
    if (len(trials), len(steps)) == (trial, step):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(task, model, batch)

training.train, training.Distillation.loss = watched, counted
cli.app(["run", study, "--home", home, "--trials", "2"])
"""
STARVED = """
import json, resource, sys
from pathlib import Path
from igkd_search import cli, latency, materials, onnx_export, training

study, home = sys.argv[1:]
table = next(Path(home).glob("vault/latency/*/latency.json"))
timing = materials.Latency.from_dict(json.loads(table.read_bytes())["teacher"]).timing
onnx_export.export = lambda network, shape, path: path.touch()  # it takes seconds, and is not asked
latency.measure = lambda networks, *_: dict.fromkeys(networks, timing)
train, trials = training.train, []

def starved(*arguments, **options):
    trials.append(None)
    if len(trials) == 2:  # whatever torch imports has been imported by the first
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 160 * 1024**2
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    yield from train(*arguments, **options)

training.train = starved
cli.app(["run", study, "--home", home, "--trials", "3"])
"""
STEPS = 5
"""Of an epoch of the tiny study."""


def finish(code: str, *arguments: object) -> tuple[int, str]:
    """Run a child to its end: its exit code, and what it logged."""
    with forked(code, *arguments) as process:
        _, said = process.communicate()
    return process.wait(), said


def trials_of(home: Path) -> list[dict[str, Any]]:
    """All that the database says of each trial, but for times and attempts."""
    base = database.connect(f"sqlite:///{home / 'igkd.db'}", read_only=True)
    trials = results.open_study(base, "tiny").trials
    kept = [artifacts.documents_of(base, "tiny", trial.number) for trial in trials]
    base.close()
    # files are named by the very study
    aside = ("attempts", "images_per_s", "confusion_file")
    return [
        {
            "state": trial.state,
            "value": trial.value,
            "parameters": trial.params,
            "epochs": trial.intermediate_values,
            "attributes": {
                name: value for name, value in trial.user_attrs.items() if name not in aside
            },
            "kept": found,
        }
        for trial, found in zip(trials, kept, strict=True)
    ]


def rows_of(base: database.Database) -> list[results.Row]:
    return results.rows(results.open_study(base, "tiny"))


@pytest.mark.parametrize(
    ("checkpoint_every", "begins_at"),
    [(1, "epoch-0001"), (2, "epoch 0, since there is no checkpoint here")],
)
def test_killed_in_the_middle_of_a_trial_it_ends_with_the_same_records(
    searched: Path,
    arrays: Path,
    home: Path,
    tmp_path: Path,
    checkpoint_every: int,
    begins_at: str,
) -> None:
    kinds = ("teacher", "overlays", "targets", "latency", "onnx")
    mine = tiny.copy_entries(home, tmp_path / "home", *kinds)
    search = {"checkpoint_every": checkpoint_every}
    study = tiny.write_study(tmp_path / "tiny.toml", arrays, search=search)
    code, said = finish(KILLED, study, mine, json.dumps([2, STEPS + 3]))
    assert code == -signal.SIGKILL, said
    left = trials_of(mine)
    assert [list(trial["epochs"]) for trial in left] == [[1, 2], [1]]
    code, said = finish(KILLED, study, mine, json.dumps([0, 0]))
    assert code == 0, said
    assert f"trial 1: attempt 2 goes on from {begins_at}" in said
    assert trials_of(mine) == trials_of(searched)
    assert not list((mine / "checkpoints").rglob("epoch-*"))


def test_a_trial_that_memory_refuses_says_so_and_the_same_worker_goes_on(
    arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    kinds = ("teacher", "overlays", "targets", "latency")
    mine = tiny.copy_entries(home, tmp_path / "home", *kinds)
    # four times as wide as MobileNetV2 the whole network has 50 million parameters
    wide = {"width": {"choices": [tiny.WIDTH, 4.0]}}
    start = [{"width": width} for width in (tiny.WIDTH, 4.0, tiny.WIDTH)]
    search = {"trials": 3, "space": wide, "start": start}
    study = tiny.write_study(
        tmp_path / "tiny.toml", arrays, trial={"removed_blocks": 0, "epochs": 1}, search=search
    )
    code, said = finish(STARVED, study, mine)
    assert code == 0, said
    base = database.connect(f"sqlite:///{mine / 'igkd.db'}", read_only=True)
    found = rows_of(base)
    base.close()
    assert [row.state for row in found] == ["complete", "failed", "complete"]
    assert found[1].cause == "out_of_memory"
    reason = found[1].reason or ""
    # whichever of the two meets the limit first
    assert "you tried to allocate" in reason or "a convolution found no memory" in reason
    assert reason.endswith(
        "lower batch_size (12), width (4) or resolution, or raise removed_blocks (0)"
    )
    assert "goes on from" not in said, "no second process, no second attempt"
