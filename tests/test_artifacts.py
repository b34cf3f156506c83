"""Pictures of trials lie in the database, are drawn for whoever asks, and go with their study."""

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import download_artifact, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound

from igkd_search import (
    artifacts,
    copying,
    database,
    outcomes,
    registry,
    removal,
    slots,
    worker,
)
from igkd_search.errors import LeaseLost, StorageError
from tests.databases import KINDS as DATABASES
from tests.databases import Kind, prepared_url
from tests.test_worker import FakeTraining, Search, describe, record, study_of

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Search]:
    """Two trials of a search, read by all and changed by none."""
    folder = tmp_path_factory.mktemp("searched")
    base = database.connect(prepared_url("sqlite", folder))
    yield begun(base, folder)
    base.close()


def drawn(base: database.Database, study: str, number: int) -> dict[str, bytes]:
    """The pictures of a trial that can be drawn, as the dashboard asks for them."""
    store, found = artifacts.Store(base, Path("nowhere")), dict[str, bytes]()
    kept = [name for name in base.file_digests(study) if name.startswith(f"trial-{number:05d}/")]
    for kind in artifacts.KINDS:
        for name in kept:
            if f"/{kind}-" in name:
                with suppress(ArtifactNotFound):
                    found[f"{kind}.png"] = store.open_reader(name[-41:-5]).read()
    return found


def begun(base: database.Database, folder: Path) -> Search:
    search = Search(base, folder / "checkpoints", study_of(2)).begin(study_of(2))
    search.run(FakeTraining())
    return search


def test_optuna_lists_and_downloads_them(searched: Search, tmp_path: Path) -> None:
    store, storage = artifacts.Store(searched.base, tmp_path / "none"), searched.base.storage
    for trial in searched.trials:
        found = get_all_artifact_meta(trial, storage=storage)
        names = ["confusion_matrix.png", "learning_curves.png"]
        assert sorted(meta.filename for meta in found) == names
        assert {meta.mimetype for meta in found} == {"image/png"}
        for meta in found:
            path = tmp_path / f"{trial.number}-{meta.filename}"
            download_artifact(
                artifact_store=store, artifact_id=meta.artifact_id, file_path=str(path)
            )
            assert path.read_bytes().startswith(PNG)
    assert not (tmp_path / "none").exists(), "who only reads makes nothing"


def test_a_reader_that_may_not_write_sees_them(searched: Search) -> None:
    reader = database.connect(searched.base.url, read_only=True)
    found = drawn(reader, "s", 1)
    assert list(found) == ["learning_curves.png", "confusion_matrix.png"], "in order of KINDS"
    assert all(content.startswith(PNG) for content in found.values())
    assert drawn(reader, "s", 99) == drawn(reader, "other", 1) == {}
    drawn_from = artifacts.documents_of(reader, "s", 1)
    assert [f"{kind}.png" for kind in drawn_from] == list(found)
    assert "epoch" in artifacts.documents_of(reader, "s", 1, ["learning_curves"])["learning_curves"]
    reader.close()


@pytest.mark.parametrize(
    "identity", ["0f8fad5b-d9cb-469f-a165-70867728950e", "../../etc/passwd", "%", "deadbeef", ""]
)
def test_what_is_not_kept_is_not_found(searched: Search, tmp_path: Path, identity: str) -> None:
    (tmp_path / "artifacts").mkdir()
    store = artifacts.Store(searched.base, tmp_path / "artifacts")
    for ask in (store.open_reader, store.remove):
        with pytest.raises(ArtifactNotFound):
            ask(identity)


def test_what_people_add_lies_in_the_folder(searched: Search, tmp_path: Path) -> None:
    store, identity = artifacts.Store(searched.base, tmp_path / "artifacts"), str(uuid.uuid4())
    store.write(identity, io.BytesIO(b"mine"))
    assert (tmp_path / "artifacts" / identity).read_bytes() == b"mine"
    with store.open_reader(identity) as file:
        assert file.read() == b"mine"
    store.remove(identity)
    with pytest.raises(ArtifactNotFound):
        store.open_reader(identity)
    with pytest.raises(ArtifactNotFound):
        store.write("../outside", io.BytesIO(b"no"))


def test_no_picture_of_a_trial_can_be_removed_alone(searched: Search, tmp_path: Path) -> None:
    store = artifacts.Store(searched.base, tmp_path)
    before = drawn(searched.base, "s", 0)
    for meta in get_all_artifact_meta(searched.trials[0], storage=searched.base.storage):
        with pytest.raises(StorageError, match="goes with it: igkd delete s"):
            store.remove(meta.artifact_id)
    assert drawn(searched.base, "s", 0) == before != {}


