"""A study taken out of its database, with what it left on this host's disk (`igkd delete`).

Its row goes last, so that whoever is killed on the way types the command again. Materials stay:
other studies may share them.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy as sa

from igkd_search import artifacts, database, registry, workers
from igkd_search import files as files_
from igkd_search.errors import StorageError
from igkd_search.identities import this_process
from igkd_search.schema import attempts, files, queue, searches, slots, studies
from igkd_search.schema import workers as register

_TABLES = {
    "slots": slots,
    "attempts": attempts,
    "queued configurations": queue,
    "workers in the register": register,
    "rows of the search": searches,
}

_OTHERS = sa.text(
    "SELECT a.key FROM trial_system_attributes a JOIN trials t ON t.trial_id = a.trial_id"
    " WHERE t.study_id <> :mine AND a.key LIKE :like"
    " UNION SELECT key FROM study_system_attributes WHERE study_id <> :mine AND key LIKE :like"
)
"""The artifacts of all other studies of the database, by their attributes."""


@dataclass(frozen=True)
class Remains:
    """What there is of a study: rows by table, files in the database, and paths on this host."""

    study: str
    rows: dict[str, int]
    file_bytes: int
    """Of those files that no other study has too."""
    paths: list[Path]
    path_bytes: int


def survey(base: database.Database, name: str, home: Path) -> Remains:
    """What `remove` would remove; StorageError when the database does not hold the study."""
    record, _ = registry.stored(base, name)
    rows = {"trials": len(_trials(base, name))}
    with base.transaction() as connection:
        for label, table in {**_TABLES, "files": files}.items():
            count = sa.select(sa.func.count()).where(table.c.study_name == name)
            rows[label] = connection.scalar(count) or 0
        theirs = sa.select(files.c.sha256).where(files.c.study_name != name)
        mine = sa.select(files.c.sha256, files.c.bytes).where(files.c.study_name == name)
        own = mine.where(files.c.sha256.not_in(theirs)).distinct()
        file_bytes = sum(row.bytes for row in connection.execute(own))
    places = (
        []
        if _belongs_to_a_copy(base, record, home)
        else [
            home / "checkpoints" / registry.checkpoints_of(record),
            _mark(record, home),
            home / "logs" / name,
            *(home / "artifacts" / artifact for artifact in _artifacts(base, name)),
        ]
    )
    paths = [path for path in places if path.exists()]
    return Remains(name, rows, file_bytes, paths, sum(map(_size, paths)))


def keep_for_copy(target: database.Database, record: database.StudyRow, home: Path) -> None:
    """Note that what lies under `home` belongs to a study's copy from now on.

    A copy goes on from the same checkpoints, which must outlive the removal of the original.
    """
    mark = _mark(record, home)
    with StorageError.when_writing(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        files_.replace(mark, database.masked(target.url).encode())


def _belongs_to_a_copy(base: database.Database, record: database.StudyRow, home: Path) -> bool:
    mark = _mark(record, home)
    return mark.exists() and mark.read_text() != database.masked(base.url)


def _mark(record: database.StudyRow, home: Path) -> Path:
    return home / "checkpoints" / f"{registry.checkpoints_of(record)}.copied"


def check(base: database.Database, name: str) -> None:
    """StorageError while workers of the study are at work, as far as the register knows."""
    workers.check_idle(base, name, this_process(), "delete it")


def remove(base: database.Database, name: str, home: Path) -> Remains:
    """Remove a study and return what there was of it; StorageError as `check` and `survey`."""
    check(base, name)
    found = survey(base, name, home)
    _remove_paths(found.paths)
    with suppress(KeyError):  # an interrupted removal came so far
        optuna.delete_study(study_name=name, storage=base.storage)
    base.patience(lambda: _remove_rows(base, name))
    return found


def _remove_rows(base: database.Database, name: str) -> None:
    with base.transaction() as connection:
        for table in (*_TABLES.values(), files):
            connection.execute(sa.delete(table).where(table.c.study_name == name))
        database.forget_unnamed(connection)
        connection.execute(sa.delete(studies).where(studies.c.study_name == name))


def _remove_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        with StorageError.when_writing(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _trials(base: database.Database, name: str) -> list[optuna.trial.FrozenTrial]:
    try:
        study = optuna.load_study(study_name=name, storage=base.storage)
    except KeyError:
        return []
    return study.get_trials(deepcopy=False)


def _artifacts(base: database.Database, name: str) -> list[str]:
    """The names under which Optuna's artifact store keeps what belongs to this study alone.

    A copy within the same database has the same artifacts.
    """
    with suppress(KeyError):
        number = base.storage.get_study_id_from_name(name)
        attributes = [base.storage.get_study_system_attrs(number)]
        attributes += [trial.system_attrs for trial in _trials(base, name)]
        keys = [key for each in attributes for key in each if key.startswith(artifacts.PREFIX)]
        with base.transaction() as connection:
            theirs = set(
                connection.scalars(_OTHERS, {"mine": number, "like": f"{artifacts.PREFIX}%"})
            )
        names = [key.removeprefix(artifacts.PREFIX) for key in keys if key not in theirs]
        # it comes from the database, and must not lead out of the folder
        return [name for name in names if name and name == Path(name).name and name != ".."]
    return []


def _size(path: Path) -> int:
    found = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in found if each.is_file())
