"""`igkd init`, `igkd validate` and `igkd studies` as typed."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner, Result

from igkd_search import cli, console, database, file_commands, registry
from tests.databases import prepared_url

Igkd = Callable[..., Result]


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Igkd]:
    """Type commands in this process, in a folder of their own."""
    on_sigterm, verbosity = signal.getsignal(signal.SIGTERM), optuna.logging.get_verbosity()
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.chdir(tmp_path)
    yield lambda *typed, **options: CliRunner().invoke(
        cli.app, [str(each) for each in typed], **options
    )
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)
    os.environ.pop("IGKD_DEBUG", None)
    assert logging.getLogger("igkd_search").handlers is not None


def test_what_init_writes_is_well_and_it_says_what_to_type(igkd: Igkd, tmp_path: Path) -> None:
    found = igkd("init", "mine", "--source", "digits")
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines() == [
        "wrote mine.toml",
        "  check it  igkd validate mine.toml",
        "  run it    igkd run mine.toml",
    ]
    checked = igkd("validate", "mine.toml", "--no-data", "--quiet")
    assert checked.exit_code == 0 and checked.stderr == ""
    assert checked.stdout.startswith("mine.toml: well; study 'mine' asks 20 trials of 8 epochs")


def test_init_never_overwrites_unless_forced(igkd: Igkd, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    found = igkd("init", "mine", "--source", "digits")
    assert found.exit_code == 1 and "mine.toml: is there already; type --force" in found.stderr
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert igkd("init", "mine", "--source", "digits", "-o", "other.toml").exit_code == 0
    assert igkd("init", "mine", "--source", "digits", "--force").exit_code == 0
    assert (tmp_path / "mine.toml").read_text() == (tmp_path / "other.toml").read_text()


@pytest.mark.parametrize("output", ["nowhere/x.toml", "folder"])
def test_init_needs_a_folder_that_is_there(igkd: Igkd, tmp_path: Path, output: str) -> None:
    (tmp_path / "folder").mkdir()
    found = igkd("init", "mine", "--source", "digits", "-o", output, "--force")
    assert found.exit_code == 1 and f"-o {output}: " in found.stderr
    assert "name a file in a folder that is there" in found.stderr
    assert list((tmp_path / "folder").iterdir()) == []


def test_init_asks_nobody_who_is_not_there(igkd: Igkd, tmp_path: Path) -> None:
    found = igkd("init", "mine")
    assert found.exit_code == 2 and "type --source" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_asks_again_until_it_understands(
    igkd: Igkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_commands, "is_interactive", lambda: True)
    found = igkd("init", "mine", input="digit\ndigits\n\n\n0\n7\n\n")
    assert found.exit_code == 0, found.output
    assert "did you mean 'digits'" in found.stderr and "must be a whole number" in found.stderr
    written = (tmp_path / "mine.toml").read_text()
    assert "trials = 7" in written and "epochs = 8" in written


@pytest.mark.parametrize("name", ["../mine", "a b"])
def test_a_wrong_name_writes_nothing(igkd: Igkd, tmp_path: Path, name: str) -> None:
    found = igkd("init", name, "--source", "digits")
    assert found.exit_code == 1 and "NAME: name = " in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_faults_are_printed_as_editors_read_them(igkd: Igkd, tmp_path: Path) -> None:
    igkd("init", "mine", "--source", "digits")
    file = tmp_path / "mine.toml"
    text = file.read_text().replace('sampler = "tpe"', 'sampler = "tp"')
    file.write_text(text)
    line = text.splitlines().index('sampler = "tp"') + 1
    found = igkd("validate", "mine.toml", "--quiet")
    assert found.exit_code == 1 and found.stderr == ""
    assert found.stdout.startswith(f"mine.toml:{line}: search.sampler: unknown value 'tp'")
    found = igkd("validate", "mine.toml", "--quiet", "-f", "json")
    ((one),) = json.loads(found.stdout)
    assert (one["line"], one["place"]) == (line, "search.sampler") and found.exit_code == 1
    assert igkd("validate", "none.toml").exit_code == 1


def test_an_empty_storage_holds_no_studies(igkd: Igkd, tmp_path: Path) -> None:
    found = igkd("studies")
    assert found.exit_code == 0 and found.stdout.startswith("no study in sqlite:///storage/igkd.db")
    assert json.loads(igkd("studies", "-f", "json").stdout) == []
    assert list(tmp_path.iterdir()) == []


def test_studies_of_a_storage_are_listed(igkd: Igkd, tmp_path: Path) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    registry.register(base, registry.find("digits"))
    ((one),) = json.loads(igkd("studies", "--storage", base.url, "-f", "json").stdout)
    assert (one["study"], one["state"], one["done"], one["trials"]) == ("digits", "idle", 0, 20)
    assert "digits  idle     0/20" in igkd("studies", "--storage", base.url).stdout
    base.close()
