"""`igkd repair`: finds what is inconsistent and nothing else, and mends what it has shown."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from igkd_search import database, queued, registry, repairs, results, retries, slots, workers
from igkd_search.errors import StorageError, TrialError
from igkd_search.identities import Identity, this_process
from igkd_search.schema import file_parts, queue
from igkd_search.schema import slots as table
from tests.databases import KINDS, prepared_url
from tests.test_worker import CRASHES, FakeTraining, Search, crash_at, other_process, study_of

MACHINE = workers.Machine("cpu", None, {})


@pytest.fixture(params=KINDS)
def search(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Search]:
    """A search of four trials, two of which are done."""
    base = database.connect(prepared_url(request.param, tmp_path))
    found = Search(base, tmp_path / "checkpoints", study_of()).begin(study_of())
    with pytest.raises(KeyboardInterrupt):
        found.run(FakeTraining({(3, 2): KeyboardInterrupt()}))
    yield found
    base.close()


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Search]:
    """The same on SQLite, for what no SQL depends on."""
    base = database.connect(prepared_url("sqlite", tmp_path))
    yield Search(base, tmp_path / "checkpoints", study_of()).begin(study_of())
    base.close()


def find(search: Search) -> list[repairs.Finding]:
    return repairs.find(search.base, "s", search.folder.parent)


def told(search: Search) -> list[str]:
    return [f"{found.what}: {found.fix}" for found in find(search)]


def mend(search: Search) -> None:
    for found in find(search):
        found.mend()
    assert told(search) == []


def dead() -> Identity:
    return replace(this_process(), process_started="before the flood")


def change(search: Search, slot: int, **values: Any) -> None:
    with search.base.transaction() as connection:
        connection.execute(sa.update(table).where(table.c.slot == slot).values(**values))


def optuna_study(search: Search) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=search.base.storage)


def test_what_is_open_is_not_wrong(search: Search) -> None:
    assert told(search) == []
    search.run(FakeTraining())
    assert told(search) == []


def test_a_search_at_work_is_left_alone_at_every_epoch(lost: Search) -> None:
    seen = list[str]()

    def look(epoch: int) -> None:
        seen.extend(told(lost))

    lost.run(FakeTraining({(2, 1): TrialError("diverged", "nan")}, before_epoch=look))
    assert seen == []


@pytest.mark.parametrize("place", CRASHES)
def test_every_crash_is_mended_without_a_worker_and_costs_no_trial(
    lost: Search, place: str
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        crash_at(patched, place, 1)
        with pytest.raises(KeyboardInterrupt):
            lost.hire(FakeTraining(), other_process(lost)).run(poll_seconds=0)
    mend(lost)
    rows = lost.table.rows()
    assert not [row for row in rows if row.state == "leased"]
    lost.run(FakeTraining())
    lost.check_budget(4)
    assert told(lost) == []


def test_a_slot_of_a_dead_process_of_this_host_is_released(search: Search) -> None:
    gone = slots.Slots(search.base, "s", identity=dead())
    assert gone.claim() is not None
    (found,) = told(search)
    assert found == f"slot 2 is held by a dead process of this host (pid {dead().pid}): released"
    mend(search)
    assert search.table.counts() == slots.Counts(4, 2, 0, 2)


def test_slots_of_the_living_and_of_other_hosts_are_left_alone(search: Search) -> None:
    assert search.table.claim() is not None
    elsewhere = replace(this_process(), host="elsewhere", boot_id="another")
    assert slots.Slots(search.base, "s", identity=elsewhere).claim() is not None
    # whatever else is odd about them
    study = optuna_study(search)
    study.tell(2, state=TrialState.FAIL)
    assert told(search) == []


def test_a_slot_that_was_claimed_since_is_not_changed(search: Search) -> None:
    assert slots.Slots(search.base, "s", identity=dead()).claim() is not None
    (found,) = find(search)
    claim = search.table.claim(fresh=False)
    assert claim is not None and claim.slot == 2
    before = search.table.rows()
    found.mend()
    assert search.table.rows() == before


def test_a_done_slot_whose_trial_is_not_finished_is_opened(search: Search) -> None:
    change(search, 2, state="done", outcome="complete")
    change(search, 3, state="done", outcome="complete")
    assert told(search) == [
        "slot 2 is done, but has trial 2, which is not finished: opened again",
        "slot 3 is done, but has no trial: opened again",
    ]
    mend(search)
    search.run(FakeTraining())
    search.check_budget(4)


def test_an_interrupted_retry_is_finished(lost: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    lost.run(FakeTraining({(2, 1): TrialError("diverged", "nan")}))
    with monkeypatch.context() as patched:
        patched.setattr(slots.Slots, "reopen", lambda self, slot: True)
        retries.retry(lost.base, "s", 1)
    assert told(lost) == ["slot 1 is done, but has trial 4, which is not finished: opened again"]
    mend(lost)
    lost.run(FakeTraining())
    assert lost.trials[4].state == TrialState.COMPLETE


def test_a_slot_whose_trial_is_finished_is_closed(search: Search) -> None:
    optuna_study(search).tell(2, state=TrialState.FAIL)
    folder = next(search.folder.glob("*/trial-00002"))
    assert told(search) == [
        "slot 2 is open, but its trial 2 is finished: closed (failed:told from outside)",
        f"trial 2 is finished, but {folder} is there: removed",
    ]
    mend(search)
    assert not folder.exists()
    row = search.table.rows()[2]
    assert (row.state, row.outcome, row.trial_number) == ("done", "failed:told from outside", 2)


def test_trials_of_no_slot_and_doubles_are_discarded(search: Search) -> None:
    study = optuna_study(search)
    study.enqueue_trial({}, user_attrs={"slot": 2})  # the answer was lost, so it was asked again
    study.enqueue_trial({})
    study.enqueue_trial({}, user_attrs={"slot": 77})
    study.enqueue_trial({})
    study.ask()
    assert told(search) == [
        "trial 3 runs, but is not the one of slot 2: discarded (told FAIL)",
        "trial 4 waits, but is of no slot: discarded (told FAIL)",
        "trial 5 waits, but is of no slot: discarded (told FAIL)",
        "trial 6 waits, but is of no slot: discarded (told FAIL)",
    ]
    mend(search)
    assert [trial.state.name for trial in search.trials[3:]] == ["FAIL"] * 4
    search.run(FakeTraining())
    counts = counted(search)
    assert counts == {"complete": 4, "discarded": 4}


def counted(search: Search) -> dict[str, int]:
    return dict(Counter(row.state for row in results.rows(optuna_study(search))))


def test_missing_slots_are_made_and_the_budget_of_now_counts(search: Search) -> None:
    with search.base.transaction() as connection:
        connection.execute(sa.delete(table).where(table.c.slot == 3))
    (found,) = find(search)
    assert found.what == "of the slots for 4 trials these are missing: 3"
    registry.register(search.base, search.study, trials=5)
    found.mend()
    assert search.table.counts() == slots.Counts(5, 3, 0, 2)
    assert told(search) == []


def test_dead_workers_leave_the_register(search: Search) -> None:
    workers.Register(search.base, "s", dead(), MACHINE).join()
    workers.Register(search.base, "s", this_process(), MACHINE).join()
    (found,) = told(search)
    assert found.startswith("the worker ") and found.endswith("has it at work: marked as left")
    mend(search)
    rows = workers.rows(search.base, "s", this_process())
    assert sum(row.alive for row in rows) == 1


def test_a_configuration_that_no_slot_has_is_queued_again(search: Search) -> None:
    queued.add(search.base, "s", [{"kd_weight": 0.5}, {"kd_weight": 0.75}])
    with search.base.transaction() as connection:
        connection.execute(sa.update(queue).where(queue.c.position == 0).values(slot=9))
        connection.execute(sa.update(queue).where(queue.c.position == 1).values(slot=3))
    (found,) = told(search)
    assert "place 0 of the queue is taken by slot 9, which there is not: queued again" in found
    mend(search)
    assert queued.waiting(search.base, "s") == [{"kd_weight": 0.5}]


def test_files_that_nobody_names_are_removed(search: Search) -> None:
    base = search.base
    base.keep_file("s", "teacher", b"weights")
    base.keep_file("s", "trial-00000/confusion-0.json", b"of an attempt that died")
    base.keep_file("s", "trial-00002/confusion-0.json", b"of a trial that runs")
    base.keep_file("s", "trial-00009/confusion-0.json", b"of a trial that has just begun")
    base.keep_file("other", "teacher", b"of a study that is being prepared")
    with base.transaction() as connection:
        row = {"sha256": "0" * 64, "part": 0, "content": b"lost"}
        connection.execute(sa.insert(file_parts), row)
    assert told(search) == [
        "the file trial-00000/confusion-0.json is kept, but no trial names it: removed",
        "the content of a file is kept, but no study names it: removed",
    ]
    names = set(base.file_digests("s"))
    mend(search)
    assert set(base.file_digests("s")) == names - {"trial-00000/confusion-0.json"}
    assert base.read_file("other", "teacher") is not None
    assert base.read_file("s", "teacher") == b"weights"
    with base.transaction() as connection:
        assert "0" * 64 not in set(connection.scalars(sa.select(file_parts.c.sha256)))


def test_foreign_folders_and_files_are_left_alone(search: Search) -> None:
    (folder,) = search.folder.iterdir()
    for name in ("trial-", "trial-00099", "trial-x", "notes"):
        (folder / name).mkdir()
    assert told(search) == []
    shutil.rmtree(search.folder)
    assert told(search) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda base: optuna.delete_study(study_name="s", storage=base.storage), "igkd delete s"),
        (lambda base: None, "no study 't'"),
    ],
)
def test_what_cannot_be_repaired_is_said(
    lost: Search, damage: Callable[[database.Database], None], said: str
) -> None:
    damage(lost.base)
    with pytest.raises(StorageError, match=said):
        repairs.find(lost.base, "t" if "'t'" in said else "s", lost.folder)
