"""What no study names is removed, and nothing else: not what is named, built, or not yet known."""

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from igkd_search import database, inventory, users
from igkd_search.errors import StorageError
from igkd_search.vault import Vault
from tests import databases
from tests.children import child

BUILDER = """
import sys
from pathlib import Path
from igkd_search import users
from igkd_search.vault import Vault
def build(folder):
    (folder / "half").write_bytes(bytes(7))
    print("building", flush=True)
    sys.stdin.readline()
with users.using(Path(sys.argv[1])):
    Vault(Path(sys.argv[1])).entry("overlays", {"steps": 9}, build)
"""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[database.Database]:
    opened = database.connect(databases.prepared_url("sqlite", tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Vault:
    """A vault of three finished entries and one that was left unfinished."""
    made = Vault(tmp_path / "vault")
    for kind, size in (("teacher", 100), ("overlays", 20), ("targets", 3)):
        made.entry(kind, {"size": size}, writes(size))
    with pytest.raises(RuntimeError):
        made.entry("targets", {"size": 50}, interrupted)
    return made


def writes(size: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "bytes").write_bytes(bytes(size))

    return build


def interrupted(folder: Path) -> None:
    writes(50)(folder)
    raise RuntimeError("killed")


def register(base: database.Database, name: str, *entries: str) -> None:
    base.write_study(name, {}, 1)
    base.update_facts(name, entries=list(entries))


def named(store: Vault, kind: str, size: int) -> str:
    return f"{kind}/{store.folder(kind, {'size': size}).name}"


def names(found: list[inventory.Entry]) -> set[str]:
    return {f"{entry.kind}/{entry.digest}" for entry in found}


@pytest.fixture
def building(store: Vault) -> Iterator["subprocess.Popen[str]"]:
    """A process that prepares, in the midst of an entry."""
    with child(BUILDER, store.root) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "building\n"
        yield process
        process.stdin.close()


# --- listing


def test_everything_is_listed_with_what_it_takes(store: Vault, base: database.Database) -> None:
    register(base, "b", named(store, "teacher", 100))
    register(base, "a", named(store, "teacher", 100), "latency/of-another-host")
    found = inventory.survey(store, base)
    assert sorted((entry.kind, entry.state) for entry in found.entries) == [
        ("overlays", "finished"),
        ("targets", "finished"),
        ("targets", "left unfinished"),
        ("teacher", "finished"),
    ]
    teacher = found.entries[-1]
    assert teacher.path == store.folder("teacher", {"size": 100})
    assert teacher.inputs == {"size": 100}
    assert teacher.used_by == ("a", "b")
    manifest = (teacher.path / "manifest.json").stat().st_size
    assert teacher.bytes == 100 + manifest
    assert timedelta(0) <= datetime.now(UTC) - teacher.created < timedelta(minutes=10)
    (partial,) = [entry for entry in found.entries if entry.state == "left unfinished"]
    assert (partial.bytes, partial.used_by) == (50, ())
    assert names([partial]) == {named(store, "targets", 50)}


def test_the_listing_is_plain_json(store: Vault, base: database.Database) -> None:
    register(base, "a", named(store, "teacher", 100))
    found = json.loads(json.dumps(inventory.survey(store, base).as_dict()))
    assert set(found) == {"root", "bytes", "entries", "unaccounted"}
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])
    entry = found["entries"][-1]
    assert entry == {
        "path": str(store.folder("teacher", {"size": 100})),
        "kind": "teacher",
        "digest": store.folder("teacher", {"size": 100}).name,
        "bytes": entry["bytes"],
        "created": entry["created"],
        "inputs": {"size": 100},
        "state": "finished",
        "used_by": ["a"],
    }
    assert datetime.fromisoformat(entry["created"]).tzinfo is not None
    unused = inventory.survey(store, base).unused()
    pruned = json.loads(json.dumps(inventory.survey(store, base).as_dict(unused)))
    assert len(pruned["removed"]) == 3
    assert pruned["freed"] == sum(entry["bytes"] for entry in pruned["removed"])


def test_a_vault_that_is_not_there_is_empty_and_not_made(tmp_path: Path) -> None:
    store = Vault(tmp_path / "vault")
    assert inventory.survey(store, None).entries == ()
    assert inventory.prune(store, None) == []
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_is_being_built_is_told_from_one_that_was_left(
    store: Vault, building: "subprocess.Popen[str]"
) -> None:
    def state() -> str:
        entries = inventory.survey(store, None).entries
        return next(entry.state for entry in entries if (entry.path / "half").exists())

    assert state() == "building"
    building.kill()
    building.wait()
    assert state() == "left unfinished"


