"""`igkd report` as typed: three whole files, or one line that says why not and nothing written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from igkd_search import cli, console
from tests import reports

Igkd = Callable[..., Result]


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Igkd]:
    """Type a command about a study in a database of its own."""
    monkeypatch.setattr(console, "_consoles", {})
    base = reports.study(tmp_path, "mixed")
    options = ["--storage", base.url, "--home", str(tmp_path / "home")]
    base.close()
    yield lambda *typed: CliRunner().invoke(cli.app, [*map(str, typed), *options])


def test_three_files_are_written_and_named(igkd: Igkd, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    result = igkd("report", "s", "-o", folder)
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.md", "report.json"}
    assert str(folder / "index.html") in result.stdout.replace("\n", "")
    printed = json.loads((folder / "report.json").read_text("utf-8"))
    again = igkd("report", "s", "-o", folder, "-f", "json")
    found = json.loads(again.stdout)
    assert {**found, "written": ""} == {**printed, "written": ""}
    best = json.loads(igkd("best", "s", "-f", "json").stdout)
    assert found["summary"] == best


def test_a_file_in_the_folders_place_is_kept(igkd: Igkd, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    for output in (tmp_path / "report", tmp_path / "report" / "below"):
        result = igkd("report", "s", "-o", output)
        assert result.exit_code == 1
        assert "--output" in result.stderr
    assert (tmp_path / "report").read_text() == "mine"


def test_an_unknown_study_leaves_no_folder(igkd: Igkd, tmp_path: Path) -> None:
    result = igkd("report", "other", "-o", tmp_path / "report")
    assert result.exit_code == 1 and "no study 'other'" in result.stderr
    assert not (tmp_path / "report").exists()


def test_a_folder_must_be_named(igkd: Igkd) -> None:
    assert igkd("report", "s").exit_code == 2
