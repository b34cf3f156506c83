"""Laws of arrays filled by shard: at most one shard is lost to a kill, and a full disk is said."""

import errno
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from igkd_search import shards
from igkd_search.errors import MaterialError, StorageError
from igkd_search.vault import Vault
from tests.children import child

INPUTS = {"data": "digits", "steps": 20}

SHAPE, SHARD = (10, 3), 4
EXPECTED = np.arange(30, dtype=np.float16).reshape(SHAPE)


def rows_of(log: list[int]) -> Callable[[int, int], npt.NDArray[Any]]:
    def compute(start: int, stop: int) -> npt.NDArray[Any]:
        log.extend(range(start, stop))
        return EXPECTED[start:stop]

    return compute


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from igkd_search import shards
expected = np.arange(30, dtype=np.float16).reshape(10, 3)
def compute(start, stop):
    if start <= int(sys.argv[2]) < stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return expected[start:stop]
shards.fill(Path(sys.argv[1]), "logits", (10, 3), np.float16, 4, compute)
"""


@pytest.mark.parametrize(("row", "kept"), [(0, 0), (6, 4), (9, 8)])
def test_a_killed_fill_continues_at_its_first_unfinished_row(
    tmp_path: Path, row: int, kept: int
) -> None:
    with child(KILLED, tmp_path, row) as process:
        assert process.wait() == -signal.SIGKILL
    computed: list[int] = []
    heard: list[int] = []
    shards.fill(tmp_path, "logits", SHAPE, np.float16, SHARD, rows_of(computed), heard.append)
    assert computed == list(range(kept, 10))
    assert sum(heard) == 10
    np.testing.assert_array_equal(shards.read_array(tmp_path, "logits"), EXPECTED)
    assert [path.name for path in tmp_path.iterdir()] == ["logits.npy"]


def test_a_finished_array_is_not_filled_again(tmp_path: Path) -> None:
    computed: list[int] = []
    heard: list[int] = []
    for _ in range(2):
        shards.fill(tmp_path, "logits", SHAPE, np.float16, SHARD, rows_of(computed), heard.append)
    assert computed == list(range(10))
    assert heard == [4, 4, 2, 10]


@pytest.mark.parametrize("cause", ["dtype", "shape"])
def test_an_array_of_another_form_is_filled_anew(tmp_path: Path, cause: str) -> None:
    shape, dtype = ((20, 3), np.float16) if cause == "shape" else (SHAPE, np.float32)
    shards.fill(tmp_path, "logits", shape, dtype, 20, lambda a, b: np.ones((b - a, 3), dtype))
    shards.fill(tmp_path, "logits", SHAPE, np.float16, SHARD, rows_of([]))
    np.testing.assert_array_equal(shards.read_array(tmp_path, "logits"), EXPECTED)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Cannot cast"):
        shards.fill(tmp_path, "maps", SHAPE, np.uint8, SHARD, rows_of([]))


def test_a_disk_too_small_for_the_array_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left"):
        shards.fill(tmp_path, "logits", SHAPE, np.float16, SHARD, rows_of([]))
    assert [path.name for path in tmp_path.iterdir()] == ["logits.progress"], "space is given back"


def test_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", EXPECTED)
    array = shards.read_array(tmp_path, "logits")
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_only_plain_arrays_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    for name in ("objects", "broken", "absent"):
        with pytest.raises(MaterialError, match=name):
            shards.read_array(tmp_path, name)


def test_a_bank_killed_at_every_shard_is_finished_by_the_vault(tmp_path: Path) -> None:
    computed: list[int] = []
    deaths = itertools.count()

    def build(folder: Path) -> None:
        def compute(start: int, stop: int) -> npt.NDArray[Any]:
            if next(deaths) % 2:
                raise RuntimeError("killed")
            return rows_of(computed)(start, stop)

        shards.fill(folder, "logits", SHAPE, np.float16, SHARD, compute)

    shelf = Vault(tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            shelf.entry("bank", INPUTS, build)
    folder = shelf.entry("bank", INPUTS, build)
    assert computed == list(range(10))
    np.testing.assert_array_equal(shards.read_array(folder, "logits"), EXPECTED)
    shutil.rmtree(folder)
    assert not shelf.contains("bank", INPUTS)


@pytest.mark.parametrize("left", [0, 70, 150])
def test_an_array_that_was_cut_short_is_filled_anew(tmp_path: Path, left: int) -> None:
    shards.fill(tmp_path, "logits", SHAPE, np.float16, SHARD, rows_of([]))
    os.truncate(tmp_path / "logits.npy", left)
    (tmp_path / "logits.progress").write_bytes(b"8")
    computed: list[int] = []
    shards.fill(tmp_path, "logits", SHAPE, np.float16, SHARD, rows_of(computed))
    assert computed == list(range(10))
    np.testing.assert_array_equal(shards.read_array(tmp_path, "logits"), EXPECTED)
