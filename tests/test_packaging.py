"""What is shipped: wheel and source archive hold what they must, at the version the code states.

The tested versions cover every declared dependency, the scripts can run as the README types them,
and no file names the registry that somebody's machine happens to use.
"""

import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import hatchling.build
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import igkd_search

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SCRIPTS = ["scripts/demo", "scripts/test", "scripts/check", ".ci/run"]
CONSTRAINT = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)==[0-9]+(?:\.[0-9]+)*(?:\.?(?:a|b|rc|post)[0-9]+)?"
)
REGISTRY = re.compile(r"\b(?:pypi|pythonhosted|anaconda|npmjs|download\.pytorch)[.](?:org|com)\b")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this tree, built in this process: no isolation, hence no network."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = hatchling.build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as archive:
        yield archive


@pytest.fixture(scope="module")
def shipped_text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Path -> text of every file of the source archive, which is what git does not ignore."""
    folder = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = hatchling.build.build_sdist(str(folder))
    text = {}
    with tarfile.open(folder / name) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None, f"{member.name} is not a plain file"
            content = file.read()
            if b"\0" not in content:
                path = PurePosixPath(member.name).relative_to(PurePosixPath(member.name).parts[0])
                text[str(path)] = content.decode("utf-8")
    return text


def metadata(archive: zipfile.ZipFile, file: str) -> str:
    """Text of one file of the wheel's dist-info folder."""
    (name,) = [name for name in archive.namelist() if name.endswith(f".dist-info/{file}")]
    return archive.read(name).decode("utf-8")


def constrained() -> dict[str, str]:
    """Canonical name -> version of every line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def declared() -> list[Requirement]:
    """Every requirement of the package and of its extras."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_the_wheel_holds_every_study_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    studies = {path.name: path.read_bytes() for path in (ROOT / "studies").glob("*.toml")}
    assert "digits.toml" in studies
    prefix = "igkd_search/studies/"
    shipped = {
        name.removeprefix(prefix): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith(prefix) and name.endswith(".toml")
    }
    assert shipped == studies


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {f"igkd_search/{path.name}" for path in (ROOT / "igkd_search").glob("*.py")}
    shipped = {name for name in wheel.namelist() if not name.startswith("igkd_search/studies/")}
    assert modules <= shipped
    assert "igkd_search/py.typed" in shipped
    assert {name.split("/")[0].split("-")[0] for name in shipped} == {"igkd_search"}


def test_the_version_is_stated_once(wheel: zipfile.ZipFile) -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert f"\nVersion: {igkd_search.__version__}\n" in metadata(wheel, "METADATA")


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    assert "igkd = igkd_search.cli:main" in metadata(wheel, "entry_points.txt")


def test_the_source_archive_holds_what_a_clone_holds(shipped_text: dict[str, str]) -> None:
    expected = {"pyproject.toml", "constraints.txt", "README.md", "storage/README.md"}
    assert expected | {*SCRIPTS, "studies/digits.toml"} <= shipped_text.keys()
    assert not [path for path in shipped_text if path.startswith((".git/", ".venv/"))]
    stored = {path for path in shipped_text if path.startswith("storage/")}
    assert all(path.endswith((".md", ".yaml", ".sql", ".ini")) for path in stored), stored


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK), f"chmod +x {script}"
    assert (ROOT / script).read_text("utf-8").startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("script", [*SCRIPTS, "scripts/environment"])
def test_a_script_is_valid_bash(script: str) -> None:
    done = subprocess.run(
        ["bash", "-n", ROOT / script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_constraints_are_bare_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not CONSTRAINT.fullmatch(line)] == []
    assert len(constrained()) == len(lines), "a name stands twice"


def test_constraints_meet_every_declared_requirement() -> None:
    versions = constrained()
    missing = [str(one) for one in declared() if canonicalize_name(one.name) not in versions]
    assert missing == []
    unmet = [
        str(one)
        for one in declared()
        if not one.specifier.contains(versions[canonicalize_name(one.name)])
    ]
    assert unmet == []


def test_no_shipped_text_names_a_registry(shipped_text: dict[str, str]) -> None:
    found = [path for path, text in shipped_text.items() if REGISTRY.search(text)]
    assert found == []


def test_the_readme_shows_the_shipped_study_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert (ROOT / "studies" / "digits.toml").read_text("utf-8").rstrip() in readme
