"""Parts become the four arrays, in order and whole, or nothing and a reason."""

import lzma
import os
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from igkd_search import arrays, vault
from igkd_search.sources import Place

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "join_arrays"
TRAIN = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), np.uint8)
TEST = np.random.default_rng(1).integers(0, 256, (5, 3, 4, 4), np.uint8)
LABELS = {"train": np.arange(12, dtype=np.uint8) % 3, "test": np.arange(5, dtype=np.uint8) % 3}
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The script, called with these words."""
    loader = SourceFileLoader("join_arrays", str(SCRIPT))
    spec = spec_from_loader("join_arrays", loader)
    assert spec is not None
    module = module_from_spec(spec)
    # its dataclass looks its own module up; no bytecode is left beside the script
    monkeypatch.setitem(sys.modules, "join_arrays", module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        return int(module.main())

    return call


def packed(path: Path, array: NDArray[Any]) -> None:
    with lzma.open(path, "wb") as file:
        np.save(file, array)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two folders: pieces that are packed and not, and the labels in one of them."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    packed(second / "train_1.npy.xz", TRAIN[:4])
    np.save(first / "train_images_2.npy", TRAIN[4:10])
    packed(second / "train_3.npy.xz", TRAIN[10:])
    packed(first / "test.npy.xz", TEST)
    others = np.zeros(3, bool)
    np.savez(second / "labels.npz", train=LABELS["train"], test=LABELS["test"], others=others)
    (first / "README.md").write_text("what these are")
    return [first, second]


def test_it_can_be_run_as_it_is() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_text("utf-8").startswith("#!/usr/bin/env python3\n")


def test_the_arrays_source_reads_what_was_joined(
    run: Run, parts: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "set"
    assert run(*parts, "-o", output) == 0
    place = Place(str(output), tmp_path, vault.Vault(tmp_path / "vault"), 32)
    for part, images in {"train": TRAIN, "test": TEST}.items():
        found, labels = arrays.arrays(part)(place)
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(labels, LABELS[part])
        assert np.load(output / f"{part}_labels.npy").dtype == np.int64
    names = {f"{part}_{kind}.npy" for part in LABELS for kind in ("images", "labels")}
    assert {path.name for path in output.iterdir()} == names


def test_a_set_without_numbers_and_labels_in_files_of_their_own_will_do(
    run: Run, tmp_path: Path
) -> None:
    for part, images in {"train": TRAIN[:, 0], "test": TEST[:, 0]}.items():
        np.save(tmp_path / f"{part}_images.npy", images)
        np.save(tmp_path / f"{part}_labels.npy", LABELS[part])
    assert run(tmp_path, "-o", tmp_path / "set") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "set" / "train_images.npy"), TRAIN[:, 0])


def test_again_it_leaves_what_is_there_and_makes_what_is_not(
    run: Run, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "set"
    assert run(*parts, "-o", output) == 0
    before = (output / "train_images.npy").stat().st_ino
    (output / "test_images.npy").unlink()
    assert run(*reversed(parts), "-o", output) == 0
    assert (output / "train_images.npy").stat().st_ino == before
    np.testing.assert_array_equal(np.load(output / "test_images.npy"), TEST)
    capsys.readouterr()
    assert run(*parts, "-o", output) == 0
    assert capsys.readouterr().err == f"found {output}: 12 train and 5 test images\n"


def cut_short(first: Path, second: Path) -> None:
    whole = (second / "train_3.npy.xz").read_bytes()
    (second / "train_3.npy.xz").write_bytes(whole[:-20])


def too_few_bytes(first: Path, second: Path) -> None:
    whole = (first / "train_images_2.npy").read_bytes()
    (first / "train_images_2.npy").write_bytes(whole[:-1])


def no_labels(first: Path, second: Path) -> None:
    (second / "labels.npz").unlink()


FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a gap": (lambda first, second: (first / "train_images_2.npy").unlink(), "train_2 is missing"),
    "a number 0": (lambda first, second: np.save(first / "train_0.npy", TRAIN), "train_0 is none"),
    "a piece twice": (lambda first, second: packed(first / "train_1.npy.xz", TRAIN[:4]), "same"),
    "whole and pieces": (lambda first, second: np.save(first / "train.npy", TRAIN), "as well"),
    "a last piece too few": (
        lambda first, second: (second / "train_3.npy.xz").unlink(),
        "10 train images in 2 pieces, but 12 labels",
    ),
    "no test part": (lambda first, second: (first / "test.npy.xz").unlink(), "no test images"),
    "no labels": (no_labels, "no train labels"),
    "labels twice": (
        lambda first, second: np.save(first / "train_labels.npy", LABELS["train"]),
        "leave one out",
    ),
    "labels that are none": (
        lambda first, second: np.savez(second / "labels.npz", train=np.zeros(12), test=TEST),
        "allowed is integers",
    ),
    "other sizes": (
        lambda first, second: np.save(first / "train_images_2.npy", TRAIN[4:10, :, :3]),
        "must be the same",
    ),
    "other types": (
        lambda first, second: np.save(first / "train_images_2.npy", TRAIN[4:10].astype(np.int64)),
        "found int64",
    ),
    "a piece cut short": (cut_short, "train_3.npy.xz: cannot be read"),
    "a piece that lacks a byte": (too_few_bytes, "train_images_2.npy: cannot be read"),
    "no archive": (
        lambda first, second: (second / "train_1.npy.xz").write_bytes(b"no archive"),
        "train_1.npy.xz: cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_and_nothing_is_left_half(
    fault: str,
    run: Run,
    parts: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil, said = FAULTS[fault]
    spoil(*parts)
    output = tmp_path / "set"
    assert run(*parts, "-o", output) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not output.exists() or list(output.iterdir()) == []


@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_another_set_is_not_written_over(
    name: str, run: Run, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "set"
    output.mkdir()
    np.save(output / f"{name}.npy", TRAIN[:3] if name == "train_images" else np.zeros(12, int))
    assert run(*parts, "-o", output) == 1
    assert "is of another set" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == [f"{name}.npy"]


def test_no_folder_and_an_output_that_is_a_file_are_errors(
    run: Run, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "nowhere", "-o", tmp_path / "set") == 1
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(*parts, "-o", tmp_path / "file") == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
