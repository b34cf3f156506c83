"""igkd doctor as typed: a table or JSON, exit code 1 over a fault, and never a traceback."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from igkd_search import cli, console
from tests import stub_torch
from tests.databases import fresh_url


@pytest.fixture(autouse=True)
def own_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A torch that answers at once, no files of the developer's; the log is put back afterwards."""
    package = logging.getLogger("igkd_search")
    kept = package.handlers[:], package.level, package.propagate
    (tmp_path / "packages").mkdir()
    stub_torch.install(tmp_path / "packages", monkeypatch)
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    package.handlers[:], package.level, package.propagate = kept


def doctor(*arguments: object, **environment: str) -> Result:
    typed = ["doctor", *map(str, arguments)]
    result = CliRunner().invoke(cli.app, typed, env=environment)
    assert result.exit_code in (0, 1), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def of_json(*arguments: object, **environment: str) -> tuple[int, dict[str, Any]]:
    result = doctor("-f", "json", *arguments, **environment)
    found = json.loads(result.stdout)
    assert all(set(one) == {"name", "state", "found", "advice"} for one in found)
    return result.exit_code, {one["name"]: one for one in found}


def test_a_good_machine_is_a_table_and_exit_code_0(tmp_path: Path) -> None:
    result = doctor()
    assert result.exit_code == 0 and result.stderr == ""
    rows = [line.split()[:2] for line in result.stdout.splitlines() if line.strip()]
    assert ["python", "ok"] in rows and ["cuda:1", "ok"] in rows and ["database", "ok"] in rows
    assert "all is well" in result.stdout
    assert not (tmp_path / "storage").exists()


def test_a_fault_is_exit_code_1_and_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = doctor("--home", "file")
    assert result.exit_code == 1
    table, advice = result.stdout.split("what to type")
    assert ["home", "FAULT"] in [line.split()[:2] for line in table.splitlines() if line.strip()]
    assert "--home FOLDER" in advice


def test_a_warning_alone_is_exit_code_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_torch.install(tmp_path / "packages", monkeypatch, free=(1, 1))
    result = doctor()
    assert result.exit_code == 0
    assert "WARNING" in result.stdout and "nvidia-smi" in result.stdout


def test_machines_read_json(tmp_path: Path) -> None:
    code, found = of_json("digits")
    assert code == 0 and {one["state"] for one in found.values()} == {"ok"}
    assert "has not begun" in found["study"]["found"]


def test_a_password_is_shown_nowhere_and_warned_of_where_it_was_typed(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://me:secret@/d?host={tmp_path}"
    code, found = of_json("--storage", url)
    assert (code, found["password"]["state"]) == (1, "warning")
    code, found = of_json(IGKD_STORAGE=url)
    assert code == 1 and "password" not in found
    assert "secret" not in json.dumps(found) and "me:***@" in found["database"]["found"]


@pytest.mark.parametrize("study", ["nothing.toml", "digitz", "digits"])
@pytest.mark.parametrize("url", ["nothing", "postgres://h/d", "sqlite:////proc/none/igkd.db"])
def test_whatever_is_typed_is_no_traceback(url: str, study: str) -> None:
    assert doctor(study, "--storage", url).exit_code == 1


def test_a_server_is_looked_at(tmp_path: Path) -> None:
    code, found = of_json(IGKD_STORAGE=fresh_url("postgresql", tmp_path))
    assert code == 0
    assert {"database", "tables", "writing", "clock", "round trip", "connections"} <= set(found)
