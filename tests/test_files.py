"""A file is replaced whole or not at all, and what a killed replacement left is found."""

import os
from pathlib import Path

import pytest

from igkd_search import files


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    for content in (b"one", b"another", b""):
        files.replace(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_old_content_stays_until_the_new_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.replace(tmp_path / "a", b"old")

    def refused(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"new" and Path(target).read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="No space left"):
        files.replace(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_replacement_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    files.replace(tmp_path / "inner" / "kept", b"kept")
    with monkeypatch.context() as patch:
        # killed before it could tidy up
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(os, "replace", lambda *_: None)
        files.replace(tmp_path / "inner" / "lost", b"lost")
    assert len(list((tmp_path / "inner").iterdir())) == 2
    files.remove_litter(tmp_path)
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["kept"]


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_of_a_secret_that_others_can_read_is_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    path = tmp_path / "secret"
    path.write_text("word\n")
    path.chmod(mode)
    assert files.read_private(path) == "word\n"
    assert ("can be read by other users" in caplog.text) == warned


def test_a_secret_that_is_no_text_or_not_there_says_why(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(OSError) as caught:
        files.read_private(tmp_path / "binary")
    assert caught.value.strerror == "not a text file"
    with pytest.raises(FileNotFoundError):
        files.read_private(tmp_path / "absent")
