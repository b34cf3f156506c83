"""`igkd copy`: both sides hold the same, whatever interrupts it, and the search goes on there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from igkd_search import copying, database, fenced, queued, registry, searches, slots, workers
from igkd_search.errors import StorageError, StudyError, TrialError
from igkd_search.identities import this_process
from igkd_search.schema import files, metadata
from tests.databases import KINDS, Kind, prepared_url
from tests.test_worker import FakeTraining, Search, other_process, study_of

MACHINE = workers.Machine("cpu", None, {})


def interrupted(search: Search) -> Search:
    """A search of five trials: complete, failed, one that its dead worker left, two open."""
    found = search.begin(study_of(5))
    queued.add(found.base, "s", [{"kd_weight": 0.75}, {"temperature": 2.0}])
    faults: dict[tuple[int, int], BaseException] = {(2, 2): TrialError("diverged", "nan")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("igkd_search.worker.Worker._release", lambda self, claim: None)
        patched.setattr(workers.Register, "leave", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            training = FakeTraining(faults | {(3, 3): KeyboardInterrupt()})
            found.hire(training, other_process(found)).run(poll_seconds=0)
    optuna.load_study(study_name="s", storage=found.base.storage).set_user_attr("note", "mine")
    found.base.keep_file("s", "teacher", b"weights")
    searches.ask_to_stop(found.base, "s")
    return found


def opened(kind: Kind, folder: Path) -> database.Database:
    folder.mkdir(exist_ok=True)
    return database.connect(prepared_url(kind, folder))


@pytest.fixture(params=KINDS)
def search(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Search]:
    base = opened(request.param, tmp_path / "source")
    yield interrupted(Search(base, tmp_path / "checkpoints", study_of(5)))
    base.close()


@pytest.fixture
def other(search: Search, tmp_path: Path) -> Iterator[database.Database]:
    """An empty database of the other kind."""
    sqlite = search.base.engine.dialect.name == "sqlite"
    base = opened("postgresql" if sqlite else "sqlite", tmp_path / "target")
    yield base
    base.close()


def content(base: database.Database, name: str) -> dict[str, Any]:
    """What there is of a study in our own tables, without its name and the register."""
    with base.transaction() as connection:
        found = {}
        for table in metadata.sorted_tables:
            if "study_name" in table.c and table.name != "igkd_workers":
                rows = connection.execute(sa.select(table).where(table.c.study_name == name))
                found[table.name] = [
                    {key: value for key, value in row._mapping.items() if key != "study_name"}
                    for row in rows
                ]
        return found


def test_everything_is_the_same_on_the_other_side(
    search: Search, other: database.Database, tmp_path: Path
) -> None:
    ours = content(search.base, "s")
    copied = copying.copy(search.base, other, "s")
    assert copied.trials == {"complete": 1, "fail": 1, "running": 1}
    assert copied.rows == {"slots": 5, "attempts": 3, "queued": 2, "searches": 1}
    assert (copied.files, copied.study) == (4, "s")
    stored = [optuna.load_study(study_name="s", storage=b.storage) for b in (search.base, other)]
    assert stored[0].get_trials() == [
        optuna.trial.FrozenTrial(**{**_plain(trial), "trial_id": mine._trial_id})
        for trial, mine in zip(stored[1].get_trials(), stored[0].get_trials(), strict=True)
    ]
    assert [trial.number for trial in stored[1].trials] == [0, 1, 2]
    assert stored[1].user_attrs == {"note": "mine"}
    assert stored[1].direction == stored[0].direction
    theirs = content(other, "s")
    held = theirs["igkd_slots"][2]
    assert (held["state"], held["owner"], held["attempt"]) == ("open", None, 1)
    for rows in (ours["igkd_slots"], theirs["igkd_slots"]):
        del rows[2]
    assert theirs == ours
    assert other.read_file("s", "teacher") == b"weights"
    assert workers.rows(other, "s", this_process()) == []
    assert (
        copying.digest_of(stored[0].trials) == copied.digest == copying.digest_of(stored[1].trials)
    )


def _plain(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    names = ["number", "state", "datetime_start", "datetime_complete", "params", "distributions"]
    names += ["user_attrs", "system_attrs", "intermediate_values", "values"]
    return {"value": None, **{name: getattr(trial, name) for name in names}}


def test_the_copy_goes_on_from_the_same_checkpoints(
    search: Search, other: database.Database
) -> None:
    copying.copy(search.base, other, "s")
    left = content(search.base, "s")
    there = Search(other, search.folder, search.study)
    training = FakeTraining()
    there.run(training)
    there.check_budget(5)
    resumed = training.calls[0][2]
    assert resumed is not None and resumed.name == "epoch-0002.safetensors"
    assert len(training.calls) == 3
    trial = there.trials[2]
    assert (trial.state, trial.user_attrs["attempts"]) == (TrialState.COMPLETE, 2)
    assert content(search.base, "s") == left, "the original is left alone"


def test_another_name_is_another_study(search: Search, tmp_path: Path) -> None:
    there = opened("sqlite", tmp_path / "target")
    copying.copy(search.base, there, "s", "renamed")
    record, study = registry.stored(there, "renamed")
    ours = search.base.read_study("s")
    assert ours is not None and record.created == ours.created
    assert study.question() == {**study_of(5).question(), "name": "renamed"}
    assert there.study_names() == ["renamed"]
    with pytest.raises(StudyError, match="--as"):
        copying.copy(search.base, there, "s", "no name")
    # beside the original too
    copying.copy(there, there, "renamed", "twin")
    assert there.study_names() == ["renamed", "twin"]
    there.close()


def test_a_name_that_is_taken_is_refused_and_nothing_changes(
    search: Search, other: database.Database
) -> None:
    optuna.create_study(study_name="s", storage=other.storage)
    with pytest.raises(StudyError, match=r"Optuna has a study 's' at .* igkd-search did not begin"):
        copying.copy(search.base, other, "s")
    copying.copy(search.base, other, "s", "t")
    before = content(other, "t")
    with pytest.raises(StudyError, match=r"already; give the copy another name with --as, or remo"):
        copying.copy(search.base, other, "s", "t")
    assert content(other, "t") == before
    with pytest.raises(StorageError, match="no study 'u'"):
        copying.copy(search.base, other, "u")


def test_a_study_at_work_is_not_copied(search: Search, other: database.Database) -> None:
    workers.Register(search.base, "s", this_process(), MACHINE).join()
    with pytest.raises(StorageError, match=r"a worker is at work, on .*; type 'igkd stop s'"):
        copying.copy(search.base, other, "s")
    assert other.study_names() == []


PLACES: dict[str, tuple[Any, str, int]] = {
    "in the first trial": (fenced.FencedStorage, "create_new_trial", 1),
    "in the second trial": (fenced.FencedStorage, "create_new_trial", 2),
    "at a file": (database.Database, "keep_file", 2),
    "at the end": (copying, "_settle", 1),
}


def crash_at(patched: pytest.MonkeyPatch, place: str) -> None:
    owner, name, turn = PLACES[place]
    original, calls = getattr(owner, name), list[int]()

    def die(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == turn:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    patched.setattr(owner, name, die)


def test_an_interrupted_copy_is_begun_again(search: Search, other: database.Database) -> None:
    for place in PLACES:
        with pytest.MonkeyPatch.context() as patched:
            crash_at(patched, place)
            with pytest.raises(KeyboardInterrupt):
                copying.copy(search.base, other, "s")
        assert other.study_names() == [], place
    copied = copying.copy(search.base, other, "s")
    assert (sum(copied.trials.values()), copied.files) == (3, 4)
    with other.transaction() as connection:
        assert set(connection.scalars(sa.select(files.c.study_name))) == {"s"}
    assert optuna.get_all_study_names(other.storage) == ["s"]


def test_a_study_that_went_on_meanwhile_is_not_taken_for_copied(
    search: Search, other: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = database.Database.keep_file

    def going_on(*arguments: Any) -> str:
        slots.Slots(search.base, "s").reopen(1)
        optuna.load_study(study_name="s", storage=search.base.storage).enqueue_trial({})
        return keep(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(database.Database, "keep_file", going_on)
        with pytest.raises(StorageError, match=r"differ \(7 and 3 trials.*type the command again"):
            copying.copy(search.base, other, "s")
    assert other.study_names() == []
    assert sum(copying.copy(search.base, other, "s").trials.values()) == 7


def test_the_password_of_the_target_is_masked(search: Search, tmp_path: Path) -> None:
    there = opened("sqlite", tmp_path / "target")
    url = "postgresql+psycopg://me:secret@host/db"
    masked = database.Database(url, there.storage)
    assert copying.copy(search.base, masked, "s").target == "postgresql+psycopg://me:***@host/db"
    with pytest.raises(StudyError) as caught:
        copying.copy(search.base, masked, "s")
    assert "secret" not in str(caught.value)
    there.close()
