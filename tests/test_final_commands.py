"""`igkd export` and `igkd train` as they are typed: what is refused, printed, and started."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from igkd_search import cli, spec, study_file

Type = Callable[..., Result]


@pytest.fixture
def mine(searched: Path, tmp_path: Path) -> Path:
    """A copy of the home of the finished tiny study."""
    return Path(shutil.copytree(searched, tmp_path / "home"))


@pytest.fixture
def type_(mine: Path) -> Type:
    """Type a command on that home."""

    def typed(*words: str) -> Result:
        return CliRunner().invoke(cli.app, [*words, "--home", str(mine)])

    return typed


@pytest.fixture
def best(type_: Type, tmp_path: Path) -> Path:
    """The exported winner."""
    path = tmp_path / "best.toml"
    assert type_("export", "tiny", "-o", str(path)).exit_code == 0
    return path


def test_what_was_exported_is_told(type_: Type, tmp_path: Path) -> None:
    found = type_("export", "tiny", "-o", str(tmp_path / "best.toml"))
    assert "best.teacher.safetensors" in found.stdout
    assert f"igkd train {tmp_path / 'best.toml'} -o final/" in found.stdout
    assert "the best of 2; --top 5 --seeds 3 tries the best again" in found.stdout


def test_json_is_printed_and_written_where_it_is_asked_for(type_: Type, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    found = type_("export", "tiny", "-o", str(path), "-f", "json")
    assert json.loads(found.stdout) == json.loads(path.read_text())
    assert study_file.read_exported(path).provenance.study == "tiny"


def test_leading_trials_are_tried_again_and_compared(type_: Type, tmp_path: Path) -> None:
    path = tmp_path / "best.toml"
    found = type_("export", "tiny", "-o", str(path), "--top", "2", "--seeds", "1")
    assert found.exit_code == 0, found.output
    assert "again, by fresh seeds" in found.stdout
    validation = study_file.read_exported(path).validation
    assert validation is not None and len(validation.reruns) == 2
    assert "--top" not in found.stdout


def test_the_winner_may_be_trained_longer_than_it_was_searched(
    type_: Type, study: spec.Study, tmp_path: Path
) -> None:
    path, longer = tmp_path / "best.toml", study.trial.epochs + 1
    words = ["export", "tiny", "-o", str(path), "--epochs", str(longer)]
    found = type_(*words)
    assert f"{longer}; the search trained {study.trial.epochs}" in found.stdout
    written = study_file.read_exported(path)
    assert written.trial.epochs == longer and not written.is_edited
    assert f"# searched over {study.trial.epochs} epochs, to be trained over {longer}" in (
        path.read_text()
    )
    assert type_(*words, "--top", "2", "--seeds", "1").exit_code == 0
    records = [json.loads(each.read_text()) for each in tmp_path.rglob("trial-*/*/run.json")]
    assert [len(each["records"]) for each in records] == [longer, longer]


def test_a_trial_and_the_top_exclude_each_other(type_: Type, tmp_path: Path) -> None:
    found = type_("export", "tiny", "-o", str(tmp_path / "b.toml"), "--top", "2", "--trial", "0")
    assert found.exit_code == 1 and "--trial and --top: one of them" in found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "kdd"], "'kdd' is no arm; did you mean 'kd'?"),
        (["--gpus", "0", "--workers", "2"], "--workers and --gpus: one of them"),
        (["--workers-per-gpu", "2"], "--workers-per-gpu: of which GPUs?"),
    ],
)
def test_wrong_wishes_are_one_line_and_leave_nothing(
    type_: Type, best: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    found = type_("train", str(best), "-o", str(tmp_path / "final"), *words)
    assert found.exit_code == 1 and said in found.stderr
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize("words", [["--seeds", "2"], ["--workers", "2"], ["--train-only"]])
def test_what_only_several_trainings_need_is_refused_without_them(
    type_: Type, tmp_path: Path, words: list[str]
) -> None:
    found = type_("export", "tiny", "-o", str(tmp_path / "best.toml"), *words)
    assert found.exit_code == 1 and f"{words[0]}: only with --top" in found.stderr
    assert not (tmp_path / "best.toml").exists()


def test_an_arm_that_the_file_lacks_starts_no_process(
    type_: Type, best: Path, tmp_path: Path
) -> None:
    text = best.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("kd_weight ="))
    best.write_text(text.replace(line, "kd_weight = 0.0"))
    found = type_("train", str(best), "-o", str(tmp_path / "f"), "--arms", "kd", "--workers", "2")
    assert found.exit_code == 1 and "trial.kd_weight = 0 in the file" in found.stderr
    assert not (tmp_path / "f").exists()


def test_a_teacher_that_is_missing_is_told_with_what_to_type(
    type_: Type, best: Path, tmp_path: Path
) -> None:
    best.with_name("best.teacher.safetensors").unlink()
    found = type_("train", str(best), "-o", str(tmp_path / "final"))
    assert found.exit_code == 1 and "--retrain-teacher" in found.stderr
    assert not (tmp_path / "final").exists()
    exported = study_file.read_to_train(best, retrain_teacher=True)
    assert (exported.teacher.checkpoint, exported.teacher.checkpoint_sha256) == (None, None)


def test_another_teacher_than_the_exported_one_is_refused(
    type_: Type, best: Path, tmp_path: Path
) -> None:
    beside = best.with_name("best.teacher.safetensors")
    beside.write_bytes(beside.read_bytes()[:-1] + b"x")
    found = type_("train", str(best), "-o", str(tmp_path / "final"))
    assert found.exit_code == 1 and "another teacher than the one that was stated" in found.stderr


def test_a_file_that_was_edited_wrongly_is_told_like_a_study_file(
    type_: Type, best: Path, tmp_path: Path
) -> None:
    best.write_text(best.read_text().replace("kd_weight =", "kd_wait ="))
    found = type_("train", str(best), "-o", str(tmp_path / "final"))
    assert found.exit_code == 1
    assert "trial.kd_wait: unknown key; did you mean 'kd_weight'?" in found.stderr


def test_processes_share_the_runs_and_this_one_tells_the_end(
    type_: Type, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    folder = tmp_path / "final"
    command = ["train", str(best), "-o", str(folder), "--seeds", "2", "-f", "json"]
    found = type_(*command, "--workers", "2")
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert result["student"]["accuracy"]["n"] == 2 and result["test"]["reads"] == 1
    logs = [(folder / "logs" / f"trainer-{number}.log").read_text() for number in range(2)]
    assert any("students: 0/" in log for log in logs), "they trained, this one did not"
    assert not any("test set opened" in log for log in logs)
    again = type_(*command, "--workers", "2")
    assert json.loads(again.stdout) == result and "processes train" not in again.stderr