@pytest.mark.parametrize("kind", DATABASES)
def test_they_are_kept_before_the_trial_is_told_and_small(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, sizes, tell = (
        database.connect(prepared_url(kind, tmp_path)),
        list[int](),
        optuna.Study.tell,
    )

    def spy(study: optuna.Study, trial: optuna.Trial, *rest: object) -> object:
        kept = [name for name in base.file_digests("s") if name.startswith("trial-00000")]
        sizes.append(sum(len(base.read_file("s", name) or b"") for name in kept))
        return tell(study, trial, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(optuna.Study, "tell", spy)
    begun(base, tmp_path)
    assert 0 < sizes[0] < 300_000
    base.close()


def test_a_picture_that_cannot_be_made_costs_no_trial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    search = Search(base, tmp_path, study_of(1)).begin(study_of(1))

    def show(config: object, seed: int) -> bytes:
        raise ValueError("no such colour")

    hired = worker.Worker(search.study, base, tmp_path, FakeTraining(), describe, show=show)
    hired.run(poll_seconds=0)
    search.check_budget(1)
    assert list(drawn(base, "s", 0)) == ["learning_curves.png", "confusion_matrix.png"]
    assert "no such colour" in caplog.text and "trial 0" in caplog.text
    base.close()


def test_the_next_attempt_replaces_what_one_that_died_has_kept(tmp_path: Path) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    registry.register(base, study_of(1))
    stored = base.read_study("s")
    assert stored is not None
    for accuracy in (0.25, 0.75):
        contents, attributes = artifacts.kept(stored, 0, outcomes.kept([record(1, accuracy)]))
        base.replace_files("s", contents)
    assert len(base.file_digests("s")) == len(attributes) == 2
    with base.engine.connect() as connection:
        parts = connection.exec_driver_sql("SELECT count(*) FROM igkd_file_parts").scalar()
    assert parts == 2, "nothing that no file names is left"
    (name,) = [each for each in contents if "curves" in each]
    assert json.loads(base.read_file("s", name) or b"")["accuracy"] == [0.75]
    assert set(contents) <= artifacts.named(attributes, 0)
    base.close()


def test_what_another_release_kept_in_its_own_way_is_not_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    begun(base, tmp_path)
    (name,) = [each for each in base.file_digests("s") if each.startswith("trial-00000/learning")]
    base.replace_files("s", {name: b'{"steps": 3}'})
    assert list(drawn(base, "s", 0)) == ["confusion_matrix.png"]
    base.replace_files("s", {name: b"no document"})
    assert list(artifacts.documents_of(base, "s", 0)) == ["confusion_matrix"]
    assert "learning_curves" in caplog.text and "cannot be drawn" in caplog.text
    with pytest.raises(ArtifactNotFound):
        artifacts.Store(base, tmp_path).open_reader(name[-41:-5])
    base.close()


def test_who_has_lost_the_slot_replaces_nothing(tmp_path: Path) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    registry.register(base, study_of(1))
    table = slots.Slots(base, "s")
    claim = table.claim()
    assert claim is not None
    base.replace_files("s", {"f": b"mine"}, table.proof(claim))
    table.release(claim)
    with pytest.raises(LeaseLost):
        base.replace_files("s", {"f": b"a zombie's"}, table.proof(claim))
    assert base.read_file("s", "f") == b"mine"
    base.close()


def test_a_copy_has_them_and_the_removal_of_a_study_takes_its_own(tmp_path: Path) -> None:
    base = database.connect(prepared_url("sqlite", tmp_path))
    begun(base, tmp_path)
    copying.copy(base, base, "s", "copied")
    before = drawn(base, "s", 0)
    assert drawn(base, "copied", 0) == before
    uploaded = tmp_path / "home" / "artifacts" / "ours"
    uploaded.parent.mkdir(parents=True)
    uploaded.write_bytes(b"of both")
    for name in ("s", "copied"):
        number = base.storage.get_study_id_from_name(name)
        base.storage.set_study_system_attr(number, f"{artifacts.PREFIX}ours", "{}")
    removal.remove(base, "s", tmp_path / "home")
    assert uploaded.exists(), "the copy names it"
    assert drawn(base, "s", 0) == {}
    assert drawn(base, "copied", 0) == before
    removal.remove(base, "copied", tmp_path / "home")
    assert not uploaded.exists()
    with base.engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM igkd_file_parts").scalar()
    assert left == 0
    base.close()
