"""A folder of images becomes rows in a known order; its test part is cut before any is decoded."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igkd_search import datasets, decoding, image_folder, spec
from igkd_search.augment import Views
from igkd_search.datasets import load, load_test
from igkd_search.errors import DataError

Bytes = NDArray[np.uint8]
NAMES = ("Apple", "bee", "cat")  # capitals come first
EACH = 10
SIZE = 8


def write_image(path: Path, level: int) -> None:
    """A plain image; its red tells which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), (level, 100, 50)).save(path)


def write_classes(folder: Path, first: int = 0, each: int = EACH) -> Path:
    """`each` images of three classes, of levels `first`, `first` + 1, ... in the order of rows."""
    for label, name in enumerate(NAMES):
        for i in range(each):
            write_image(folder / name / f"{i:02}.png", first + label * each + i)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "images")


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    write_classes(tmp_path / "parted" / "train")
    write_classes(tmp_path / "parted" / "test", first=200, each=2)
    return tmp_path / "parted"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is decoded, as class/name."""
    found: list[str] = []
    decode = decoding.decode

    def noted(path: Path, size: int) -> Bytes:
        found.append(f"{path.parent.name}/{path.name}")
        return decode(path, size)

    monkeypatch.setattr(decoding, "decode", noted)
    return found


def images_in(folder: Path, **options: Any) -> spec.Data:
    return spec.Data(source="folder", path=str(folder), **{"image_size": SIZE, **options})


def levels(images: Bytes) -> list[int]:
    """Which images these are; each must be plain."""
    assert (images == images[:, :, :1, :1]).all()
    assert (images[:, 1:, 0, 0] == [100, 50]).all()
    return [int(level) for level in images[:, 0, 0, 0]]


def refusal(load_it: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        load_it()
    return str(caught.value)


def test_rows_follow_the_names_and_labels_the_classes(parted: Path, cache: Path) -> None:
    data = load(images_in(parted), cache)
    assert data.class_names == NAMES and data.classes == 3
    assert data.image_shape == (3, SIZE, SIZE) and data.images.dtype == np.uint8
    assert levels(data.images) == [*range(30)]
    assert data.labels.tolist() == [0] * EACH + [1] * EACH + [2] * EACH
    assert data.labels.dtype == np.int64
    assert data.views == Views(shift=0, flip=False)
    images, labels = load_test(images_in(parted), cache, 3)
    assert levels(images) == [200, 201, 202, 203, 204, 205]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_without_a_test_part_a_fifth_of_each_class_is_cut(folder: Path, cache: Path) -> None:
    data = load(images_in(folder), cache)
    images, labels = load_test(images_in(folder), cache, 3)
    assert np.bincount(data.labels).tolist() == [8, 8, 8]
    assert np.bincount(labels).tolist() == [2, 2, 2]
    training, test = levels(data.images), levels(images)
    assert sorted(training + test) == [*range(30)]
    assert training == sorted(training) and test == sorted(test)
    for found, of in ((training, data.labels), (test, labels)):
        assert [level // EACH for level in found] == of.tolist()
    assert len(data.fit_rows) + len(data.validation_rows) == 24


def test_the_cut_follows_neither_the_study_nor_the_place(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    before = levels(load_test(images_in(folder), cache, 3)[0])
    other = images_in(folder, seed=3, validation=0.4, image_size=16)
    assert levels(load_test(other, cache, 3)[0]) == before
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert levels(load_test(images_in(moved), tmp_path / "other", 3)[0]) == before


def test_more_images_of_a_class_hardly_move_the_others(folder: Path) -> None:
    before = image_folder.list_parts(str(folder))
    for i in range(5):
        write_image(folder / "bee" / f"new{i}.png", 0)
    after = image_folder.list_parts(str(folder))
    moved = set(before.test.names) ^ {name for name in after.test.names if "new" not in name}
    assert len(moved) <= 2
    assert all(name.startswith("bee/") for name in moved)


def test_a_search_decodes_no_test_image(folder: Path, cache: Path, opened: list[str]) -> None:
    data = load(images_in(folder), cache)
    test = set(image_folder.list_parts(str(folder)).test.names)
    assert len(opened) == 24 and not set(opened) & test
    for name in test:  # bytes that no decoder accepts
        (folder / name).write_bytes(b"garbage")
    assert load(images_in(folder), cache).fingerprint == data.fingerprint
    said = refusal(lambda: load_test(images_in(folder), cache, 3))
    assert said.startswith(f"{folder}: 6 of 6 image files cannot be read; ")


def test_nothing_is_decoded_twice(folder: Path, cache: Path, opened: list[str]) -> None:
    one = load(images_in(folder), cache)
    assert len(opened) == 24
    again = load(images_in(folder), cache)
    assert len(opened) == 24 and again.fingerprint == one.fingerprint
    assert isinstance(again.images, np.memmap) and not again.images.flags.writeable
    load_test(images_in(folder), cache, 3)
    load_test(images_in(folder), cache, 3)
    assert len(opened) == 30


def change_content(folder: Path) -> None:
    write_image(folder / "cat" / "03.png", 255)


def change_time(folder: Path) -> None:
    os.utime(folder / "cat" / "03.png", (1, 1))


def change_name(folder: Path) -> None:
    (folder / "cat" / "03.png").rename(folder / "cat" / "030.png")


def change_class(folder: Path) -> None:
    (folder / "cat" / "03.png").rename(folder / "bee" / "99.png")


def remove_one(folder: Path) -> None:
    (folder / "cat" / "03.png").unlink()


@pytest.mark.parametrize(
    "change", [change_content, change_time, change_name, change_class, remove_one]
)
def test_a_changed_file_makes_a_new_entry(
    parted: Path, cache: Path, opened: list[str], change: Callable[[Path], None]
) -> None:
    load(images_in(parted), cache)
    change(parted / "train")
    opened.clear()
    load(images_in(parted), cache)
    assert len(opened) in (29, 30)


def test_the_entry_that_images_come_from_is_named(folder: Path, cache: Path) -> None:
    data = load(images_in(folder), cache)
    (entry,) = (path.parent for path in (cache / "vault" / "images").rglob("manifest.json"))
    assert data.entries == (f"images/{entry.name}",)


def test_another_size_makes_a_new_entry(folder: Path, cache: Path, opened: list[str]) -> None:
    load(images_in(folder), cache)
    data = load(images_in(folder, image_size=16), cache)
    assert len(opened) == 48 and data.image_shape == (3, 16, 16)


def test_images_are_32_pixels_where_the_study_says_nothing(folder: Path, cache: Path) -> None:
    data = load(spec.Data(source="folder", path=str(folder)), cache)
    assert data.image_shape == (3, 32, 32)


def test_a_copied_folder_needs_no_decoding(
    folder: Path, cache: Path, tmp_path: Path, opened: list[str]
) -> None:
    load(images_in(folder), cache)
    moved = tmp_path / "moved"
    folder.rename(moved)
    load(images_in(moved), cache)
    assert len(opened) == 24


@pytest.mark.parametrize("shard", [4, 5])
def test_a_killed_decoding_goes_on_where_it_was(
    folder: Path, cache: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(datasets, "_SHARD", shard)
    decode_all, calls = decoding.decode_all, Counter()

    def killed(paths: Sequence[Path], size: int) -> Any:
        if calls.next() == 4:
            raise KeyboardInterrupt
        return decode_all(paths, size)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_all", killed)
        with pytest.raises(KeyboardInterrupt):
            load(images_in(folder), cache)
    assert len(opened) == 3 * shard
    data = load(images_in(folder), cache)
    assert len(opened) == 24
    names = image_folder.list_parts(str(folder)).training.names
    whole = [NAMES.index(name[:-7]) * EACH + int(name[-6:-4]) for name in names]
    assert levels(data.images) == whole


class Counter:
    """1, 2, 3, ..."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> int:
        self.count += 1
        return self.count


