"""One worker for all studies of a storage, with a fake training: order, leaving, skipping."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from igkd_search import (
    database,
    draining,
    launch,
    pool,
    registry,
    searches,
    slots,
    spec,
    worker,
    workers,
)
from igkd_search.errors import DataError, StorageLost
from igkd_search.identities import this_process
from tests import tiny
from tests.databases import prepared_url
from tests.test_worker import FakeTraining, describe, study_of


@dataclass
class Host:
    """A host that serves: what it was asked to train, in order, and what happens meanwhile."""

    base: database.Database
    home: Path
    drain: draining.Drain = field(default_factory=draining.Drain)
    trained: list[str] = field(default_factory=list)
    hired: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    at_epoch: Callable[[str, int], None] = lambda name, epoch: None

    def begin(self, name: str, trials: int = 2, priority: int = 0, **search: object) -> None:
        study = study_of(trials, 2, priority=priority, start=[], **search)
        registry.register(self.base, study.model_copy(update={"name": name}))

    def hire(self, study: spec.Study, table: slots.Slots, drain: draining.Drain) -> worker.Worker:
        if study.name in self.missing:
            raise DataError(f"no images of {study.name} here")
        self.hired.append(study.name)

        def before_epoch(epoch: int) -> None:
            if epoch == 1:
                self.trained.append(study.name)
            self.at_epoch(study.name, epoch)

        train = FakeTraining(before_epoch=before_epoch)
        folder = self.home / "checkpoints"
        return worker.Worker(study, self.base, folder, train, describe, table, drain=drain)

    def serve(self, wait: bool = False) -> str:
        return pool.serve(
            self.base, self.home, None, self.drain, wait=wait, poll_seconds=0.01, hire=self.hire
        )

    def counts(self, name: str) -> slots.Counts:
        return slots.Slots(self.base, name).counts()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    base = database.connect(prepared_url("sqlite", tmp_path))
    yield Host(base, tmp_path)
    base.close()


def test_all_studies_are_finished_the_most_urgent_first(host: Host) -> None:
    host.begin("first")
    host.begin("second")
    host.begin("urgent", priority=5)
    host.begin("later", priority=-1)
    assert host.serve() == "budget"
    order = ["urgent", "first", "second", "later"]
    assert host.trained == [name for name in order for _ in range(2)]
    assert host.hired == order, "it stays with a study until nothing is left"
    for name in order:
        assert host.counts(name) == slots.Counts(2, 0, 0, 2)
    assert host.serve() == "budget" and len(host.trained) == 8


def test_a_study_of_higher_priority_is_served_after_the_trial(host: Host) -> None:
    host.begin("long", trials=3)

    def begin(name: str, epoch: int) -> None:
        if (name, epoch, len(host.trained)) == ("long", 1, 2):
            host.begin("equal")
            host.begin("urgent", priority=1)

    host.at_epoch = begin
    assert host.serve() == "budget"
    assert host.trained == ["long"] * 2 + ["urgent"] * 2 + ["long"] + ["equal"] * 2


def test_what_this_host_cannot_serve_is_said_once_and_others_go_on(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.begin("bare", priority=9)
    host.begin("fine")
    host.missing.add("bare")
    said = host.serve()
    assert said == "nothing left that is served here; study 'bare': no images of bare here"
    assert host.counts("bare") == slots.Counts(2, 2, 0, 0)
    assert host.counts("fine") == slots.Counts(2, 0, 0, 2)
    assert caplog.text.count("no images of bare here") == 1


def test_a_question_that_cannot_be_read_is_left_to_others(host: Host) -> None:
    host.begin("fine")
    host.base.write_study("strange", {"from": "the future"}, 1)
    slots.Slots(host.base, "strange").set_budget(1)
    assert "study 'strange' in the storage" in host.serve()
    assert host.counts("fine").done == 2


def test_it_is_in_the_register_of_the_study_it_serves(host: Host) -> None:
    host.begin("a")
    host.begin("b")
    seen = list[tuple[str, list[str]]]()

    def look(name: str, epoch: int) -> None:
        rows = workers.rows(host.base, None, this_process())
        found = {row.worker: row.state for row in rows}
        with_study = [len(workers.rows(host.base, each, this_process())) for each in ("a", "b")]
        assert with_study == ([1, 0] if name == "a" else [1, 1])
        seen.append((name, sorted(found.values())))

    host.at_epoch = look
    host.serve()
    assert [states.count("left") for _, states in seen] == [0] * 4 + [1] * 4
    left = workers.rows(host.base, None, this_process())
    assert [row.state for row in left] == ["left", "left"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_it_leaves_when_asked_and_what_it_had_goes_on(host: Host, epoch: int) -> None:
    host.begin("a", trials=3)
    host.begin("b")

    def ask(name: str, at: int) -> None:
        if at == epoch and len(host.trained) == 2:
            host.drain.ask("SIGTERM")

    host.at_epoch = ask
    assert host.serve() == "SIGTERM"
    assert host.counts("a") == slots.Counts(3, 3 - epoch, 0, epoch)
    assert host.counts("b") == slots.Counts(2, 2, 0, 0)
    host.drain.forget()
    host.at_epoch = lambda name, at: None
    assert host.serve() == "budget"
    assert host.counts("a").done + host.counts("b").done == 5


def test_igkd_stop_ends_the_work_on_that_study_alone(host: Host) -> None:
    host.begin("a", trials=3)
    host.begin("b")

    def stop(name: str, epoch: int) -> None:
        if name == "a":
            searches.ask_to_stop(host.base, "a")

    host.at_epoch = stop
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker, "_BEAT_SECONDS", 0.0)
        assert host.serve() == "nothing left that is served here; study 'a': igkd stop"
    assert host.counts("a").done < 3 and host.counts("a").leased == 0
    assert host.counts("b") == slots.Counts(2, 0, 0, 2)


def test_a_study_that_has_had_enough_holds_nobody_up(host: Host) -> None:
    host.begin("idle", trials=9, patience=1, priority=3)
    host.begin("other")
    assert host.serve() == "budget"
    assert 1 < host.counts("idle").done < 9
    assert host.counts("other").done == 2


def test_what_a_dead_process_of_this_host_left_is_adopted(host: Host) -> None:
    host.begin("a", trials=1)
    gone = replace(this_process(), process_started="before the flood")
    assert slots.Slots(host.base, "a", identity=gone).claim() is not None
    assert host.serve() == "budget"
    assert host.counts("a") == slots.Counts(1, 0, 0, 1)


def test_it_waits_for_the_slots_of_others_and_turns_to_what_opens_meanwhile(host: Host) -> None:
    host.begin("a", trials=2)
    elsewhere = replace(this_process(), host="elsewhere", boot_id="another")
    theirs = slots.Slots(host.base, "a", identity=elsewhere)
    claim = theirs.claim()
    assert claim is not None
    waits = list[int]()

    def waiting(seconds: float | None = None) -> bool:
        waits.append(1)
        if len(waits) == 1:
            host.begin("b")
        if len(waits) == 2:
            theirs.finish(claim, "complete")
        return False

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host.drain.asked, "wait", waiting)
        assert host.serve() == "budget"
    assert host.trained == ["a", "b", "b"]
    assert len(waits) == 2


def test_with_wait_it_looks_on_for_more_until_it_is_asked_to_leave(host: Host) -> None:
    host.begin("a")
    waits = list[int]()

    def waiting(seconds: float | None = None) -> bool:
        waits.append(1)
        if len(waits) == 1:
            host.begin("b")
        else:
            host.drain.ask("SIGTERM")
        return False

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host.drain.asked, "wait", waiting)
        assert host.serve(wait=True) == "SIGTERM"
    assert host.trained == ["a", "a", "b", "b"]


def test_a_lost_database_is_an_error_unless_it_was_asked_to_leave(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.begin("a")

    def lost(*_: object) -> bool:
        raise StorageLost("away")

    monkeypatch.setattr(worker.Worker, "run_one", lost)
    with pytest.raises(StorageLost):
        host.serve()

    def asked(*_: object) -> bool:
        host.drain.ask("SIGTERM")
        raise StorageLost("away")

    monkeypatch.setattr(worker.Worker, "run_one", asked)
    assert host.serve() == "SIGTERM"


def test_real_studies_are_trained_on_materials_built_here(
    searched: Path, study: spec.Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kinds = ("teacher", "overlays", "targets", "latency", "onnx")
    home = tiny.copy_entries(searched, tmp_path / "home", *kinds)
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    for name, priority in (("one", 0), ("two", 1)):
        asked = study.search.model_copy(update={"priority": priority})
        named = study.model_copy(update={"name": name, "search": asked})
        launch.prepare(base, named, home, trials=1)
    assert pool.serve(base, home, "cpu") == "budget"
    for name in ("one", "two"):
        assert slots.Slots(base, name).counts() == slots.Counts(1, 0, 0, 1)
    assert caplog.text.index("study two (priority 1)") < caplog.text.index("study one (priority 0)")
    base.close()
