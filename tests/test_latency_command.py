"""`igkd latency` as typed: a file or a study; two tables or JSON; a study keeps its figures."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from typer.testing import CliRunner, Result

from igkd_search import (
    cli,
    console,
    database,
    latency_command,
    latency_table,
    spec,
    timed_subject,
)
from tests import measured, tiny

Igkd = Callable[..., Result]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is to be measured; nothing is."""
    from igkd_search import timed_pair

    seen: dict[str, Any] = {}

    def measure(subject: timed_subject.Subject, home: Path, **options: Any) -> dict[str, Any]:
        seen.update(options, subject=subject)
        named = {"study": subject.study, "trial": subject.number}
        return measured.found(**named, architecture=subject.architecture.name)

    monkeypatch.setattr(timed_pair, "measure", measure)
    return seen


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, searched: Path, tmp_path: Path) -> Iterator[Igkd]:
    """Type a command beside a copy of the searched study."""
    monkeypatch.setattr(console, "_consoles", {})
    shutil.copy(searched / "igkd.db", tmp_path)
    options = ["--home", str(tmp_path)]
    yield lambda *typed: CliRunner().invoke(cli.app, ["latency", *map(str, typed), *options])


def kept(folder: Path) -> dict[str, Any] | None:
    base = database.connect(f"sqlite:///{folder / 'igkd.db'}", read_only=True)
    found = latency_table.kept(base, "tiny")
    base.close()
    return found


@pytest.mark.parametrize("by_file", [False, True])
def test_a_studys_winner_is_timed_and_kept(
    igkd: Igkd, asked: dict[str, Any], tmp_path: Path, arrays: Path, by_file: bool
) -> None:
    target = tiny.write_study(tmp_path / "tiny.toml", arrays) if by_file else "tiny"
    result = igkd(target)
    assert result.exit_code == 0, result.output
    assert "ONNX Runtime int8" in result.stdout and "1.77x" in result.stdout
    assert "peak of activations" in result.stdout and "Example CPU" in result.stdout
    assert "kept with study 'tiny'" in result.stderr
    found = kept(tmp_path)
    assert found is not None and found["architecture"] == tiny.STUDENT
    assert asked["engines"] == list(latency_command.ENGINES)
    assert (asked["batches"], asked["threads"], asked["rounds"]) == ([1, 64], None, None)
    # measured again, it is replaced
    assert igkd(target, "--batch", "2").exit_code == 0


def test_a_file_is_timed_and_nothing_kept(
    igkd: Igkd, asked: dict[str, Any], tmp_path: Path, study: spec.Study
) -> None:
    plain = tiny.exported(study).model_dump(mode="json", exclude_none=True)
    (tmp_path / "best.toml").write_text(tomlkit.dumps(plain))
    words = ["--engines", "pytorch, onnxruntime", "--batch", "8", "--threads", "1,4"]
    result = igkd(tmp_path / "best.toml", *words, "--rounds", "5", "-f", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == measured.found(
        study=None, trial=None, architecture=tiny.STUDENT
    )
    assert asked["engines"] == ["pytorch", "onnxruntime"]
    assert (asked["batches"], asked["threads"], asked["rounds"]) == ([8], [1, 4], 5)
    assert kept(tmp_path) is None


def test_other_data_may_be_named(igkd: Igkd, asked: dict[str, Any], tmp_path: Path) -> None:
    assert igkd("tiny", "--data", tmp_path).exit_code == 0
    assert asked["subject"].run.data.path == str(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engines", "pytorch,tensorflow"], "tensorflow is no engine; allowed: pytorch"),
        (["--engines", ","], "nothing is no engine"),
        (["--batch", "0"], "type whole numbers from 1"),
        (["--batch", "many"], "type whole numbers from 1"),
        (["--threads", "1,,2"], "type whole numbers from 1"),
    ],
)
def test_bad_usage_is_said_before_anything_is_loaded(
    igkd: Igkd, words: list[str], says: str
) -> None:
    result = igkd("tiny", *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("target", ["nothing", "nothing.toml"])
def test_what_is_not_there_is_one_line(igkd: Igkd, target: str) -> None:
    result = igkd(target)
    assert result.exit_code == 1
    assert "nothing" in result.stderr and "Traceback" not in result.stderr


def test_the_engines_are_those_of_the_timings() -> None:
    from igkd_search import timings

    assert latency_command.ENGINES == timings.ENGINES
