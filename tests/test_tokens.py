"""A token is made once, for its owner's eyes; one that could be guessed is refused."""

import logging
import os
import stat
from pathlib import Path

import pytest

from igkd_search import tokens
from igkd_search.errors import StorageError

GOOD = "0123456789abcdef" * 2


def test_a_new_token_is_good_and_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o277)  # one that would take the owner's own right away
    try:
        tokens.make(tmp_path / "there" / "token")
    finally:
        os.umask(before)
    file = tmp_path / "there" / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tokens.given(file) == file.read_text().strip()


def test_no_two_tokens_are_alike(tmp_path: Path) -> None:
    for name in "ab":
        tokens.make(tmp_path / name)
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_a_token_that_is_in_use_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(GOOD)
    with pytest.raises(StorageError, match=f"there already.*--token-file {file}"):
        tokens.make(file)
    assert file.read_text() == GOOD


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="there already"):
        tokens.make(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        tokens.make(tmp_path / "file" / "token")


@pytest.mark.parametrize(
    "weak", ["", "short", "a" * 64, "passwordpasswordpasswordpassword", GOOD[:31]]
)
def test_a_token_that_could_be_guessed_is_refused(weak: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{weak}\n")
    with pytest.raises(StorageError, match=r"could be guessed.*needed are 32.*--new-token") as told:
        tokens.given(file)
    assert not weak or weak not in str(told.value)


@pytest.mark.parametrize("odd", [f"{GOOD} {GOOD}", f"{GOOD}\n{GOOD}", f"{GOOD}ä"])
def test_a_token_is_one_word_that_a_header_can_hold(odd: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(odd)
    with pytest.raises(StorageError, match="one word of printable ASCII"):
        tokens.given(tmp_path / "token")


def test_a_missing_file_is_told_how_to_make(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"No such file.*--new-token {tmp_path / 'token'}"):
        tokens.given(tmp_path / "token")


def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(GOOD)
    file.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert tokens.given(file) == GOOD
        assert caplog.text == ""
        file.chmod(0o640)
        tokens.given(file)
    assert f"chmod 600 {file}" in caplog.text
    assert GOOD not in caplog.text


def test_the_environment_is_asked_last_and_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokens.given(None) is None
    monkeypatch.setenv(tokens.VARIABLE, GOOD)
    assert tokens.given(None) == GOOD
    assert tokens.VARIABLE not in os.environ  # what this process starts does not learn it
    monkeypatch.setenv(tokens.VARIABLE, GOOD)
    tokens.make(tmp_path / "token")
    assert tokens.given(tmp_path / "token") != GOOD
    for empty in ("", "  \n"):  # as where a secret was not found: never a dashboard without one
        monkeypatch.setenv(tokens.VARIABLE, empty)
        with pytest.raises(StorageError, match=f"^{tokens.VARIABLE}: it is empty.*--new-token"):
            tokens.given(None)
    monkeypatch.setenv(tokens.VARIABLE, "short")
    with pytest.raises(StorageError, match=f"^{tokens.VARIABLE}: .*could be guessed"):
        tokens.given(None)