def test_what_lost_its_manifest_is_listed_as_unfinished(store: Vault) -> None:
    # as when a removal was killed
    (store.folder("teacher", {"size": 100}) / "manifest.json").unlink()
    assert inventory.survey(store, None).entries[-1].state == "left unfinished"


def test_a_damaged_manifest_is_no_obstacle(store: Vault) -> None:
    (store.folder("teacher", {"size": 100}) / "manifest.json").write_text("{")
    teacher = inventory.survey(store, None).entries[-1]
    assert (teacher.state, teacher.inputs) == ("finished", {})
    assert datetime.now(UTC) - teacher.created < timedelta(minutes=10)


def test_strange_files_are_no_entries(store: Vault) -> None:
    before = inventory.survey(store, None)
    (store.root / "teacher" / "notes").mkdir()
    (store.root / "README").touch()
    (store.root / "cifar-10-batches-bin").mkdir()
    with users.using(store.root):
        assert inventory.survey(store, None) == before


# --- pruning


def test_prune_keeps_what_is_named_and_removes_the_rest(
    store: Vault, base: database.Database
) -> None:
    register(base, "a", named(store, "teacher", 100))
    register(base, "b", named(store, "overlays", 20))
    removed = inventory.prune(store, base)
    assert names(removed) == {named(store, "targets", 3), named(store, "targets", 50)}
    left = inventory.survey(store, base)
    assert names(list(left.entries)) == {named(store, "teacher", 100), named(store, "overlays", 20)}
    assert not any(entry.path.exists() for entry in removed)
    assert inventory.prune(store, base) == []


def test_an_unfinished_entry_of_a_study_is_kept(store: Vault, base: database.Database) -> None:
    register(base, "a", named(store, "targets", 50))
    assert len(inventory.prune(store, base)) == 3
    assert names(list(inventory.survey(store, base).entries)) == {named(store, "targets", 50)}


def test_what_was_pruned_is_built_again(store: Vault, base: database.Database) -> None:
    register(base, "a")
    inventory.prune(store, base)
    folder = store.entry("teacher", {"size": 100}, writes(100))
    assert (folder / "bytes").read_bytes() == bytes(100)


def test_prune_refuses_while_a_process_prepares(
    store: Vault, base: database.Database, building: "subprocess.Popen[str]"
) -> None:
    register(base, "a")
    before = inventory.survey(store, base)
    with pytest.raises(StorageError, match=r"a process is preparing .* nothing was removed"):
        inventory.prune(store, base)
    assert inventory.survey(store, base) == before
    building.communicate("\n")
    assert len(inventory.prune(store, base)) == 5


def test_a_killed_preparation_does_not_stop_prune(
    store: Vault, base: database.Database, building: "subprocess.Popen[str]"
) -> None:
    register(base, "a")
    building.kill()
    building.wait()
    assert len(inventory.prune(store, base)) == 5
    assert list((store.root / "users").iterdir()) == []


def test_a_builder_that_is_no_user_keeps_its_entry(store: Vault, base: database.Database) -> None:
    code = BUILDER.replace("users.using(Path(sys.argv[1]))", "open(sys.argv[1] + '/x', 'w')")
    with child(code, store.root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        assert len(inventory.prune(store, base)) == 4
        process.communicate("\n")
    assert [entry.state for entry in inventory.survey(store, base).entries] == ["finished"]


def test_prune_stops_at_a_study_that_does_not_say_what_it_uses(
    store: Vault, base: database.Database
) -> None:
    register(base, "new", named(store, "teacher", 100))
    base.write_study("old", {}, 1)
    base.update_facts("old", teacher_accuracy=0.9)
    before = inventory.survey(store, base)
    assert before.unaccounted == ("old",)
    with pytest.raises(
        StorageError,
        match=r"study old does not say .*: igkd prepare old; where",
    ):
        inventory.prune(store, base)
    base.write_study("older", {}, 1)
    with pytest.raises(StorageError, match="type: igkd prepare old; igkd prepare older"):
        inventory.prune(store, base)
    assert inventory.survey(store, base).entries == before.entries


def test_without_a_database_nothing_is_removed(store: Vault) -> None:
    before = inventory.survey(store, None)
    with pytest.raises(StorageError, match="--storage"):
        inventory.prune(store, None)
    assert inventory.survey(store, None) == before
