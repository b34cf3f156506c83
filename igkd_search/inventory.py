"""What lies in a vault, which studies name it, and removing what none names.

Entries are shared by all studies that ask for the same, so only the database knows what is still
needed: each study's facts list the entries that its materials came from.
"""

import contextlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from igkd_search import database, users, vault
from igkd_search.errors import StorageError

log = logging.getLogger(__name__)

State = Literal["finished", "building", "left unfinished"]
_ENTRY = re.compile(rf"[0-9a-f]{{16}}({re.escape(vault.PARTIAL)})?")


@dataclass(frozen=True)
class Entry:
    """One entry as found: where it is, what it takes, who names it."""

    path: Path
    kind: str
    digest: str
    """The first 16 hex digits of that of its inputs."""
    bytes: int
    created: datetime
    """When it was finished, in UTC; of an unfinished one, when it was last written to."""
    inputs: Mapping[str, Any]
    """What it was made from; empty of an unfinished one, or where the manifest is damaged."""
    state: State
    used_by: tuple[str, ...] = ()
    """The studies that name it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        plain = {**vars(self), "path": str(self.path), "created": self.created.isoformat()}
        return {**plain, "inputs": dict(self.inputs), "used_by": list(self.used_by)}


@dataclass(frozen=True)
class Inventory:
    """Everything in a vault; `unaccounted` are the studies that do not say what they use."""

    root: Path
    entries: tuple[Entry, ...]
    unaccounted: tuple[str, ...]

    def unused(self) -> list[Entry]:
        """What no study names and no process builds."""
        return [found for found in self.entries if not found.used_by and found.state != "building"]

    def as_dict(self, removed: Sequence[Entry] | None = None) -> dict[str, Any]:
        """Plain JSON, with what was just removed when anything was to be."""
        plain = {
            "root": str(self.root),
            "bytes": sum(entry.bytes for entry in self.entries),
            "entries": [entry.as_dict() for entry in self.entries],
            "unaccounted": list(self.unaccounted),
        }
        if removed is None:
            return plain
        freed = sum(entry.bytes for entry in removed)
        return {**plain, "removed": [entry.as_dict() for entry in removed], "freed": freed}


def survey(store: vault.Vault, base: database.Database | None) -> Inventory:
    """Everything in the vault, by kind and age, with the studies of the storage that name it."""
    naming: dict[str, list[str]] = {}
    unaccounted = []
    for study, named in _named(base):
        if named is None:
            unaccounted.append(study)
        for name in named or ():
            naming.setdefault(name, []).append(study)
    entries = sorted(
        _entries(store, naming), key=lambda found: (found.kind, found.created, found.path)
    )
    return Inventory(store.root, tuple(entries), tuple(unaccounted))


def prune(store: vault.Vault, base: database.Database | None) -> list[Entry]:
    """Remove every entry that no study of the storage names; returns the removed ones.

    StorageError, with nothing removed, when no database can say what is needed, while a process
    prepares a study that may not be registered yet, or when a study does not say what it uses.
    """
    if not survey(store, None).entries:
        return []
    if base is None:
        raise StorageError(
            f"{store.root}: no database is there to say what its studies still need, so nothing "
            "was removed; name the database with --storage, or delete the folder yourself"
        )
    with users.alone(store.root):
        # read only now: whoever came in before has registered its study meanwhile
        found = survey(store, base)
        if found.unaccounted:
            raise _unaccounted(found.unaccounted)
        removed = []
        for entry in found.unused():
            if store.remove(entry.path):
                removed.append(entry)
            else:
                log.info("%s is being built; it stays", entry.path)
        return removed


def _unaccounted(studies: tuple[str, ...]) -> StorageError:
    one = len(studies) == 1
    return StorageError(
        f"{'study' if one else 'studies'} {', '.join(studies)} {'does' if one else 'do'} not say "
        "which entries are needed (prepared by an older igkd-search), so nothing was removed; to "
        f"have them written down, type: {'; '.join(f'igkd prepare {study}' for study in studies)}; "
        "where that cannot be done any more, remove single folders of the vault yourself"
    )


def _named(base: database.Database | None) -> Iterator[tuple[str, list[str] | None]]:
    """Each study and the entries it names; None where it does not say."""
    if base is None:
        return
    for study in base.study_names():
        record = base.read_study(study)
        if record is not None:
            yield study, record.facts.get("entries")


def _entries(store: vault.Vault, naming: Mapping[str, list[str]]) -> Iterator[Entry]:
    for path in store.root.glob("*/*"):
        if _ENTRY.fullmatch(path.name) and path.is_dir():
            kind, digest = path.parent.name, path.name.removesuffix(vault.PARTIAL)
            state, (size, written) = _state(path), _measure(path)
            created, inputs = _manifest(path) if state == "finished" else (None, {})
            names = tuple(naming.get(f"{kind}/{digest}", ()))
            yield Entry(path, kind, digest, size, created or written, inputs, state, names)


def _state(path: Path) -> State:
    if path.suffix != vault.PARTIAL and (path / vault.MANIFEST).exists():
        return "finished"
    try:
        with vault.trying(path) as free:
            return "left unfinished" if free else "building"
    except OSError:  # not this account's to try, so not its to remove
        return "building"


def _measure(path: Path) -> tuple[int, datetime]:
    """Bytes of all files, and when something was last written; files may vanish meanwhile."""
    size, newest = 0, 0.0
    for parent, _, names in os.walk(path):  # which passes over a folder that was renamed meanwhile
        for file in (parent, *(os.path.join(parent, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(file)
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                newest = max(newest, status.st_mtime)
    return size, datetime.fromtimestamp(newest, UTC).replace(microsecond=0)


def _manifest(path: Path) -> tuple[datetime | None, Mapping[str, Any]]:
    """When an entry was finished and what it was made from, as far as its manifest can be read."""
    try:
        manifest = json.loads((path / vault.MANIFEST).read_bytes())
        return datetime.fromisoformat(manifest["created"]), dict(manifest["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}
