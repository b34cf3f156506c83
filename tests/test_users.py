"""Whoever prepares is known to live by a lock that the kernel drops with the process."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from igkd_search import users
from igkd_search.errors import StorageError
from tests.children import child

PREPARING = """
import sys
from pathlib import Path
from igkd_search import users
with users.using(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def inside(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A child that is among the users of `tmp_path` until its input ends or it is killed."""
    with child(PREPARING, tmp_path) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "inside\n"
        yield process
        process.stdin.close()


def locks(root: Path) -> list[Path]:
    return list((root / "users").glob("*"))


def test_nobody_is_alone_while_another_process_prepares(
    tmp_path: Path, inside: "subprocess.Popen[str]"
) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match="a process is preparing"), users.alone(tmp_path):
            pytest.fail("alone beside another")
    two = pytest.raises(StorageError, match="2 processes are preparing")
    with users.using(tmp_path), two, users.alone(tmp_path):
        pytest.fail("alone beside two")
    assert len(locks(tmp_path)) == 1
    inside.communicate("\n")
    with users.alone(tmp_path):
        assert locks(tmp_path) == []


def test_the_lock_of_a_killed_process_is_cleared(
    tmp_path: Path, inside: "subprocess.Popen[str]"
) -> None:
    inside.kill()
    inside.wait()
    assert len(locks(tmp_path)) == 1
    with users.alone(tmp_path):
        assert locks(tmp_path) == []


def test_a_user_leaves_nothing_behind_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), users.using(tmp_path), users.using(tmp_path):
        assert len(locks(tmp_path)) == 2
        raise RuntimeError
    assert locks(tmp_path) == []


COMING = PREPARING.replace("from pathlib", "import logging\nfrom pathlib").replace(
    "with users", "logging.basicConfig(level=logging.INFO)\nwith users"
)


def test_who_comes_while_another_prunes_waits_with_a_message(tmp_path: Path) -> None:
    with users.alone(tmp_path):
        coming = child(COMING, tmp_path)
        assert coming.stderr is not None
        assert any("waiting for another process that prunes" in line for line in coming.stderr)
        assert locks(tmp_path) == []
    assert coming.communicate("\n")[0] == "inside\n"


Entering = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize("enter", [users.using, users.alone])
def test_an_unwritable_root_says_what_to_change(tmp_path: Path, enter: Entering) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="--home"), enter(tmp_path / "file" / "vault"):
        pytest.fail("inside of nothing")
