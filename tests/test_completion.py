"""What Tab offers: names of studies, files and words; nothing, and no word, when anything fails."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from igkd_search import cli, completion, database, registry, spec, study_file
from tests.databases import KINDS, Kind, prepared_url

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IGKD_STORAGE", "IGKD_STORAGE_FILE", "OPTUNA_STORAGE", "IGKD_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def context(**params: Any) -> typer.Context:
    found = typer.Context(typer.main.get_command(cli.app))
    found.params.update(params)
    return found


def fill(url: str, *names: str) -> None:
    base = database.connect(url)
    space = {"kd_weight": {"low": 0.0, "high": 1.0}}
    for name in names:
        registry.register(
            base, study_file.check(spec.Study, {"name": name, "search": {"space": space}}, "test")
        )
    base.close()


def test_the_words_are_those_of_the_specification() -> None:
    assert get_args(spec.Source) == completion.SOURCES
    assert get_args(spec.Sampler) == completion.SAMPLERS
    assert get_args(spec.Pruner) == completion.PRUNERS
    assert completion.sources("ci") == ["cifar10", "cifar100"]
    assert completion.samplers("t") == ["tpe"] and completion.pruners("a") == ["asha"]
    assert "resnet18" in completion.networks("resnet")
    assert {"cpu", "cuda", "mps"} <= set(completion.devices(""))


@pytest.mark.parametrize("kind", KINDS)
def test_studies_of_the_storage_are_offered(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = prepared_url(kind, tmp_path)
    fill(url, "mine", "yours")
    assert completion.stored(context(storage=url)) == ["mine", "yours"]
    assert completion.stored_studies(context(storage=url), "m") == ["mine"]
    monkeypatch.setenv("IGKD_STORAGE", url)
    assert completion.studies(context(), "") == ["mine", "yours", *registry.shipped_studies()]
    file = tmp_path / "storage.url"
    file.write_text(f"# the cluster's\n{url}\n")
    monkeypatch.setenv("IGKD_STORAGE", str(file))
    assert completion.stored(context()) == ["mine", "yours"]


def test_the_storage_of_the_home_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    fill(f"sqlite:///{tmp_path}/home/igkd.db", "mine")
    assert completion.stored(context(home=Path("home"))) == ["mine"]
    assert completion.stored(context()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"], "nothing is made"


@pytest.mark.parametrize(
    "storage", ["sqlite:///none.db", "postgresql://a@127.0.0.1:1/x", "oracle://x", "none", "bad.db"]
)
def test_a_storage_that_cannot_be_read_offers_nothing(storage: str, tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"\xff\xfe")
    assert completion.stored(context(storage=storage)) == []


def test_study_files_and_the_way_to_them_are_offered(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("mine.toml", "notes.txt", "below/other.toml", ".hidden.toml"):
        (tmp_path / name).write_text("")
    assert completion.study_files("") == ["mine.toml"]
    assert completion.study_files("b") == ["below/"]
    assert completion.study_files("below/") == ["below/other.toml"]
    assert completion.study_files("none/") == []
    assert completion.study_files(f"{tmp_path}/mi") == [f"{tmp_path}/mine.toml"]


def completed(words: str) -> list[str]:
    """What bash is told, by the protocol that its script speaks."""
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    environment["_IGKD_COMPLETE"] = "complete_bash"
    found = CliRunner().invoke(cli.app, [], prog_name="igkd", env=environment)
    assert found.stderr == ""
    return found.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("igkd vali", ["validate"]),
        ("igkd run dig", ["digits", "digits_ablation"]),
        ("igkd run digits --launcher ", ["local", "ray", "slurm"]),
        ("igkd best digits -f ", ["table", "json"]),
        ("igkd run digits --device c", ["cpu", "cuda"]),
        ("igkd init mine --source d", ["digits"]),
        ("igkd init mine --pruner h", ["hyperband"]),
        ("igkd run digits --qu", ["--quiet"]),
        ("igkd --storage postgresql://a:secret@b/c run dig", []),
    ],
)
def test_the_shell_is_answered(
    words: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter(())) if "--device" in words else None
    assert completed(words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    found = CliRunner().invoke(cli.app, ["--show-completion"], prog_name="igkd")
    assert found.exit_code == 0 and "_IGKD_COMPLETE" in found.stdout
    assert f"complete_{shell}" in found.stdout


def test_nothing_heavy_is_imported_while_somebody_waits_at_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    fill(f"sqlite:///{tmp_path}/storage/igkd.db", "mine")
    code = (
        "import sys; from igkd_search.cli import app\n"
        "try: app(prog_name='igkd')\n"
        "except SystemExit: pass\n"
        "print({'torch', 'optuna', 'sqlalchemy', 'numpy', 'rich'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_IGKD_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": "igkd run m", "COMP_CWORD": "2"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert (found.stdout, found.stderr) == ("mine\nset()\n", "")
