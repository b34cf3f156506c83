"""Everything that a search needs, looked at in turn: installation, home, passwords, database.

Each check stands by itself, so that one that fails hides none of the others. Nothing is changed.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from igkd_search import filesystems, installation
from igkd_search.errors import StorageError
from igkd_search.findings import Finding, fault, guarded, ok, warning

_LITTLE_BYTES = 5e9
"""Below this free space a warning: a bank and its checkpoints may take as much."""
_NOTHING_BYTES = 1e8
_UNFIT = (ImportError, AttributeError, OSError)
"""What importing packages raises that do not fit each other."""
_REINSTALL = f"pip install --upgrade --force-reinstall {installation.DISTRIBUTION}"
_ELSEWHERE = "--home FOLDER, or IGKD_HOME, on a disk of this host"


def examine(
    url: Callable[[], str],
    home: Path,
    study: str | None = None,
    storage_file: Path | None = None,
    typed: bool = False,
) -> list[Finding]:
    """All findings, in the order in which one mends them.

    `url` tells the database's URL, or raises StorageError; `storage_file` is the file that it reads
    it from, if it does, `typed` whether it stood in the command line.
    """
    found = list(installation.examine())
    found += guarded("home", lambda: _home(home), (OSError,), _ELSEWHERE)
    found += _passwords(storage_file)
    found += guarded("database", lambda: _database(url, study, typed), _UNFIT, _REINSTALL)
    return found


def _database(ask: Callable[[], str], study: str | None, typed: bool) -> Iterator[Finding]:
    # here, since a broken Optuna or driver is a finding as well
    from igkd_search import database_health

    try:
        url = ask()
    except StorageError as error:
        yield fault("database", str(error), "--storage, or IGKD_STORAGE, with a URL")
        return
    found = list(database_health.examine(url, typed))
    yield from found
    if study is not None and not any(one.state == "fault" for one in found):
        yield from database_health.examine_study(url, study)


def _home(home: Path) -> Iterator[Finding]:
    place, kind = filesystems.standing(home), filesystems.kind_of(home)
    there = f"{home}" if home.exists() else f"{home} (not there yet)"
    if not place.is_dir():
        yield fault("home", f"{there}: {place} is no folder", _ELSEWHERE)
        return
    why = filesystems.refusal(place)
    if why:
        yield fault("home", f"{there}: nothing can be written in {place} ({why})", _ELSEWHERE)
        return
    shared = ", shared by hosts: good for materials" if filesystems.is_network(kind) else ""
    yield ok("home", f"{there}: {kind}{shared}")
    yield _disk(home, place)


def _disk(home: Path, place: Path) -> Finding:
    free, used = shutil.disk_usage(place).free, _bytes_below(home)
    found = f"{free / 1e9:.1f} GB free; {used / 1e9:.1f} GB are in use in {home}"
    room = "igkd materials --prune   removes what no study names; or another --home"
    if free < _NOTHING_BYTES:
        return fault("disk", found, room)
    return warning("disk", found, room) if free < _LITTLE_BYTES else ok("disk", found)


def _bytes_below(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:  # a worker removed it meanwhile
                continue
    return total


def _passwords(storage_file: Path | None) -> Iterator[Finding]:
    asked = os.environ.get("PGPASSFILE")
    home = Path.home() / ".pgpass"
    passfile = Path(asked) if asked else home if home.exists() else None
    for name, file in (("storage file", storage_file), ("PGPASSFILE", passfile)):
        if file is not None:
            yield _secrecy(name, file)


def _secrecy(name: str, file: Path) -> Finding:
    """Whether a file with passwords can be read by its owner alone."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return fault(name, f"{file}: {error.strerror}", f"another path, or write {file}")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"{file}: others may read it ({stat.filemode(mode)})"
        ignored = "; Postgres' library ignores it so" if name == "PGPASSFILE" else ""
        return warning(name, f"{found}{ignored}", f"chmod 600 {file}")
    return ok(name, f"{file}: its owner's alone")
