"""The commands as typed: exit codes, what goes to which stream, and that a fault writes nothing."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import pytest
import tomlkit
from PIL import Image
from typer.testing import CliRunner, Result

from igkd_search import (
    __version__,
    cli,
    console,
    datasets,
    launch,
    materials,
    progress,
    registry,
    results,
    spec,
    study_file,
    training,
)
from igkd_search.errors import DataError, StudyError
from tests import tiny
from tests.children import forked

AS_MODULE = "import runpy; runpy.run_module('igkd_search', run_name='__main__', alter_sys=True)"
ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {"run", "worker", "stop", "prepare", "status", "trials", "best", "export", "train"}
COMMANDS |= {"materials", "overlays", "doctor"}


class Igkd(Protocol):
    def __call__(self, *arguments: object) -> Result:
        """Type a command."""


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Igkd]:
    """Type commands in this process; what they set for a process of their own is put back."""
    package, on_sigterm = logging.getLogger("igkd_search"), signal.getsignal(signal.SIGTERM)
    kept = package.handlers[:], package.level, package.propagate
    verbosity = optuna.logging.get_verbosity()
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    yield call
    package.handlers[:], package.level, package.propagate = kept
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)
    os.environ.pop("IGKD_DEBUG", None)


def snapshot(folder: Path) -> dict[str, str]:
    """Path -> digest of every file and folder below, without what SQLite needs while it reads."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(("-wal", "-shm"))
    }


