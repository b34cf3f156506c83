"""The `folder` source: one directory a class; files are listed and cut before any is decoded.

Either the folder holds the class directories, and 20 % of each class are set apart as test part; or
it holds exactly `train` and `test`, each with the same class directories. Class order is that of
the sorted names; rows are sorted by class, then by name. Images may lie deeper in a class
directory. Hidden files are left out; files whose extension is no image's too, and are counted.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igkd_search import decoding
from igkd_search.errors import DataError
from igkd_search.sources import TEST_SEED, TEST_SHARE, Labels

_PARTS = ("train", "test")
_NOT_CLASSES = {*_PARTS, "training", "testing", "val", "valid", "validation"}
_LEAST = 5  # images of a class, of which a test part of 20 % can have one


@dataclass(frozen=True)
class Files:
    """The image files of one part, in row order."""

    root: Path
    names: tuple[str, ...]
    """Relative to root, with slashes."""
    stamps: NDArray[np.int64]
    """Bytes and time of last change in ns (N, 2)."""
    labels: Labels
    class_names: tuple[str, ...]

    def digest(self) -> str:
        """What the decoded images depend on: names, sizes and times of all files (sha256)."""
        found = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        found.update(np.ascontiguousarray(self.stamps).data)
        return found.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> "Files":
        """The same part with these rows only."""
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, stamps=self.stamps[rows], labels=self.labels[rows])


@dataclass(frozen=True)
class Parts:
    """Both parts of a folder, and what is no part of it."""

    training: Files
    test: Files
    cut: bool
    """Whether the test part was cut here, for want of `train` and `test`."""
    ignored: Counter[str]
    """Extension -> files that were left out."""


def list_parts(path: str) -> Parts:
    """List a folder without opening a file.

    DataError names what is missing: the folder, class directories, images of a class.
    """
    root = _root(path)
    ignored: Counter[str] = Counter()
    found = _directories(root, ignored)
    if set(found) == set(_PARTS):
        classes = [_directories(root / part, ignored) for part in _PARTS]
        _check_same_classes(root, *classes)
        training, test = (_list_part(root, root / part, classes[0], ignored) for part in _PARTS)
        return Parts(training, test, cut=False, ignored=ignored)
    if found and set(found) <= _NOT_CLASSES:
        raise DataError(
            f"{root}: found the folders {', '.join(found)}; allowed are exactly train and test, "
            "each with one directory a class, or the class directories themselves (validation is "
            "cut from the training part: data.validation)"
        )
    whole = _list_part(root, root, found, ignored)
    _check_enough(whole)
    training_rows, test_rows = _cut(whole)
    return Parts(whole.take(training_rows), whole.take(test_rows), cut=True, ignored=ignored)


def class_names(path: str) -> tuple[str, ...]:
    """The class directories in the order of their labels."""
    found = _directories(_root(path), Counter())
    in_parts = set(found) == set(_PARTS)
    return tuple(_directories(_root(path) / "train", Counter()) if in_parts else found)


def decoder(
    files: Files, size: int, advance: Callable[[int], None]
) -> Callable[[int, int], NDArray[np.uint8]]:
    """What decodes the rows start to stop of a part, uint8 (stop - start, 3, size, size).

    DataError lists every file, of those rows and of all later ones, that is no whole image;
    `advance` hears how many of the later ones have been looked at.
    """

    def decode(start: int, stop: int) -> NDArray[np.uint8]:
        pixels, faults = _decode(files, size, start, stop)
        if not faults:
            return pixels
        for later in range(stop, len(files.names), stop - start):
            until = min(later + stop - start, len(files.names))
            faults += _decode(files, size, later, until)[1]
            advance(until - later)
        raise _unreadable(files.root, faults, len(files.names))

    return decode


def _decode(files: Files, size: int, start: int, stop: int) -> tuple[NDArray[np.uint8], list[str]]:
    names = files.names[start:stop]
    pixels, faults = decoding.decode_all([files.root / name for name in names], size)
    return pixels, [f"{names[row]}: {reason}" for row, reason in faults]


def _root(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _list_part(root: Path, folder: Path, classes: list[str], ignored: Counter[str]) -> Files:
    if len(classes) < 2:
        raise DataError(
            f"{folder}: found {len(classes)} class directories; allowed are two or more, each with "
            "the images of one class in it"
        )
    images = [_images(folder / name, ignored) for name in classes]
    files = [entry for of_class in images for entry in of_class]
    start = len(str(root)) + 1
    names = tuple(entry.path[start:].replace(os.sep, "/") for entry in files)
    labels = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in images])
    return Files(root, names, _stamps(root, names, files), labels, tuple(classes))


def _images(folder: Path, ignored: Counter[str]) -> list["os.DirEntry[str]"]:
    extensions, found = decoding.extensions(), []
    for entry in _walk(folder):
        if (extension := _extension(entry)) in extensions:
            found.append(entry)
        else:
            ignored[extension] += 1
    if not found:
        raise DataError(
            f"{folder}: holds no image; put images of that class into it, or remove it (their "
            f"names end in one of {' '.join(sorted(extensions))})"
        )
    return found


def _extension(entry: "os.DirEntry[str]") -> str:
    """In lower case, with its dot; the whole name where there is none."""
    return os.path.splitext(entry.name)[1].lower() or entry.name


def _stamps(
    root: Path, names: tuple[str, ...], files: list["os.DirEntry[str]"]
) -> NDArray[np.int64]:
    stamps, faults = np.zeros((len(files), 2), np.int64), []
    for row, entry in enumerate(files):
        try:
            status = entry.stat()
            stamps[row] = status.st_size, status.st_mtime_ns
        except OSError as error:  # a link that leads nowhere
            faults.append(f"{names[row]}: {error.strerror}")
    if faults:
        raise _unreadable(root, faults, len(files))
    return stamps


def _unreadable(root: Path, faults: list[str], files: int) -> DataError:
    listed = "".join(f"\n  {fault}" for fault in faults[:20])
    more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
    return DataError(
        f"{root}: {len(faults)} of {files} image files cannot be read; repair or remove them and "
        f"run again{listed}{more}"
    )


def _directories(folder: Path, ignored: Counter[str]) -> list[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); data.path (or --data, or IGKD_DATA) "
            "must name the folder with one directory a class"
        ) from error
    for entry in entries:
        if not entry.is_dir():
            ignored[_extension(entry)] += 1
    return sorted(entry.name for entry in entries if entry.is_dir())


def _walk(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    """Every file below a directory, links followed, in the order of their names."""
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path)
            elif entry.is_file() or entry.is_symlink():  # no sockets or pipes, which would block
                yield entry
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _check_same_classes(root: Path, training: list[str], test: list[str]) -> None:
    for part, own, others in (("test", test, training), ("train", training, test)):
        if lacking := sorted(set(others) - set(own)):
            raise DataError(
                f"{root / part}: lacks the class directories {', '.join(lacking[:5])}; train and "
                "test must hold the same ones"
            )


def _check_enough(whole: Files) -> None:
    counts = np.bincount(whole.labels)
    few = [
        f"{name} ({count})"
        for name, count in zip(whole.class_names, counts, strict=True)
        if count < _LEAST
    ]
    if few:
        raise DataError(
            f"{whole.root}: found fewer than {_LEAST} images of {', '.join(few[:5])}; the test "
            f"part is 20 % of each class, so allowed are {_LEAST} or more, or a folder with train "
            "and test in it"
        )


def _cut(whole: Files) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the training and of the test part, ascending; a class of n files gives n / 5.

    They are the lowest by a digest of seed and name, so that a file that is added or removed hardly
    moves others from one part to the other.
    """
    order = np.argsort(np.array([_key(name) for name in whole.names], np.uint64), kind="stable")
    in_test = np.zeros(len(order), bool)
    for label in range(len(whole.class_names)):
        of_class = order[whole.labels[order] == label]
        in_test[of_class[: round(TEST_SHARE * len(of_class))]] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def _key(name: str) -> int:
    text = f"{TEST_SEED}:{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
