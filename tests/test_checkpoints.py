"""A checkpoint is whole or not at all; the newest that can be continued is found, others go."""

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from igkd_search import checkpoints
from igkd_search.errors import MaterialError, StorageError

TENSORS = {"model.x": torch.arange(6.0).view(2, 3), "optimizer.0.step": torch.tensor(3)}


def written(folder: Path, epoch: int) -> Path:
    path = checkpoints.path_of(folder, epoch)
    checkpoints.write(path, TENSORS, {"records": [{"epoch": epoch}]})
    return path


def of_version(path: Path, metadata: dict[str, str] | None) -> Path:
    """A file as an igkd of another version wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save({"model.x": torch.zeros(9)}, metadata=metadata))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "new" / "folder", 4)
    assert path.name == "epoch-0004.safetensors"
    tensors, plain = checkpoints.read(path)
    assert plain == {"records": [{"epoch": 4}]}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)


def test_tensors_that_do_not_lie_in_one_piece_are_written_too(tmp_path: Path) -> None:
    tensor = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    checkpoints.write(checkpoints.path_of(tmp_path, 1), {"x": tensor, "y": tensor.mT}, {})
    tensors, _ = checkpoints.read(checkpoints.path_of(tmp_path, 1))
    assert torch.equal(tensors["x"], tensor) and torch.equal(tensors["y"], tensor.mT)


def test_a_run_keeps_its_newest_checkpoint_alone(tmp_path: Path) -> None:
    other = tmp_path / "other" / "epoch-0001.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"of another attempt")
    for epoch in (1, 2, 3):
        written(tmp_path / "mine", epoch)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["epoch-0003.safetensors"]
    assert other.exists()


def test_the_newest_has_the_most_epochs_of_any_attempt(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "absent") is None
    for attempt, epoch in (("a", 2), ("b", 10), ("c", 9), (".", 1)):
        written(tmp_path / attempt, epoch)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".epoch-0011.tmp.safetensors").write_bytes(b"being written")
    assert checkpoints.newest(tmp_path) == tmp_path / "b" / "epoch-0010.safetensors"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lose(path: Path) -> None:
    path.unlink()


def forget_what_is_plain(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"plain"', b'"plane"'))


def garble_what_is_plain(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'{\\"records', b'[\\"records'))


def say_nothing(path: Path) -> None:
    path.write_bytes(save(TENSORS))


@pytest.mark.parametrize(
    "damage", [cut, empty, lose, forget_what_is_plain, garble_what_is_plain, say_nothing]
)
def test_a_broken_checkpoint_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = written(tmp_path, 1)
    damage(path)
    with pytest.raises(MaterialError, match=r"epoch-0001\.safetensors: not a checkpoint"):
        checkpoints.read(path)


@pytest.mark.parametrize("damage", [cut, empty])
def test_an_unreadable_one_is_removed_and_an_older_one_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    older, torn = written(tmp_path / "a", 1), written(tmp_path / "b", 2)
    damage(torn)
    assert checkpoints.newest(tmp_path) == older
    assert not torn.exists() and older.exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "epoch-0002.safetensors: not a checkpoint that can be read" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"records": json.dumps([])}, "None"),  # as the first version wrote them
        (None, "None"),
        ({"version": "1", "plain": "{}"}, "1"),
        ({"version": "99", "plain": "{}"}, "99"),
    ],
)
def test_one_of_another_version_is_removed_with_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    metadata: dict[str, str] | None,
    named: str,
) -> None:
    path = of_version(checkpoints.path_of(tmp_path / "a", 7), metadata)
    assert checkpoints.newest(tmp_path) is None
    assert not path.exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert (
        f"a checkpoint of version {named}, where this igkd goes on from 2; removed" in caplog.text
    )


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"epoch-0001\.safetensors"):
        written(tmp_path / "file", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_part_is_what_its_prefix_begins() -> None:
    assert checkpoints.part(TENSORS, "model.").keys() == {"x"}
    assert checkpoints.part(TENSORS, "optimizer.").keys() == {"0.step"}
    assert checkpoints.part(TENSORS, "ema.") == {}


def test_an_adopter_has_the_newest_under_a_name_of_its_own(tmp_path: Path) -> None:
    first, mine = tmp_path / "attempt-001", tmp_path / "attempt-002"
    written(first, 3)
    found = checkpoints.take_over(tmp_path, mine)
    assert found == checkpoints.path_of(mine, 3)
    written(first, 4)  # its late owner goes on, and removes what is older
    assert checkpoints.read(found)[1] == {"records": [{"epoch": 3}]}
    written(mine, 5)
    assert [path.name for path in mine.iterdir()] == ["epoch-0005.safetensors"]
    assert checkpoints.take_over(tmp_path, mine) == checkpoints.path_of(mine, 5), "its own already"


def test_without_a_checkpoint_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    assert checkpoints.take_over(tmp_path / "none", tmp_path / "mine") is None
    assert not (tmp_path / "mine").exists()


def test_one_that_vanishes_while_it_is_taken_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, mine, link = tmp_path / "attempt-001", tmp_path / "attempt-002", os.link
    written(first, 3)

    def late(source: Path, name: Path) -> None:
        if source == checkpoints.path_of(first, 3):
            written(first, 4)  # between finding and linking
        link(source, name)

    monkeypatch.setattr(os, "link", late)
    assert checkpoints.take_over(tmp_path, mine) == checkpoints.path_of(mine, 4)
    assert caplog.text == ""


def test_one_that_vanishes_while_it_is_looked_at_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "attempt-001", 3)
    gone, opened = written(tmp_path / "attempt-002", 5), safe_open

    def late(path: Path, **options: str) -> object:
        gone.unlink(missing_ok=True)
        return opened(path, **options)

    monkeypatch.setattr(checkpoints, "safe_open", late)
    assert checkpoints.newest(tmp_path) == checkpoints.path_of(tmp_path / "attempt-001", 3)
    assert "removed" not in caplog.text


def test_a_file_system_without_links_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    written(tmp_path / "attempt-001", 3)
    found = checkpoints.take_over(tmp_path, tmp_path / "attempt-002")
    assert found is not None and found.parent.name == "attempt-002"
    assert checkpoints.read(found)[1] == {"records": [{"epoch": 3}]}