@pytest.mark.parametrize("shard", [4, 256])
def test_all_unreadable_files_are_listed_and_nothing_is_cached(
    parted: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(datasets, "_SHARD", shard)
    bad = ["Apple/07.png", "bee/00.png", "bee/09.png", "cat/09.png"]
    for name in bad:
        (parted / "train" / name).write_bytes(b"")
    listed = "".join(f"\n  train/{name}: no image of a known format" for name in bad)
    for _ in range(2):  # and a second time they are not forgotten
        assert refusal(lambda: load(images_in(parted), cache)) == (
            f"{parted}: 4 of 30 image files cannot be read; repair or remove them and run again"
            + listed
        )
        assert not [path for path in cache.rglob("*") if path.suffix != ".lock" and path.is_file()]
    for name in bad:
        (parted / "train" / name).unlink()
    assert len(load(images_in(parted), cache).images) == 26


def test_of_many_unreadable_files_twenty_are_named(parted: Path, cache: Path) -> None:
    for path in (parted / "train").rglob("*.png"):
        path.write_bytes(b"")
    lines = refusal(lambda: load(images_in(parted), cache)).split("\n")
    assert "30 of 30 image files" in lines[0]
    assert len(lines) == 22 and lines[-1] == "  and 10 more"


def test_what_is_no_image_is_ignored_and_counted(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load(images_in(folder), cache).fingerprint
    for name in ("README.md", "cat/Thumbs.db", "cat/notes.TXT", "bee/a.txt", "bee/LICENSE"):
        (folder / name).write_bytes(b"")
    for name in ("cat/.DS_Store", ".git/cat.png", "cat/.hidden/1.png", ".hidden.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    caplog.set_level("INFO", "igkd_search")
    assert load(images_in(folder), cache).fingerprint == before
    assert (
        f"{folder}: files that are no images are ignored: .txt (2), .md (1), license (1), .db (1)"
        in caplog.text.lower().replace(str(folder).lower(), str(folder))
    )


def test_the_cut_is_told(folder: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "igkd_search")
    load(images_in(folder), cache)
    assert f"{folder}: 6 images are set apart as test part" in caplog.text
    assert "images: 24/24 images" in caplog.text
    assert "source 'folder': images are neither moved nor mirrored" in caplog.text


def test_images_may_lie_deeper_in_a_class_and_behind_links(
    parted: Path, cache: Path, tmp_path: Path
) -> None:
    train = parted / "train"
    (train / "bee").rename(tmp_path / "bees")
    (train / "bee").symlink_to(tmp_path / "bees")
    write_image(train / "cat" / "more" / "images" / "1.PNG", 99)
    data = load(images_in(parted), cache)
    assert levels(data.images) == [*range(30), 99]
    assert data.labels[-1] == 2


def test_a_link_that_leads_nowhere_is_unreadable(parted: Path, cache: Path) -> None:
    (parted / "train" / "cat" / "99.png").symlink_to("/nonexistent/cat.png")
    assert refusal(lambda: load(images_in(parted), cache)) == (
        f"{parted}: 1 of 31 image files cannot be read; repair or remove them and run again\n"
        "  train/cat/99.png: No such file or directory"
    )


def test_a_link_that_goes_round_is_refused(parted: Path, cache: Path) -> None:
    (parted / "train" / "cat" / "again").symlink_to(parted / "train" / "cat")
    assert "Too many levels of symbolic links" in refusal(lambda: load(images_in(parted), cache))


def remove(folder: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda folder: remove(folder, "train", "test"),
            "{folder}: found 0 class directories; allowed are two or more, each with the images of "
            "one class in it",
        ),
        (
            lambda folder: remove(folder, ""),
            "{folder}: cannot be listed (No such file or directory); data.path (or --data, or "
            "IGKD_DATA) must name the folder with one directory a class",
        ),
        (
            lambda folder: remove(folder, "test"),
            "{folder}: found the folders train; allowed are exactly train and test, each with one "
            "directory a class, or the class directories themselves (validation is cut from the "
            "training part: data.validation)",
        ),
        (
            lambda folder: shutil.copytree(folder / "test", folder / "val"),
            "{folder}: found the folders test, train, val; allowed are exactly train and test, "
            "each with one directory a class, or the class directories themselves (validation is "
            "cut from the training part: data.validation)",
        ),
        (
            lambda folder: remove(folder, "test/cat", "test/bee"),
            "{folder}/test: lacks the class directories bee, cat; train and test must hold the "
            "same ones",
        ),
        (
            lambda folder: write_image(folder / "test" / "dog" / "1.png", 0),
            "{folder}/train: lacks the class directories dog; train and test must hold the same "
            "ones",
        ),
        (
            lambda folder: remove(folder, "train/bee", "train/cat", "test/bee", "test/cat"),
            "{folder}/train: found 1 class directories; allowed are two or more, each with the "
            "images of one class in it",
        ),
    ],
)
def test_another_layout_is_refused(
    parted: Path, cache: Path, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(parted)
    for refused in (load, datasets.check):
        found = refusal(lambda load_it=refused: load_it(images_in(parted), cache))  # type: ignore[misc]
        assert found == said.format(folder=parted)
    assert not cache.exists()


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images_is_refused(parted: Path, cache: Path, part: str) -> None:
    for path in (parted / part / "bee").iterdir():
        path.rename(path.with_suffix(".txt"))
    said = refusal(lambda: load(images_in(parted), cache))
    assert said.startswith(
        f"{parted}/{part}/bee: holds no image; put images of that class into it, or remove it "
    )


def test_a_class_too_small_to_be_cut_is_refused(folder: Path, cache: Path) -> None:
    for i in range(6):
        (folder / "bee" / f"{i:02}.png").unlink()
    assert refusal(lambda: load(images_in(folder), cache)) == (
        f"{folder}: found fewer than 5 images of bee (4); the test part is 20 % of each class, so "
        "allowed are 5 or more, or a folder with train and test in it"
    )


def test_a_folder_that_is_a_file_is_refused(folder: Path, cache: Path) -> None:
    path = folder / "cat" / "00.png"
    assert refusal(lambda: load(images_in(path), cache)).startswith(
        f"{path}: cannot be listed (Not a directory)"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 2}, "training labels: found [2]; allowed are 0 to 1"),
        ({"classes": 4}, "training labels: no image of the classes [3] of 4"),
        ({"validation": 29}, "data.validation: 29 of 30 images asked for"),
        ({"limit": 31}, "data.limit: 31 of 30 images asked for"),
    ],
)
def test_labels_are_checked_before_anything_is_decoded(
    parted: Path, cache: Path, opened: list[str], options: dict[str, Any], said: str
) -> None:
    assert refusal(lambda: datasets.check(images_in(parted, **options), cache)).startswith(said)
    datasets.check(images_in(parted), cache)
    assert opened == [] and not cache.exists()


def test_a_limit_draws_from_the_decoded_images(parted: Path, cache: Path) -> None:
    data = load(images_in(parted, limit=15), cache)
    assert np.bincount(data.labels).tolist() == [5, 5, 5]
    assert [level // EACH for level in levels(data.images)] == data.labels.tolist()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path


def test_a_tilde_is_the_users_home(folder: Path, cache: Path, home: Path) -> None:
    assert len(load(images_in(Path("~/images")), cache).images) == 24


def test_names_that_are_no_text_are_told_apart(parted: Path, cache: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    shutil.copy(parted / "train" / "cat" / "00.png", parted / "train" / "cat" / name)
    assert len(load(images_in(parted), cache).images) == 31
