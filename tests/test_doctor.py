"""A doctor looks at everything in turn; whatever is broken, the rest is still looked at."""

import builtins
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from igkd_search import doctor, filesystems
from igkd_search.errors import StorageError
from igkd_search.findings import Finding
from tests import stub_torch

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages").mkdir()
    stub_torch.install(tmp_path / "packages", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))  # and no .pgpass of the developer's
    monkeypatch.delenv("PGPASSFILE", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def found_by_name(home: Path, **options: Any) -> dict[str, Finding]:
    found = doctor.examine(lambda: f"sqlite:///{home}/igkd.db", home, **options)
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_a_good_machine_is_well_and_left_as_it_was(home: Path) -> None:
    found = found_by_name(home)
    assert {one.state for one in found.values()} == {"ok"}, found
    first, *_, last = found
    assert (first, last) == ("python", "database")
    assert not home.exists()


def test_a_home_below_a_file_is_a_fault(home: Path) -> None:
    home.write_text("mine")
    found = found_by_name(home / "below")
    assert found["home"].state == "fault" and "--home" in found["home"].advice
    assert "disk" not in found and "database" in found


def test_a_home_that_takes_no_file_is_a_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "refusal", lambda path: "Read-only file system")
    found = found_by_name(home)["home"]
    assert found.state == "fault" and "Read-only file system" in found.found


def test_a_home_that_hosts_share_is_well_but_no_place_for_the_database(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "kind_of", lambda path: "nfs4")
    found = found_by_name(home)
    assert found["home"].state == "ok" and "nfs4, shared by hosts" in found["home"].found
    assert found["writing"].state == "fault"


@pytest.mark.parametrize(
    ("free", "state"), [(int(50e9), "ok"), (int(3e9), "warning"), (int(1e6), "fault")]
)
def test_the_room_on_the_disk_is_compared_with_what_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    (home / "vault").mkdir(parents=True)
    with (home / "vault" / "bank").open("wb") as file:
        file.truncate(2_300_000_000)  # takes no room itself
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100e9, 0, free))
    disk = found_by_name(home)["disk"]
    assert disk.state == state and f"2.3 GB are in use in {home}" in disk.found


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o640, "warning"), (0o604, "warning")])
@pytest.mark.parametrize("kind", ["storage file", "PGPASSFILE", "~/.pgpass"])
def test_a_file_of_passwords_is_its_owners_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: int, state: str
) -> None:
    file = tmp_path / ".pgpass"
    if kind != "~/.pgpass":
        file = tmp_path / "mine"
    file.write_text("secret")
    file.chmod(mode)
    if kind == "PGPASSFILE":
        monkeypatch.setenv("PGPASSFILE", str(file))
    given = {"storage_file": file} if kind == "storage file" else {}
    found = found_by_name(home, **given)["storage file" if given else "PGPASSFILE"]
    assert found.state == state and "secret" not in found.found
    assert found.advice == ("" if state == "ok" else f"chmod 600 {file}")


def test_a_file_of_passwords_that_is_not_there_is_a_fault(home: Path) -> None:
    found = found_by_name(home, storage_file=home / "none")["storage file"]
    assert found.state == "fault" and "No such file" in found.found


def test_an_optuna_that_cannot_be_imported_is_a_fault(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def broken(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "igkd_search" and "database_health" in (arguments[2] or ()):
            raise ImportError("optuna was built for another SQLAlchemy")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    database = found_by_name(home)["database"]
    assert database.state == "fault" and "built for another" in database.found
    assert "pip install" in database.advice


def test_a_study_is_looked_at_where_the_database_is_well(home: Path) -> None:
    assert found_by_name(home, study="digits")["study"].state == "ok"
    (home).mkdir()
    (home / "igkd.db").write_bytes(b"pictures" * 1000)
    assert "study" not in found_by_name(home, study="digits")


def test_a_url_that_nobody_can_tell_is_a_fault(home: Path) -> None:
    def tell() -> str:
        raise StorageError("the file holds two lines")

    *_, last = doctor.examine(tell, home)
    assert (last.name, last.state, last.found) == ("database", "fault", "the file holds two lines")
