"""Laws of the vault: whole or not at all, built once, continued after a kill, verified."""

import errno
import hashlib
import json
import logging
import os
import selectors
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import igkd_search
from igkd_search import vault
from igkd_search.errors import MaterialError, StorageError
from igkd_search.vault import Vault
from tests.children import child

INPUTS = {"data": "digits", "steps": 20}


def writes(content: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "a.txt").write_text(content)

    return build


def unwanted(folder: Path) -> None:
    pytest.fail(f"{folder} was built again")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# --- digests


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_digest_ignores_the_order_of_keys(inputs: dict[str, Any]) -> None:
    assert vault.digest(inputs) == vault.digest(dict(reversed(inputs.items())))
    assert vault.digest({"inner": inputs}) != vault.digest({"inner": {**inputs, "another": 0}})


def test_digest_is_that_of_canonical_json() -> None:
    text = b'{"a":0.5,"b":[1,null]}'
    assert vault.digest({"b": [1, None], "a": 0.5}) == hashlib.sha256(text).hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        vault.digest({"a": float("nan")})


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert vault.file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")


# --- write_whole


def test_write_whole_replaces(tmp_path: Path) -> None:
    for content in (b"old", b"new and longer"):
        vault.write_whole(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    def fail(*arguments: object) -> None:
        raise failure

    vault.write_whole(tmp_path / "a", b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
        vault.write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]
    if caught.type is StorageError:
        assert "No space left" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from igkd_search import errors, vault
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    vault.write_whole(Path(sys.argv[1]), bytes(5000))
except errors.StorageError as error:
    print(error)
"""
    vault.write_whole(tmp_path / "a", b"old")
    output, trouble = child(code, tmp_path / "a").communicate()
    assert "cannot be written" in output, trouble
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        vault.write_whole(tmp_path / "gone" / "a", b"new")
    assert names(tmp_path) == []


# --- entries


def test_an_entry_is_built_once_and_described(tmp_path: Path) -> None:
    first = Vault(tmp_path)
    assert not first.contains("bank", INPUTS)
    folder = first.entry("bank", INPUTS, writes("one"))
    assert first.contains("bank", INPUTS)
    assert folder == first.folder("bank", INPUTS)
    assert folder == tmp_path / "bank" / vault.digest(INPUTS)[:16]
    assert first.entry("bank", INPUTS, unwanted) == folder
    assert Vault(tmp_path).entry("bank", INPUTS, unwanted) == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"] == INPUTS
    assert manifest["files"] == {
        "a.txt": {"sha256": vault.file_digest(folder / "a.txt"), "bytes": 3}
    }
    assert manifest["created"].endswith("+00:00")
    assert manifest["igkd_search"] == igkd_search.__version__


def test_other_inputs_or_kinds_are_other_entries(tmp_path: Path) -> None:
    shelf = Vault(tmp_path)
    folders = {
        shelf.entry(kind, {"steps": steps}, writes(f"{kind} {steps}"))
        for kind in ("bank", "teacher")
        for steps in (1, 2)
    }
    assert len(folders) == 4
    assert len({(folder / "a.txt").read_text() for folder in folders}) == 4


def test_a_failed_build_is_continued(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "checkpoint").write_text("epoch 3")
        raise RuntimeError("killed")

    def continued(folder: Path) -> None:
        assert (folder / "checkpoint").read_text() == "epoch 3"
        (folder / "checkpoint").rename(folder / "model")

    shelf = Vault(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        shelf.entry("teacher", INPUTS, interrupted)
    assert not shelf.contains("teacher", INPUTS)
    folder = shelf.entry("teacher", INPUTS, continued)
    assert names(folder) == ["manifest.json", "model"]
    assert not list(tmp_path.rglob("*.partial"))


def test_litter_of_a_killed_write_is_not_sealed(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / ".a.txt.0123.tmp").write_text("half")
        writes("whole")(folder)

    assert names(Vault(tmp_path).entry("bank", INPUTS, build)) == ["a.txt", "manifest.json"]


def flip_a_bit(folder: Path) -> str:
    content = bytearray((folder / "a.txt").read_bytes())
    content[0] ^= 1
    (folder / "a.txt").write_bytes(content)
    return "a.txt does not match its checksum"


def cut(folder: Path) -> str:
    (folder / "a.txt").write_bytes(b"")
    return "a.txt does not match its checksum"


def lose_a_file(folder: Path) -> str:
    (folder / "a.txt").unlink()
    return "a.txt is missing"


def garble_the_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text("{")
    return "manifest.json is damaged"


def swap_the_inputs(folder: Path) -> str:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("20", "21"))
    return "manifest.json names other inputs"


@pytest.mark.parametrize(
    "damage", [flip_a_bit, cut, lose_a_file, garble_the_manifest, swap_the_inputs]
)
def test_damage_is_found_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], str]
) -> None:
    folder = Vault(tmp_path).entry("bank", INPUTS, writes("true"))
    told = damage(folder)
    assert Vault(tmp_path).entry("bank", INPUTS, writes("true")) == folder
    assert (folder / "a.txt").read_text() == "true"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert told in caplog.text
    caplog.clear()
    Vault(tmp_path).entry("bank", INPUTS, unwanted)
    assert not caplog.records


def test_what_cannot_be_read_now_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Vault(tmp_path).entry("bank", INPUTS, writes("true"))

    def refuse(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(vault, "file_digest", refuse)
    with pytest.raises(StorageError, match="cannot be read"):
        Vault(tmp_path).entry("bank", INPUTS, unwanted)
    assert (folder / "a.txt").read_text() == "true"


def must_be_true(folder: Path) -> None:
    if (folder / "a.txt").read_text() != "true":
        raise MaterialError("row 3 is not image 3")


def test_nothing_is_kept_of_a_fresh_build_that_fails_its_check(tmp_path: Path) -> None:
    shelf = Vault(tmp_path)
    for _ in range(2):
        with pytest.raises(MaterialError, match="row 3"):
            shelf.entry("bank", INPUTS, writes("false"), must_be_true)
        assert not shelf.contains("bank", INPUTS)
        assert [path.suffix for path in (tmp_path / "bank").iterdir()] == [".lock"]
    shelf.entry("bank", INPUTS, writes("true"), must_be_true)


@pytest.mark.parametrize("content", ["true", "false"])
def test_an_opened_entry_that_fails_its_check_is_rebuilt_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    Vault(tmp_path).entry("bank", INPUTS, writes("of an older version"))
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        writes(content)(folder)

    shelf = Vault(tmp_path)
    if content == "true":
        must_be_true(shelf.entry("bank", INPUTS, build, must_be_true))
    else:
        with pytest.raises(MaterialError, match="row 3"):
            shelf.entry("bank", INPUTS, build, must_be_true)
    assert shelf.contains("bank", INPUTS) == (content == "true")
    assert len(builds) == 1
    assert caplog.text.count("row 3 is not image 3") == 1


@pytest.mark.parametrize("root", ["file/home", "/proc/home"])
def test_an_unwritable_root_says_what_to_change(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        Vault(tmp_path / root).entry("bank", INPUTS, unwanted)
    assert str(tmp_path / root) in str(caught.value)
    assert "--home" in str(caught.value)
    assert "IGKD_HOME" in str(caught.value)
    assert not Vault(tmp_path / root).contains("bank", INPUTS)


def test_a_disk_that_fills_in_a_build_is_a_storage_error(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        Vault(tmp_path).entry("bank", INPUTS, build)


RACER = """
import logging, sys
from pathlib import Path
from igkd_search.vault import Vault
from tests.children import child
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
def build(folder):
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "a.txt").write_text("true")
folder = Vault(Path(sys.argv[1])).entry("bank", {"steps": 20}, build)
print((folder / "a.txt").read_text(), flush=True)
"""


def waits(process: "subprocess.Popen[str]") -> bool:
    assert process.stderr is not None
    return any("waiting for another process" in line for line in process.stderr)


def test_of_two_processes_one_builds(tmp_path: Path) -> None:
    with child(RACER, tmp_path) as builder, child(RACER, tmp_path) as other:
        lines = {builder: "", other: ""}
        # Whichever is first builds until it is told to go on; the other is seen to wait meanwhile.
        with selectors.DefaultSelector() as selector:
            for process in lines:
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, process)
            first = selector.select()[0][0].data
        second = other if first is builder else builder
        assert second.stdout is not None
        lines[first] = first.stdout.readline()
        assert second.stdin is not None
        second.stdin.close()  # if it built after all, it would end at once instead of hanging here
        assert waits(second)
        assert first.stdin is not None
        first.stdin.close()
        lines[first] += first.stdout.read()
        lines[second] += second.stdout.read()
    assert lines == {first: "building\ntrue\n", second: "true\n"}


def test_the_next_process_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    with child(RACER, tmp_path) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "building\n"
        doomed.kill()
    assert list(tmp_path.rglob("*.partial"))
    Vault(tmp_path).entry("bank", {"steps": 20}, writes("true"))
    assert not list(tmp_path.rglob("*.partial"))


# --- what was opened, and removing


def test_a_vault_remembers_what_was_opened_through_it(tmp_path: Path) -> None:
    first = Vault(tmp_path)
    assert first.opened == ()
    built = [first.entry(kind, INPUTS, writes(kind)) for kind in ("teacher", "bank")]
    named = tuple(sorted(f"{folder.parent.name}/{folder.name}" for folder in built))
    assert first.opened == named
    second = Vault(tmp_path)
    for _ in range(2):
        second.entry("bank", INPUTS, unwanted)
    assert second.contains("teacher", INPUTS)
    assert second.opened == (f"bank/{vault.digest(INPUTS)[:16]}",)
    with pytest.raises(RuntimeError):
        second.entry("targets", INPUTS, fails)
    assert len(second.opened) == 1


def fails(folder: Path) -> None:
    raise RuntimeError("killed")


def test_a_removed_entry_is_gone_and_built_again(tmp_path: Path) -> None:
    shelf = Vault(tmp_path)
    folder = shelf.entry("bank", INPUTS, writes("one"))
    assert shelf.remove(folder)
    assert not folder.exists() and shelf.opened == ()
    assert (shelf.entry("bank", INPUTS, writes("two")) / "a.txt").read_text() == "two"


def test_a_removal_that_is_interrupted_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Vault(tmp_path)
    folder = shelf.entry("bank", INPUTS, writes("one"))

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        with pytest.raises(StorageError, match="Permission denied"):
            shelf.remove(folder)
    assert not shelf.contains("bank", INPUTS)
    assert (shelf.entry("bank", INPUTS, writes("two")) / "a.txt").read_text() == "two"


def test_what_is_being_built_is_not_removed(tmp_path: Path) -> None:
    shelf = Vault(tmp_path)
    with child(RACER, tmp_path) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        (partial,) = tmp_path.rglob("*.partial")
        assert not shelf.remove(partial)
        assert partial.is_dir()
        builder.communicate("\n")
    assert shelf.remove(shelf.folder("bank", {"steps": 20}))


def test_the_vault_is_light() -> None:
    code = "import sys, igkd_search.vault; print({'torch', 'numpy'} & set(sys.modules))"
    output, trouble = child(code).communicate()
    assert output == "set()\n", trouble
