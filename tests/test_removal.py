"""`igkd delete`: all of one study goes, nothing of another, and a kill on the way is mended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from igkd_search import database, queued, registry, removal, schema, searches, workers
from igkd_search.errors import StorageError
from igkd_search.identities import this_process
from igkd_search.schema import file_parts, metadata
from tests.databases import KINDS, prepared_url
from tests.test_worker import FakeTraining, Search, study_of


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[database.Database]:
    opened = database.connect(prepared_url(request.param, tmp_path))
    yield opened
    opened.close()


def searched(base: database.Database, home: Path, name: str) -> Path:
    """A study with something of everything; the folder of its checkpoints."""
    study = study_of(2).model_copy(update={"name": name})
    search = Search(base, home / "checkpoints", study).begin(study)
    queued.add(base, name, [{"kd_weight": 0.5}])
    searches.ask_to_stop(base, name)
    base.keep_file(name, "teacher", b"the weights that both share")
    base.keep_file(name, "own", name.encode())
    with pytest.raises(KeyboardInterrupt):
        search.run(FakeTraining({(2, 3): KeyboardInterrupt()}))
    stored = optuna.load_study(study_name=name, storage=base.storage)
    store = optuna.artifacts.FileSystemArtifactStore(home / "artifacts")
    (home / "picture.png").write_bytes(b"pixels")
    for owner in (stored, stored.trials[1]):  # the second still runs
        optuna.artifacts.upload_artifact(
            artifact_store=store,
            file_path=str(home / "picture.png"),
            study_or_trial=owner,
            storage=base.storage,
        )
    (home / "logs" / name).mkdir(parents=True)
    (home / "logs" / name / "worker-0.log").write_text("hello")
    record, _ = registry.stored(base, name)
    return home / "checkpoints" / registry.checkpoints_of(record)


@pytest.fixture
def home(base: database.Database, tmp_path: Path) -> Path:
    """The home of two studies, `a` and `b`."""
    found = tmp_path / "home"
    (found / "artifacts").mkdir(parents=True)
    for name in ("a", "b"):
        assert list(searched(base, found, name).rglob("epoch-*"))
    return found


def content(base: database.Database) -> dict[str, list[Any]]:
    """Every row of every table, Optuna's too."""
    with base.transaction() as connection:
        names = sa.inspect(connection).get_table_names()
        rows = {name: connection.execute(sa.text(f'SELECT * FROM "{name}"')) for name in names}
        return {name: sorted(map(str, found)) for name, found in rows.items()}


def of_study(base: database.Database, name: str) -> int:
    """How many rows of our tables name a study."""
    tables = [table for table in metadata.sorted_tables if "study_name" in table.c]
    with base.transaction() as connection:
        counts = [
            connection.scalar(
                sa.select(sa.func.count()).select_from(table).where(table.c.study_name == name)
            )
            for table in tables
        ]
    return sum(count or 0 for count in counts)


def test_what_would_go_is_told_and_nothing_goes(base: database.Database, home: Path) -> None:
    before = content(base)
    found = removal.survey(base, "a", home)
    assert found.rows == {
        "trials": 2,
        "slots": 2,
        "attempts": 2,
        "queued configurations": 1,
        "workers in the register": 1,
        "rows of the search": 1,
        "files": 4,
    }
    assert {path.parent.name for path in found.paths} == {"checkpoints", "logs", "artifacts"}
    assert len(found.paths) == 4, "an artifact of the study, and one of a trial"
    assert found.file_bytes == 1, "both studies answered alike, and have the same teacher"
    assert found.path_bytes > 0
    assert content(base) == before


def test_all_of_a_study_goes_and_nothing_of_another(base: database.Database, home: Path) -> None:
    paths = removal.survey(base, "a", home).paths
    kept = removal.survey(base, "b", home)
    rows = of_study(base, "b")
    assert removal.remove(base, "a", home).study == "a"
    assert not [path for path in paths if path.exists()]
    assert of_study(base, "a") == 0 and of_study(base, "b") == rows
    assert base.study_names() == ["b"] == optuna.get_all_study_names(base.storage)
    left = removal.survey(base, "b", home)
    assert (left.rows, left.paths) == (kept.rows, kept.paths)
    assert base.read_file("b", "teacher") == b"the weights that both share"
    with pytest.raises(StorageError, match="no study 'a'"):
        removal.remove(base, "a", home)
    removal.remove(base, "b", home)
    with base.transaction() as connection:
        assert connection.scalars(sa.select(file_parts.c.sha256)).all() == []
    empty = {name for name, found in content(base).items() if not found}
    standing = {"alembic_version", "igkd_schema", "version_info"}
    assert set(content(base)) - empty == standing


WRITES: list[tuple[Any, str]] = [
    (removal, "_remove_paths"),
    (optuna, "delete_study"),
    (database, "forget_unnamed"),
]


def die_at(patched: pytest.MonkeyPatch, owner: Any, name: str, after: bool) -> None:
    original = getattr(owner, name)

    def die(*arguments: Any, **options: Any) -> None:
        if after:
            original(*arguments, **options)
        raise KeyboardInterrupt

    patched.setattr(owner, name, die)


def test_a_kill_before_or_after_any_write_is_mended_by_the_same_command(
    base: database.Database, home: Path
) -> None:
    for owner, name in WRITES:
        for after in (False, True):
            with pytest.MonkeyPatch.context() as patched:
                die_at(patched, owner, name, after)
                with pytest.raises(KeyboardInterrupt):
                    removal.remove(base, "a", home)
            assert "a" in base.study_names(), name
    removal.remove(base, "a", home)
    assert of_study(base, "a") == 0
    assert optuna.get_all_study_names(base.storage) == ["b"]


def test_a_study_at_work_stays(base: database.Database, home: Path) -> None:
    register = workers.Register(base, "a", this_process(), workers.Machine("cpu", None, {}))
    register.join()
    before = content(base)
    with pytest.raises(StorageError, match="'igkd stop a', wait until 'igkd status a' shows none"):
        removal.remove(base, "a", home)
    assert content(base) == before
    register.leave()
    removal.remove(base, "a", home)


def test_what_a_copy_goes_on_from_outlives_its_original(
    base: database.Database, home: Path, tmp_path: Path
) -> None:
    copied = database.connect(f"sqlite:///{tmp_path / 'copy.db'}")
    record = base.read_study("a")
    assert record is not None
    before = removal.survey(base, "a", home).paths
    assert before
    removal.keep_for_copy(copied, record, home)
    assert removal.survey(base, "a", home).paths == []
    removal.remove(base, "a", home)
    assert all(path.exists() for path in before)
    copied.write_study("a", record.question, record.trials)
    with copied.transaction() as connection:
        connection.execute(sa.update(schema.studies).values(created=record.created))
    theirs = {path for path in before if path.parent.name != "artifacts"}  # no trials are here
    assert theirs <= set(removal.survey(copied, "a", home).paths), "they are the copy's now"
    copied.close()
