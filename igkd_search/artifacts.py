"""What a trial leaves to look at, kept with the study's files and drawn when somebody looks.

A worker keeps numbers and pixels, some kB in the database, so that any host shows the pictures of
every trial; the PNG that a reader asks for is made then, which costs no training any time. To
Optuna they are artifacts of the trial, to its dashboard too.
"""

import functools
import io
import json
import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from igkd_search import database, documents
from igkd_search.errors import StorageError
from igkd_search.schema import files

log = logging.getLogger(__name__)

KINDS = ("learning_curves", "confusion_matrix", "overlays")
"""What may be kept of a trial, in the order in which it is shown; drawn by `trial_figures`."""
PREFIX = "artifacts:"
"""How the system attributes begin by which Optuna names the artifacts of a trial."""
_NAMESPACE = uuid.UUID("5f0c7a0e-6f0e-4f61-9c5e-0b7e1a3d2c41")
_drawing = threading.Lock()  # matplotlib's caches of fonts and texts are not made for threads


def kept(
    record: database.StudyRow, number: int, documents_: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and system attributes by which a trial keeps these documents, named by their kinds.

    The names depend on the study, the trial and the kind alone, so that what an attempt that died
    has left is replaced by the next.
    """
    contents, attributes = {}, {}
    for kind, content in documents_.items():
        assert kind in KINDS, kind
        identity = _identity(record, number, kind)
        contents[_file_of(number, kind, identity)] = content
        meta = {
            "artifact_id": identity,
            "filename": f"{kind}.png",
            "mimetype": "image/png",
            "encoding": None,
        }
        attributes[PREFIX + identity] = json.dumps(meta)
    return contents, attributes


def named(system_attributes: Mapping[str, object], number: int) -> set[str]:
    """The files that a trial names by its system attributes, and others that it might."""
    ids = [key.removeprefix(PREFIX) for key in system_attributes if key.startswith(PREFIX)]
    return {_file_of(number, kind, identity) for kind in KINDS for identity in ids}


def documents_of(
    base: database.Database, study: str, number: int, kinds: Sequence[str] = KINDS
) -> dict[str, Any]:
    """What pictures of these kinds are drawn from, by kind; without what is no document.

    StorageError when a kept file is damaged.
    """
    found = {}
    for kind in kinds:
        for _, name in _names(base, f"{_folder(number)}/{kind}-%.json", study):
            if (content := base.read_file(study, name)) is not None:
                with suppress(ValueError):
                    found[kind] = documents.load(content)
    return found


class Store:
    """Optuna's artifact store: pictures of trials from the database, all else from a folder.

    What people add in the dashboard is written to the folder. It works on a database that is open
    to be read only.
    """

    def __init__(self, base: database.Database, folder: Path) -> None:
        self._base = base
        self._folder = folder

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The content of an artifact; ArtifactNotFound where there is none."""
        for name in _names(self._base, f"%-{_checked(artifact_id)}.json"):
            return io.BytesIO(_draw(self._base, *name))
        return self._others().open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep an artifact in the folder, which is made where it is missing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._others().write(_checked(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact from the folder; ArtifactNotFound where there is none.

        StorageError for a picture of a trial: its copies have it too, and its name would stay.
        """
        names = _names(self._base, f"%-{_checked(artifact_id)}.json")
        if names:
            study = names[0][0]
            raise StorageError(
                f"the artifact {artifact_id} is a picture of study '{study}' and goes with it: "
                f"igkd delete {study}"
            )
        self._others().remove(artifact_id)

    def _others(self) -> FileSystemArtifactStore:
        if not self._folder.is_dir():
            raise ArtifactNotFound("not found")
        return FileSystemArtifactStore(self._folder)


def _checked(artifact_id: str) -> str:
    """The id, which comes from a browser, where it can be one; else ArtifactNotFound."""
    try:
        return str(uuid.UUID(artifact_id))
    except ValueError:
        raise ArtifactNotFound("not found") from None


def _identity(record: database.StudyRow, number: int, kind: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, json.dumps([record.name, record.created, number, kind])))


def _folder(number: int) -> str:
    return f"trial-{number:05d}"


def _file_of(number: int, kind: str, identity: str) -> str:
    return f"{_folder(number)}/{kind}-{identity}.json"


def _names(
    base: database.Database, pattern: str, study: str | None = None
) -> list[tuple[str, str]]:
    """(study, name) of the files whose names are like this."""
    # _ stands for any one letter, which does no harm here
    query = sa.select(files.c.study_name, files.c.name).where(files.c.name.like(pattern))
    if study is not None:
        query = query.where(files.c.study_name == study)
    with base.transaction() as connection:
        if not database.has(connection, files):
            return []
        return [(row.study_name, row.name) for row in connection.execute(query)]


def _draw(base: database.Database, study: str, name: str) -> bytes:
    """The PNG of one kept document; ArtifactNotFound when it cannot be drawn."""
    content, record = base.read_file(study, name), base.read_study(study)
    if content is None:
        raise ArtifactNotFound("not found")
    names = () if record is None else tuple(record.facts.get("class_names", ()))
    folder, _, rest = name.partition("/")
    number, kind = int(folder.removeprefix("trial-")), rest.partition("-")[0]
    with _drawing:
        try:
            return _drawn(kind, number, content, names)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("%s of study '%s' cannot be drawn: %r", name, study, error)
            raise ArtifactNotFound("not found") from error


@functools.lru_cache(maxsize=64)
def _drawn(kind: str, number: int, content: bytes, class_names: tuple[str, ...]) -> bytes:
    from igkd_search import trial_figures  # matplotlib takes a second, and workers draw nothing

    return trial_figures.draw(kind, number, documents.load(content), class_names)