def error_of(result: Result) -> str:
    """The one error that a command ended with, after whatever it logged."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    before, mark, message = f"\n{result.stderr}".partition("\nerror: ")
    assert mark and "\nerror:" not in message and "Traceback" not in before + message
    return message


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, **options
    )


def test_help_is_quick_since_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from igkd_search.cli import app; app(['--help'], standalone_mode=False); "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    found = python("-c", code)
    assert found.returncode == 0, found.stderr
    modules = set(json.loads(found.stdout.splitlines()[-1].replace("'", '"')))
    heavy = {"rich", "torch", "optuna", "sqlalchemy", "numpy", "captum", "pydantic", "sklearn"}
    assert "igkd_search" in modules
    assert not modules & heavy


def test_the_package_is_a_command_too() -> None:
    found = python("-m", "igkd_search", "--help")
    assert (found.returncode, found.stderr) == (0, "")
    listed = {line.split()[0] for line in found.stdout.splitlines() if line.startswith("  ")}
    assert listed >= COMMANDS


def test_the_version_is_printed(igkd: Igkd) -> None:
    assert igkd("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["walk", "digits"],
        ["run"],
        ["run", "digits", "--walk"],
        ["run", "digits", "--trials", "0"],
        ["run", "digits", "--trials", "many"],
        ["run", "digits", "--workers", "0"],
        ["run", "digits", "--gpus", "0", "--workers-per-gpu", "0"],
        ["run", "digits", "--launcher", "kubernetes"],
        ["worker"],
        ["stop"],
        ["best", "digits", "-f", "xml"],
        ["export", "digits"],
        ["overlays", "digits"],
        ["materials", "digits"],
        ["materials", "-f", "xml"],
        ["doctor", "digits", "digits"],
        ["train", "best.toml"],
        ["train", "best.toml", "-o", "final", "--seeds", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_writes_nothing(
    igkd: Igkd, tmp_path: Path, arguments: list[str]
) -> None:
    result = igkd(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and "Usage: " in result.stderr
    assert snapshot(tmp_path) == {}


def change(*place: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(plain: dict[str, Any]) -> None:
        for key in place[:-1]:
            plain = plain[key]
        plain[place[-1]] = to

    return apply


SPACE = ("search", "space")
BAD_STUDIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown key": (
        change("trial", "temprature", to=2.0),
        "trial.temprature: unknown key; did you mean 'temperature'?",
    ),
    "unknown table": (change("teachers", to={}), "teachers: unknown key; did you mean 'teacher'?"),
    "unknown name in the space": (
        change(*SPACE, "kd_wait", to={"low": 0.0, "high": 1.0}),
        "search.space.kd_wait: unknown key; did you mean 'kd_weight'?",
    ),
    "range upside down": (
        change(*SPACE, "kd_weight", to={"low": 1.0, "high": 0.0}),
        "search.space.kd_weight: low = 1 must be below high = 0",
    ),
    "empty range": (
        change(*SPACE, "kd_weight", to={"low": 0.5, "high": 0.5}),
        "search.space.kd_weight: low = 0.5 must be below high = 0.5",
    ),
    "log range at 0": (
        change(*SPACE, "learning_rate", to={"low": 0.0, "high": 1.0, "log": True}),
        "search.space.learning_rate: a log range must stay above 0",
    ),
    "illegal range": (
        change(*SPACE, "kd_weight", to={"low": 0.0, "high": 2.0}),
        "search.space.kd_weight: 2 is not allowed",
    ),
    "unknown source": (
        change("data", "source", to="cifar11"),
        "data.source: unknown value 'cifar11'; did you mean 'cifar10'?",
    ),
    "unknown sampler": (
        change("search", "sampler", to="tpee"),
        "search.sampler: unknown value 'tpee'; did you mean 'tpe'?",
    ),
    "unknown pruner": (
        change("search", "pruner", to="medium"),
        "search.pruner: unknown value 'medium'; did you mean 'median'?",
    ),
    "too many removed blocks": (change("trial", "removed_blocks", to=40), "40"),
    "too many removed blocks in the space": (
        change(*SPACE, "removed_blocks", to={"choices": [1, 40]}),
        "40",
    ),
}


@pytest.mark.parametrize("command", ["run", "prepare"])
@pytest.mark.parametrize("case", BAD_STUDIES)
def test_a_faulty_study_is_one_error_and_writes_nothing(
    igkd: Igkd, arrays: Path, tmp_path: Path, case: str, command: str
) -> None:
    break_it, message = BAD_STUDIES[case]
    plain = tiny.plain_study(arrays)
    plain["search"]["space"] = dict(plain["search"]["space"])
    break_it(plain)
    (tmp_path / "study.toml").write_text(tomlkit.dumps(plain))
    before = snapshot(tmp_path)
    found = error_of(igkd(command, "study.toml", "--storage", f"sqlite:///{tmp_path}/new.db"))
    assert message in found
    assert len(found.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_a_budget_above_the_points_of_a_grid_is_refused_before_anything_is_built(
    igkd: Igkd, arrays: Path, tmp_path: Path
) -> None:
    search = {"sampler": "grid", "trials": 2, "space": {"batch_size": {"choices": [10, 12]}}}
    file = tiny.write_study(tmp_path / "grid.toml", arrays, search=search)
    before = snapshot(tmp_path)
    message = error_of(igkd("run", file, "--trials", 3))
    assert message.startswith("study 'tiny': the grid has 2 points, trials = 3: ")
    assert snapshot(tmp_path) == before


def test_all_faults_of_a_study_are_told_at_once(igkd: Igkd, arrays: Path, tmp_path: Path) -> None:
    tiny.write_study(tmp_path / "s.toml", arrays, trial={"epoch": 1}, search={"sampler": "tp"})
    first, *faults = error_of(igkd("run", "s.toml")).splitlines()
    assert first == "s.toml: 2 faults"
    places = [fault.split(": ")[:2] for fault in faults]
    assert [place for _, place in places] == ["trial.epoch", "search.sampler"]
    assert all(line.startswith("  line ") for line, _ in places)


def spoil(name: str, by: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / f"{name}.npy"
        np.save(path, by(np.load(path)))

    return apply


def with_label(label: int) -> Callable[[Any], Any]:
    return lambda labels: np.where(np.arange(len(labels)) == 4, label, labels)


BAD_ARRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no training images": (
        lambda folder: (folder / "train_images.npy").unlink(),
        "train_images.npy: no such file",
    ),
    "no test labels": (
        lambda folder: (folder / "test_labels.npy").unlink(),
        "test_labels.npy: no such file",
    ),
    "not an array": (
        lambda folder: (folder / "train_images.npy").write_bytes(b"pixels"),
        "train_images.npy: not a readable .npy array",
    ),
    "channels last": (
        spoil("train_images", lambda images: np.moveaxis(images, 1, 3)),
        "found uint8 (75, 8, 8, 3); allowed is uint8 (N, 3, H, W)",
    ),
    "floats": (spoil("train_images", lambda images: images / 255), "found float64 (75, 3, 8, 8)"),
    "too few labels": (
        spoil("train_labels", lambda labels: labels[:-1]),
        "found int64 (74,); allowed is one integer for each of the 75 images",
    ),
    "a negative label": (spoil("train_labels", with_label(-1)), "found [-1]; allowed are 0 to 2"),
    "a label beyond the classes": (
        spoil("train_labels", with_label(3)),
        "found [3]; allowed are 0 to 2",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_faulty_arrays_are_one_error_and_write_nothing(
    igkd: Igkd, arrays: Path, tmp_path: Path, case: str
) -> None:
    break_it, message = BAD_ARRAYS[case]
    mine = Path(shutil.copytree(arrays, tmp_path / "arrays"))
    break_it(mine)
    tiny.write_study(tmp_path / "study.toml", mine, data={"classes": tiny.CLASSES})
    before = snapshot(tmp_path)
    found = error_of(igkd("run", "study.toml", "--home", "home"))
    assert message in found
    assert len(found.splitlines()) == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("home", ["file", "file/below"])
@pytest.mark.parametrize("command", ["run", "prepare"])
def test_a_home_that_is_no_folder_is_one_error(
    igkd: Igkd, arrays: Path, tmp_path: Path, command: str, home: str
) -> None:
    tiny.write_study(tmp_path / "study.toml", arrays)
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    found = error_of(igkd(command, "study.toml", "--home", home))
    assert found.startswith(f"{home}: cannot be used as home") and "--home or IGKD_HOME" in found
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", ["run", "prepare"])
def test_a_changed_question_is_refused_with_the_difference(
    igkd: Igkd, arrays: Path, searched: Path, tmp_path: Path, command: str
) -> None:
    home = shutil.copytree(searched, tmp_path / "home")
    tiny.write_study(tmp_path / "study.toml", arrays, trial={"epochs": 3}, search={"trials": 50})
    before = snapshot(tmp_path)
    found = error_of(igkd(command, "study.toml", "--home", home))
    assert "another question" in found and "trial.epochs: 2 -> 3" in found
    assert "trials" not in found.replace("another", ""), "a larger budget is no difference"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", ["status", "trials", "best"])
def test_nothing_is_made_by_asking(igkd: Igkd, tmp_path: Path, command: str) -> None:
    assert "start a search first" in error_of(igkd(command, "digits", "--home", "home"))
    assert "no such study; give the path" in error_of(igkd("run", "digit", "--home", "home"))
    assert snapshot(tmp_path) == {}


def test_an_unknown_study_is_named(igkd: Igkd, searched: Path) -> None:
    for command in ("status", "trials", "best"):
        assert "no study 'digits' at" in error_of(igkd(command, "digits", "--home", searched))
    found = error_of(igkd("run", "digit", "--home", searched))
    assert ", ".join(registry.shipped_studies()) in found
    assert "in the storage (tiny)" in found


def test_debug_shows_where_an_error_comes_from(igkd: Igkd) -> None:
    result = igkd("--debug", "run", "gone.toml")
    assert isinstance(result.exception, StudyError)


def test_the_password_of_a_storage_is_not_shown(igkd: Igkd) -> None:
    url = "mysql://me:secret@host/db"
    found = error_of(igkd("best", "digits", "--storage", url))
    assert "mysql://me:***@host/db" in found and "secret" not in found


def test_json_is_all_there_is_on_standard_output(igkd: Igkd, searched: Path) -> None:
    best = json.loads(igkd("best", "tiny", "-f", "json", "--home", searched).stdout)
    status = json.loads(igkd("status", "tiny", "-f", "json", "--home", searched).stdout)
    trials = json.loads(igkd("trials", "tiny", "--format", "json", "--home", searched).stdout)
    counted = {"trials": 2, "done": 2, "running": 0, "open": 0, "queued": 0}
    assert status["budget"] == counted and status["ended"]
    assert status["best"]["trial"] == best["best"]["number"]
    assert best["best"] == trials[best["best"]["number"]]
    assert best["best"]["accuracy"] == max(trial["accuracy"] for trial in trials)
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    theirs = optuna.load_study(study_name="tiny", storage=f"sqlite:///{searched / 'igkd.db'}")
    assert best["best"]["parameters"] == theirs.best_trial.params


def test_json_names_the_hosts_of_a_trial_that_took_several_attempts(
    igkd: Igkd, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = ("trials", "tiny", "-f", "json", "--home", searched)
    assert not any("hosts" in trial for trial in json.loads(igkd(*listed).stdout))
    monkeypatch.setattr(progress, "hosts", lambda *_: {1: ["a", "b"]})
    assert [trial.get("hosts") for trial in json.loads(igkd(*listed).stdout)] == [None, ["a", "b"]]


def test_json_says_how_each_class_is_answered(igkd: Igkd, searched: Path) -> None:
    best = json.loads(igkd("best", "tiny", "-f", "json", "--home", searched).stdout)
    trials = json.loads(igkd("trials", "tiny", "-f", "json", "--home", searched).stdout)
    student, confusion = best["student"], best["student"]["confusion"]
    right = [row[label] for label, row in enumerate(confusion)]
    assert sum(map(sum, confusion)) == tiny.VALIDATION
    assert sum(right) / tiny.VALIDATION == student["accuracy"]
    shares = [count / sum(row) for count, row in zip(right, confusion, strict=True)]
    assert student["class_accuracy"] == dict(zip("012", shares, strict=True))
    of_trials = [trial["attributes"] for trial in trials]
    assert all(0 <= found["calibration_error"] <= 1 for found in of_trials)
    winner = of_trials[best["best"]["number"]]
    assert student["calibration_error"] == winner["calibration_error"]
    assert student["raw_accuracy"] == winner["raw_accuracy"]
    assert not any("confusion" in found for found in of_trials), "matrices may be large"


def test_tables_show_the_same(igkd: Igkd, searched: Path) -> None:
    best = json.loads(igkd("best", "tiny", "-f", "json", "--home", searched).stdout)["best"]
    table = igkd("best", "tiny", "--home", searched).stdout
    for wanted in (
        "teacher",
        "student",
        "latency, ONNX Runtime",
        "parameters",
        "calibration error",
        "weakest class, ",
        *best["parameters"],
    ):
        assert wanted in table
    assert f"{best['accuracy']:.1%}" in table
    assert "2 complete, 0 pruned, 0 failed, of 2" in table
    assert "2 of 2 trials done" in igkd("status", "tiny", "--home", searched).stdout
    assert igkd("trials", "tiny", "--home", searched).stdout.count("complete") == 2


def test_a_failed_trial_is_listed_with_cause_reason_and_traceback(
    igkd: Igkd, arrays: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("[what now]")

    home = shutil.copytree(searched, tmp_path / "home")
    study = tiny.write_study(tmp_path / "study.toml", arrays)
    with monkeypatch.context() as patched:
        patched.setattr(training, "train", broken)
        assert igkd("run", study, "--trials", 3, "--home", home).exit_code == 0
    table = igkd("trials", "tiny", "--home", home).stdout
    assert table.endswith("causes of failure\n  trial 2  bug: ValueError('[what now]')\n")
    found = json.loads(igkd("trials", "tiny", "-f", "json", "--home", home).stdout)[2]
    assert (found["state"], found["cause"], found["reason"]) == (
        "failed",
        "bug",
        "ValueError('[what now]')",
    )
    assert "in broken" in found["attributes"]["traceback"]


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
@pytest.mark.parametrize(
    "command",
    [
        "run study.toml",
        "prepare study.toml",
        "overlays study.toml -o a.png",
        "train best.toml -o f",
    ],
)
def test_a_device_that_is_none_is_one_error_and_writes_nothing(
    igkd: Igkd,
    arrays: Path,
    study: spec.Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    device: str,
) -> None:
    tiny.write_study(tmp_path / "study.toml", arrays)
    best = tiny.exported(study).model_dump(mode="json", exclude_none=True)
    (tmp_path / "best.toml").write_text(tomlkit.dumps(best))
    before = snapshot(tmp_path)
    typed = error_of(igkd(*command.split(), "--device", device))
    assert typed.startswith(f"--device = {device}: ")
    monkeypatch.setenv("IGKD_DEVICE", device)
    from_environment = error_of(igkd(*command.split()))
    assert from_environment.startswith(f"IGKD_DEVICE = {device}: ")
    for found in (typed, from_environment):
        assert found.endswith("; allowed: cuda, cuda:N, mps, cpu\n")
        assert len(found.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_the_device_that_is_typed_counts_before_the_environment(
    igkd: Igkd, arrays: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IGKD_DEVICE", "abacus")
    study = tiny.write_study(tmp_path / "study.toml", arrays)
    home = shutil.copytree(searched, tmp_path / "home")
    for command in (
        ["prepare", study],
        ["run", study, "--trials", 3],
        ["overlays", study, "-o", "overlays.png"],
        ["export", "tiny", "-o", "best.toml"],
        ["train", "best.toml", "-o", "final"],
    ):
        device = [] if command[0] == "export" else ["--device", "cpu"]
        result = igkd(*command, *device, "--home", home)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("only", [[], ["--only", "teacher"]])
def test_a_preparation_says_what_it_has_made(
    igkd: Igkd, arrays: Path, home: Path, tmp_path: Path, only: list[str]
) -> None:
    study = tiny.write_study(tmp_path / "study.toml", arrays)
    kinds = ["teacher", "overlays", "targets", "latency", "onnx"]
    mine = tiny.copy_entries(home, tmp_path / "home", *kinds)
    shown = igkd("prepare", study, *only, "--home", mine)
    assert shown.exit_code == 0 and shown.stdout == "" and "the teacher reaches" in shown.stderr
    found = json.loads(igkd("prepare", study, *only, "--home", mine, "-f", "json").stdout)
    assert found["study"] == "tiny" and found["teacher_accuracy"] > 0.5
    assert ("map_fidelity" in found) == (not only)


def test_environment_and_options_name_the_storage(
    igkd: Igkd, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{searched / 'igkd.db'}")
    assert igkd("status", "tiny").exit_code == 0
    monkeypatch.setenv("IGKD_STORAGE", "sqlite:///nowhere.db")
    assert "no database at nowhere.db" in error_of(igkd("status", "tiny"))
    storage = f"sqlite:///{searched / 'igkd.db'}"
    assert igkd("status", "tiny", "--storage", storage).exit_code == 0
    monkeypatch.delenv("IGKD_STORAGE")
    monkeypatch.delenv("OPTUNA_STORAGE")
    monkeypatch.setenv("IGKD_HOME", str(searched))
    assert igkd("status", "tiny").exit_code == 0


def test_a_finished_study_is_shown_again_and_nothing_is_searched(
    igkd: Igkd, arrays: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(launch, "search")
    before = snapshot(searched)
    path = tiny.write_study(tmp_path / "study.toml", arrays)
    best = igkd("best", "tiny", "-f", "json", "--home", searched)
    for study in ("tiny", path):
        again = igkd("run", study, "-f", "json", "--home", searched)
        assert (again.exit_code, again.stdout) == (0, best.stdout)
    assert snapshot(searched) == before


def test_a_finished_study_is_shown_without_torch(searched: Path) -> None:
    code = (
        "import sys; from igkd_search.cli import app; "
        f"app(['run', 'tiny', '--home', {str(searched)!r}], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    found = python("-c", code)
    assert found.returncode == 0, found.stderr
    assert "best configuration" in found.stdout


def test_an_export_is_written_and_can_be_read(igkd: Igkd, searched: Path, tmp_path: Path) -> None:
    result = igkd("export", "tiny", "-o", "out/best.toml", "--home", searched)
    assert result.exit_code == 0, result.output
    assert "igkd train out/best.toml -o final/" in result.stdout
    best = json.loads(igkd("best", "tiny", "-f", "json", "--home", searched).stdout)["best"]
    assert study_file.read_exported(tmp_path / "out/best.toml").provenance.trial == best["number"]
    igkd("export", "tiny", "-o", "other.toml", "--trial", 1, "--home", searched)
    assert study_file.read_exported(tmp_path / "other.toml").provenance.trial == 1


def poisoned_arrays(folder: Path) -> dict[str, Any]:
    """[data] of arrays whose test part is there, and nothing that could be read."""
    tiny.write_arrays(folder)
    for name in ("test_images", "test_labels"):
        (folder / f"{name}.npy").write_bytes(b"\x00poison")
    return {}


def poisoned_folder(folder: Path) -> dict[str, Any]:
    """[data] of image files, those of the test part as bad."""
    pixels, labels = tiny.images(tiny.TRAIN, 1)
    for part, count in (("train", tiny.TRAIN), ("test", tiny.TEST)):
        for row in range(count):
            path = folder / part / f"class{labels[row]}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row].transpose(1, 2, 0)).save(path)
            if part == "test":
                path.write_bytes(b"\x00poison")
    return {"source": "folder", "image_size": tiny.SIZE}


@pytest.mark.parametrize("poison", [poisoned_arrays, poisoned_folder])
def test_a_search_never_opens_the_test_part(
    igkd: Igkd,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    poison: Callable[[Path], dict[str, Any]],
) -> None:
    data = poison(tmp_path / "images")
    search = {"search": {"trials": 2}, "trial": {"epochs": 1}}
    path = tiny.write_study(tmp_path / "study.toml", tmp_path / "images", data=data, **search)
    asked = spec.Data.model_validate(study_file.read_study(path).data.model_dump())
    with pytest.raises(DataError):
        datasets.load_test(asked, tmp_path / "elsewhere", tiny.CLASSES)
    monkeypatch.delattr(datasets, "load_test")
    # files of the same networks; teacher, maps and targets are made of these images
    mine = tiny.copy_entries(home, tmp_path / "home", "latency", "onnx")

    def well(*words: object) -> str:
        found = igkd(*words, "--home", mine)
        assert found.exit_code == 0, found.output
        return found.stdout

    well("validate", path)
    well("prepare", path)
    assert json.loads(well("run", path, "-f", "json"))["trials"]["complete"] == 2
    for command in ("status", "trials", "best"):
        well(command, "tiny")
    well("report", "tiny", "-o", "report")
    well("export", "tiny", "-o", "best.toml")


def test_a_trial_that_cannot_be_exported_writes_nothing(
    igkd: Igkd, searched: Path, tmp_path: Path
) -> None:
    found = error_of(igkd("export", "tiny", "-o", "x.toml", "--trial", 99, "--home", searched))
    assert found == "study 'tiny': trial 99 is absent; complete are: 0, 1\n"
    assert snapshot(tmp_path) == {}


def test_a_file_that_was_not_exported_is_refused_by_train(
    igkd: Igkd, arrays: Path, tmp_path: Path
) -> None:
    tiny.write_study(tmp_path / "study.toml", arrays)
    before = snapshot(tmp_path)
    found = error_of(igkd("train", "study.toml", "-o", "final"))
    assert "provenance: missing" in found
    assert snapshot(tmp_path) == before


def test_materials_are_listed_with_the_study_that_uses_them(igkd: Igkd, searched: Path) -> None:
    before = snapshot(searched)
    found = json.loads(igkd("materials", "-f", "json", "--home", searched).stdout)
    kinds = {entry["kind"] for entry in found["entries"]}
    assert kinds == {"teacher", "overlays", "targets", "latency", "onnx"}
    table = igkd("materials", "--home", searched).stdout
    for entry in found["entries"]:
        assert entry["digest"] in table
        assert entry["used_by"] == ["tiny"]
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"]) > 0
    assert "removed" not in found and found["unaccounted"] == []
    assert snapshot(searched) == before


def test_prune_removes_what_no_study_names_and_the_search_goes_on(
    igkd: Igkd, arrays: Path, searched: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(searched, tmp_path / "home"))
    shutil.copytree(
        next(home.glob("vault/teacher/*/")), home / "vault" / "teacher" / "0123456789abcdef"
    )
    found = json.loads(igkd("materials", "--prune", "-f", "json", "--home", home).stdout)
    assert {"teacher/0123456789abcdef"} <= {
        f"{entry['kind']}/{entry['digest']}" for entry in found["removed"]
    }
    assert {entry["kind"] for entry in found["removed"]} == {"teacher"}
    assert {entry["kind"] for entry in found["entries"]} == {
        "teacher",
        "overlays",
        "targets",
        "latency",
        "onnx",
    }
    assert "nothing to remove" in igkd("materials", "--prune", "--home", home).stdout
    study = tiny.write_study(tmp_path / "study.toml", arrays)
    result = igkd("run", study, "--trials", 3, "--home", home, "-f", "json")
    assert json.loads(result.stdout)["trials"]["complete"] == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overlays": {"steps": 3}}, "study 'tiny' asks another question than when it began"),
        ({"teacher": {"epochs": 99}}, "study 'tiny' asks another question than when it began"),
        (
            {"teacher": {"architecture": "alexnet", "width": 1.0}, "name": "alex"},
            "alexnet cannot take images of 8x8 pixels",
        ),
    ],
)
def test_overlays_refuse_before_a_teacher_is_trained(
    igkd: Igkd,
    arrays: Path,
    searched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    said: str,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("igkd_search.fitting.fit", refuse)
    home = Path(shutil.copytree(searched, tmp_path / "home"))
    study = tiny.write_study(tmp_path / "study.toml", arrays, **changes)
    found = error_of(igkd("overlays", study, "-o", tmp_path / "a.png", "--home", home))
    assert said in found and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("options", [[], ["--prune"]])
def test_a_home_without_materials_is_said_and_left_alone(
    igkd: Igkd, tmp_path: Path, options: list[str]
) -> None:
    assert "no materials in home/vault" in igkd("materials", *options, "--home", "home").stdout
    found = json.loads(igkd("materials", *options, "-f", "json", "--home", "home").stdout)
    assert (found["entries"], found["bytes"]) == ([], 0)
    assert snapshot(tmp_path) == {}


def test_prune_without_a_database_removes_nothing(
    igkd: Igkd, searched: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(searched / "vault", home / "vault")
    before = snapshot(home)
    assert "name the database with --storage" in error_of(
        igkd("materials", "--prune", "--home", home)
    )
    assert snapshot(home) == before


def test_a_gallery_is_drawn_of_what_was_prepared(
    igkd: Igkd, arrays: Path, searched: Path, tmp_path: Path
) -> None:
    study = tiny.write_study(tmp_path / "study.toml", arrays)
    result = igkd("overlays", study, "-o", "out/overlays.png", "--home", searched)
    assert result.exit_code == 0, result.output
    assert "wrote out/overlays.png" in result.stdout
    assert (tmp_path / "out" / "overlays.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "overlays.gif"], "end the name in .pdf, .png, .svg"),
        (["-o", "overlays"], "end the name in .pdf, .png, .svg"),
        (["-o", "a.png", "--classes", "0,cat"], "unknown are cat; allowed are 1 to 10 of 0, 1, 2"),
        (["-o", "a.png", "--classes", ","], "0 given; allowed are 1 to 10"),
    ],
    ids=" ".join,
)
def test_a_gallery_that_cannot_be_drawn_is_one_error_and_writes_nothing(
    igkd: Igkd, arrays: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    tiny.write_study(tmp_path / "study.toml", arrays)
    before = snapshot(tmp_path)
    assert message in error_of(igkd("overlays", "study.toml", *options, "--home", "home"))
    assert snapshot(tmp_path) == before


def test_an_interruption_exits_with_130(
    igkd: Igkd, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # Ctrl-C raises the same without a handler of ours

    monkeypatch.setattr(launch, "search", interrupted)
    result = igkd("run", tiny.write_study(tmp_path / "study.toml", arrays))
    assert (result.exit_code, result.stdout) == (130, "")
    assert "error: interrupted; nothing is lost, the same command goes on" in result.stderr


def test_ctrl_c_while_the_teacher_learns_and_the_same_command_goes_on(
    igkd: Igkd, arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    mine = tiny.copy_entries(home, tmp_path / "home", "latency", "onnx")
    sections = {"teacher": {"epochs": 15}, "search": {"trials": 2}}
    study = tiny.write_study(tmp_path / "study.toml", arrays, **sections)
    command = ["run", str(study), "--home", str(mine), "-f", "json"]
    with forked(AS_MODULE, *command) as process:
        assert any(" teacher: " in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1].startswith("error: interrupted; nothing is lost")

    found = igkd(*command)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["trials"]["complete"] == 2
    rows = results.rows(optuna.load_study(study_name="tiny", storage=f"sqlite:///{mine}/igkd.db"))
    assert [(row.slot, row.state) for row in rows] == [(0, "complete"), (1, "complete")]


def test_a_database_lost_in_mid_search_is_one_error(
    igkd: Igkd, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> None:
        cause = OSError("server closed the connection\nunexpectedly")
        raise optuna.exceptions.StorageInternalError("an exception is raised") from cause

    monkeypatch.setattr(progress.Reader, "read", lose)
    message = error_of(igkd("status", "tiny", "--home", searched))
    assert message.startswith("the database was lost: server closed the connection; ")
