"""A whole search with a ten-line fake training: the budget, law 10, failures, and every crash."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from igkd_search import (
    checkpoints,
    database,
    draining,
    evaluation,
    fenced,
    fitting,
    identities,
    outcomes,
    queued,
    registry,
    schema,
    searches,
    slots,
    space,
    spec,
    study_file,
    worker,
    workers,
)
from igkd_search.errors import MachineError, StorageError, StorageLost, TrialError
from tests.databases import KINDS, Kind, prepared_url

EPOCHS = 3
START = {"temperature": 2.5, "kd_weight": 0.25}
SPACE = {"temperature": {"low": 1.0, "high": 10.0, "log": True}, "kd_weight": {"low": 0, "high": 1}}


def study_of(trials: int = 4, epochs: int = EPOCHS, **search: Any) -> spec.Study:
    asked = {"trials": trials, "pruner": "none", "seed": 7, "space": SPACE, "start": [START]}
    plain = {"name": "s", "trial": {"epochs": epochs}, "search": asked | search}
    return study_file.check(spec.Study, plain, "test")


def record(
    epoch: int, accuracy: float, confusion: evaluation.Confusion | None = None
) -> fitting.EpochRecord:
    return fitting.EpochRecord(
        epoch=epoch,
        loss=1.0 / epoch,
        accuracy=accuracy,
        validation_loss=0.5,
        calibration_error=0.0625,
        raw_accuracy=accuracy - 0.25,
        raw_validation_loss=0.75,
        learning_rate=0.1,
        seconds=0.01,
        images_per_s=100.0,
        confusion=confusion or confusion_of(epoch),
    )


def confusion_of(epoch: int) -> evaluation.Confusion:
    """Three classes of so many images, the last of which there are none of."""
    return ((epoch, 0, 0), (1, 2, 1), (0, 0, 0))


def accuracy_of(config: spec.TrialConfig, epoch: int) -> float:
    """What an epoch shows, a function of the configuration: a repeated trial shows the same."""
    return round(0.5 + 0.1 * epoch + 0.1 * config.kd_weight, 6)


@dataclass
class FakeTraining:
    """Yields the records of a checkpoint, then one an epoch; raises `then` when its turn comes."""

    then: dict[tuple[int, int], BaseException] = field(default_factory=dict)
    """(call, epoch) -> what is raised instead of this epoch's record; calls count from 1."""
    calls: list[tuple[spec.TrialConfig, int, Path | None]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    before_epoch: Callable[[int], None] = lambda epoch: None
    confusion: evaluation.Confusion | None = None

    def __call__(
        self, config: spec.TrialConfig, seed: int, save_to: Path, resume_from: Path | None
    ) -> Iterator[fitting.EpochRecord]:
        self.calls.append((config, seed, resume_from))
        self.folders.append(save_to)
        call, done = len(self.calls), int(resume_from.stem[-4:]) if resume_from else 0
        for epoch in range(1, config.epochs + 1):
            if epoch > done:
                self.before_epoch(epoch)
                if (call, epoch) in self.then:
                    raise self.then[call, epoch]
                checkpoints.write(checkpoints.path_of(save_to, epoch), {}, {})
            yield record(epoch, accuracy_of(config, epoch), self.confusion)


def describe(config: spec.TrialConfig) -> Mapping[str, outcomes.Attribute]:
    return {"architecture": "tiny", "latency_ms": 1.5}


@dataclass
class Search:
    """One study in one database, and workers for it."""

    base: database.Database
    folder: Path
    study: spec.Study

    def begin(self, study: spec.Study) -> "Search":
        self.study = study
        registry.register(self.base, study)
        return self

    def hire(
        self, train: worker.Train, table: slots.Slots | None = None, **options: Any
    ) -> worker.Worker:
        return worker.Worker(self.study, self.base, self.folder, train, describe, table, **options)

    def run(self, train: worker.Train) -> None:
        self.hire(train).run(poll_seconds=0)

    @property
    def table(self) -> slots.Slots:
        return slots.Slots(self.base, self.study.name)

    @property
    def trials(self) -> list[FrozenTrial]:
        return optuna.load_study(study_name=self.study.name, storage=self.base.storage).trials

    def check_budget(self, trials: int) -> None:
        """Law 7: so many asked for, so many finished, none lost, none twice."""
        assert self.table.counts() == slots.Counts(trials, 0, 0, trials)
        assert sorted(trial.user_attrs["slot"] for trial in self.trials) == list(range(trials))
        assert all(trial.state.is_finished() for trial in self.trials)
        told = {trial.number: outcomes.of_finished(trial) for trial in self.trials}
        assert {row.trial_number: row.outcome for row in self.table.rows()} == told


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    base = database.connect(prepared_url("sqlite", tmp_path))
    yield Search(base, tmp_path / "checkpoints", study_of()).begin(study_of())
    base.close()


class Pruner(optuna.pruners.BasePruner):
    """Prunes at these epochs, and remembers at which it was asked."""

    def __init__(self, *epochs: int) -> None:
        self.epochs, self.asked = epochs, list[int]()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        assert trial.last_step is not None
        self.asked.append(trial.last_step)
        return trial.last_step in self.epochs


@pytest.fixture
def prune(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pruner]:
    def use(*epochs: int) -> Pruner:
        pruner = Pruner(*epochs)
        monkeypatch.setitem(space.PRUNERS, "none", lambda study: pruner)
        return pruner

    return use


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_is_spent_exactly(kind: Kind, tmp_path: Path) -> None:
    base = database.connect(prepared_url(kind, tmp_path))
    search = Search(base, tmp_path, study_of(5)).begin(study_of(5))
    train = FakeTraining()
    search.run(train)
    search.check_budget(5)
    assert len(train.calls) == 5
    search.run(train)
    assert len(train.calls) == 5, "nothing is left to do"
    base.close()


def test_a_larger_budget_goes_on_and_keeps_what_is_finished(search: Search) -> None:
    search.run(FakeTraining())
    before = search.trials
    registry.register(search.base, search.study, trials=6)
    search.run(FakeTraining())
    search.check_budget(6)
    assert search.trials[:4] == before


def test_every_epoch_is_reported_and_the_last_is_the_objective(search: Search) -> None:
    train = FakeTraining()
    search.run(train)
    for trial, (config, _, _) in zip(search.trials, train.calls, strict=True):
        reported = {epoch: accuracy_of(config, epoch) for epoch in range(1, EPOCHS + 1)}
        assert trial.intermediate_values == reported
        assert trial.state == TrialState.COMPLETE
        assert trial.value == reported[EPOCHS] == trial.user_attrs["accuracy"]
        assert trial.user_attrs["epochs"] == EPOCHS


def test_a_pruned_trial_is_marked_and_has_no_value(
    search: Search, prune: Callable[..., Pruner]
) -> None:
    prune(*range(1, EPOCHS + 1))
    search.run(FakeTraining())
    search.check_budget(4)
    for trial in search.trials:
        assert trial.state == TrialState.PRUNED
        assert list(trial.intermediate_values) == [1]
        assert trial.user_attrs["epochs"] == 1
    assert {row.outcome for row in search.table.rows()} == {"pruned"}


def kept_of(search: Search, trial: FrozenTrial) -> Any:
    content = search.base.read_file(search.study.name, trial.user_attrs["confusion_file"])
    assert content is not None
    return json.loads(content)


@pytest.mark.parametrize("pruned_after", [None, 2])
def test_the_scores_of_the_last_epoch_are_kept_with_the_trial(
    search: Search, prune: Callable[..., Pruner], pruned_after: int | None
) -> None:
    prune(*filter(None, [pruned_after]))
    search.run(FakeTraining())
    for trial in search.trials:
        last = trial.intermediate_values[pruned_after or EPOCHS]
        numbers = {"accuracy": last, "validation_loss": 0.5, "calibration_error": 0.0625}
        numbers |= {"raw_accuracy": last - 0.25, "raw_validation_loss": 0.75}
        assert numbers.items() <= trial.user_attrs.items()
        kept = kept_of(search, trial)
        assert kept["confusion"] == [list(row) for row in confusion_of(pruned_after or EPOCHS)]
        assert kept["class_accuracy"] == [1.0, 0.5, None]


def test_the_matrix_is_no_attribute_and_is_kept_before_the_trial_is_told(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, tell = list[Any](), optuna.Study.tell

    def spy(study: optuna.Study, trial: optuna.Trial, *rest: Any) -> FrozenTrial:
        stored = search.trials[trial.number]
        if "confusion_file" in stored.user_attrs:
            told.append(kept_of(search, stored))
        return tell(study, trial, *rest)

    monkeypatch.setattr(optuna.Study, "tell", spy)
    search.run(FakeTraining({(2, 2): TrialError("diverged", "loss nan in epoch 2")}))
    assert len(told) == 3 and told[0]["class_accuracy"] == [1.0, 0.5, None]
    kinds = [name.partition("/")[2].partition("-")[0] for name in search.base.file_digests("s")]
    assert Counter(kinds) == {"confusion_matrix": 3, "learning_curves": 4}
    for trial in search.trials:
        plain = {type(value) for value in trial.user_attrs.values()}
        assert plain <= {int, float, str}


def test_what_a_crashed_attempt_has_kept_is_not_taken_for_that_of_the_next(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on another host, whose last bits differ, and so perhaps an answer
    with monkeypatch.context() as patched:
        crash_at(patched, "before tell", 1)
        with pytest.raises(KeyboardInterrupt):
            search.hire(FakeTraining(), other_process(search)).run(poll_seconds=0)
    search.folder = tmp_path / "another host"
    other = ((EPOCHS, 1, 0), (0, 4, 0), (0, 0, 0))
    search.run(FakeTraining(confusion=other))
    search.check_budget(4)
    assert kept_of(search, search.trials[0])["confusion"] == [list(row) for row in other]


def other_process(search: Search) -> slots.Slots:
    """The slots as a process sees them that is dead by now."""
    gone = replace(identities.this_process(), process_started="before the flood")
    return slots.Slots(search.base, search.study.name, identity=gone)


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_after_the_last_epoch_the_pruner_is_not_asked(
    search: Search, prune: Callable[..., Pruner], epochs: int
) -> None:
    pruner = prune(epochs)
    search.begin(study_of(2, epochs).model_copy(update={"name": "other"}))
    search.run(FakeTraining())
    assert [trial.state for trial in search.trials] == [TrialState.COMPLETE] * 2
    assert pruner.asked == list(range(1, epochs)) * 2


def test_an_adopter_asks_the_pruner_from_its_checkpoint_on(
    search: Search, prune: Callable[..., Pruner], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner, report = prune(), optuna.Trial.report
    lost = [StorageInternalError("gone")]

    def losing(trial: optuna.Trial, value: float, step: int) -> None:
        if step == 2 and lost:
            raise lost.pop()
        report(trial, value, step)

    monkeypatch.setattr(optuna.Trial, "report", losing)
    search.begin(study_of(1).model_copy(update={"name": "adopted"}))
    with pytest.raises(StorageInternalError):
        search.run(FakeTraining())
    search.run(FakeTraining())
    # the checkpoint of epoch 2 says that epoch 1 was judged, and its matrix is gone
    assert pruner.asked == [1, 2]


def test_start_points_are_the_first_slots(search: Search) -> None:
    search.run(FakeTraining())
    first, *others = search.trials
    assert first.params == START
    assert first.user_attrs["proposed_by"] == "start"
    assert all(trial.user_attrs["proposed_by"] in ("model", "chance") for trial in others)
    assert all(trial.params != START for trial in others)
    assert [trial.number for trial in search.trials] == [0, 1, 2, 3]


def test_the_model_proposes_once_chance_has_spoken(search: Search) -> None:
    search.begin(study_of(8).model_copy(update={"name": "t"}))
    search.run(FakeTraining())
    by = [trial.user_attrs["proposed_by"] for trial in search.trials]
    assert by == ["start"] + ["chance"] * 2 + ["model"] * 5


def test_the_seed_of_a_trial_is_that_of_its_slot_and_is_stored(search: Search) -> None:
    train = FakeTraining()
    search.run(train)
    seeds = [spec.trial_seed(7, slot) for slot in range(4)]
    assert [seed for _, seed, _ in train.calls] == seeds
    assert [trial.user_attrs["seed"] for trial in search.trials] == seeds


def test_parameters_are_exactly_the_names_of_the_space(search: Search) -> None:
    train = FakeTraining()
    search.run(train)
    study = optuna.load_study(study_name="s", storage=search.base.storage)
    assert sorted(study.best_trial.params) == sorted(SPACE)
    for trial, (config, _, _) in zip(search.trials, train.calls, strict=True):
        assert config == search.study.trial.model_copy(update=trial.params)


def test_attributes_are_attached_before_the_trial_is_told(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    tell = optuna.Study.tell

    def spy(study: optuna.Study, trial: optuna.Trial, *rest: Any) -> FrozenTrial:
        seen.append(search.trials[trial.number].user_attrs)
        return tell(study, trial, *rest)

    monkeypatch.setattr(optuna.Study, "tell", spy)
    search.run(FakeTraining())
    assert seen == [trial.user_attrs for trial in search.trials]
    wanted = {"slot", "seed", "proposed_by", "attempts", "architecture", "latency_ms", "accuracy"}
    assert all(wanted <= set(attributes) for attributes in seen)
    assert all(attributes["attempts"] == 1 for attributes in seen)


def test_checkpoints_of_a_finished_trial_are_removed(search: Search) -> None:
    search.run(FakeTraining())
    assert not list(search.folder.rglob("epoch-*"))


def test_a_diverged_trial_fails_with_its_reason_and_the_search_goes_on(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    search.run(FakeTraining({(2, 2): TrialError("diverged", "loss nan in epoch 2")}))
    search.check_budget(4)
    failed = search.trials[1]
    assert [trial.state.name for trial in search.trials] == ["COMPLETE", "FAIL"] + ["COMPLETE"] * 2
    assert failed.user_attrs["cause"] == "diverged"
    assert "loss nan in epoch 2" in failed.user_attrs["reason"]
    assert failed.user_attrs["latency_ms"] == 1.5
    assert search.table.rows()[1].outcome == "failed:diverged"
    assert "loss nan in epoch 2" in caplog.text


def test_a_bug_costs_its_trial_and_leaves_its_traceback(search: Search) -> None:
    search.run(FakeTraining({(1, 1): ValueError("what now")}))
    search.check_budget(4)
    failed = search.trials[0]
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["cause"] == "bug"
    assert failed.user_attrs["reason"] == "ValueError('what now')"
    assert "Traceback" in failed.user_attrs["traceback"]


def test_a_checkpoint_of_another_study_of_the_same_name_is_not_used(
    search: Search, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.run(FakeTraining({(1, 3): KeyboardInterrupt()}))
    assert list(search.folder.rglob("epoch-*"))
    (tmp_path / "anew").mkdir()
    base = database.connect(prepared_url("sqlite", tmp_path / "anew"))
    anew = Search(base, search.folder, study_of()).begin(study_of())
    training = FakeTraining()
    anew.run(training)
    base.close()
    assert [resume_from for *_, resume_from in training.calls] == [None] * 4


def test_an_interrupted_trial_is_continued_from_its_checkpoint(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[int, int]] = []
    report = optuna.Trial.report

    def spy(trial: optuna.Trial, value: float, step: int) -> None:
        reports.append((trial.number, step))
        report(trial, value, step)

    monkeypatch.setattr(optuna.Trial, "report", spy)
    first = FakeTraining({(2, 3): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        search.run(first)
    left = search.trials[1]
    assert left.state == TrialState.RUNNING, "nothing is told"
    assert search.table.counts() == slots.Counts(4, 3, 0, 1), "the slot is given back"

    second = FakeTraining()
    search.run(second)
    search.check_budget(4)
    config, seed, resume_from = second.calls[0]
    assert resume_from is not None and resume_from.name == "epoch-0002.safetensors"
    assert (config, seed) == first.calls[1][:2]
    again = search.trials[1]
    assert again.number == left.number and again.params == left.params
    assert again.user_attrs["attempts"] == 2
    assert list(again.intermediate_values) == [1, 2, 3]
    assert [step for number, step in reports if number == 1] == [1, 2, 3], "none reported twice"
    assert [trial.user_attrs["attempts"] for trial in search.trials] == [1, 2, 1, 1]


def test_an_adopter_reads_the_newest_checkpoint_and_writes_only_into_its_own_folder(
    search: Search,
) -> None:
    def files() -> dict[Path, int]:
        found = search.folder.rglob("epoch-*")
        return {path.relative_to(search.folder): path.stat().st_mtime_ns for path in found}

    training = FakeTraining({(1, 3): KeyboardInterrupt(), (2, 3): KeyboardInterrupt()})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search.run(training)
    left, before_last = files(), list[dict[Path, int]]()
    assert {path.parent.name for path in left} == {"attempt-001", "attempt-002"}

    def note(epoch: int) -> None:
        before_last.append(files())

    third = FakeTraining(before_epoch=note)
    search.run(third)
    assert [folder.name for folder in training.folders] == ["attempt-001", "attempt-002"]
    assert third.folders[0].name == "attempt-003"
    for attempt, (_, _, resume_from) in {2: training.calls[1], 3: third.calls[0]}.items():
        assert resume_from is not None
        assert resume_from.parts[-2:] == (f"attempt-{attempt:03d}", "epoch-0002.safetensors")
    others = {path: at for path, at in before_last[0].items() if path.parent.name != "attempt-003"}
    assert others == left, "what others wrote is left alone"
    assert not files(), "until the trial is told"


def test_without_its_checkpoint_a_trial_starts_anew_and_reports_only_what_is_new(
    search: Search, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.run(FakeTraining({(1, 3): KeyboardInterrupt()}))
    search.folder = tmp_path / "another host"
    second = FakeTraining()
    search.run(second)
    search.check_budget(4)
    assert second.calls[0][2] is None
    assert list(search.trials[0].intermediate_values) == [1, 2, 3]
    assert search.trials[0].params == START


def test_a_continued_trial_is_judged_at_its_newest_epoch_only(
    search: Search, prune: Callable[..., Pruner]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.run(FakeTraining({(1, 3): KeyboardInterrupt()}))
    pruner = prune()
    search.run(FakeTraining())
    assert pruner.asked[0] == 2, "epoch 1 was judged before"


CRASHES: dict[str, tuple[Any, str, bool]] = {
    "before enqueue": (optuna.Study, "enqueue_trial", False),
    "after enqueue": (optuna.Study, "enqueue_trial", True),
    "after RUNNING": (fenced.FencedStorage, "set_trial_state_values", True),
    "before the trial is recorded": (slots.Slots, "record_trial", False),
    "after a parameter": (space, "_suggest", True),
    "after suggest": (space, "suggest", True),
    "after an attribute": (optuna.Trial, "set_user_attr", True),
    "after report": (optuna.Trial, "report", True),
    "before the matrix is kept": (database.Database, "replace_files", False),
    "after the matrix is kept": (database.Database, "replace_files", True),
    "before tell": (optuna.Study, "tell", False),
    "after tell": (optuna.Study, "tell", True),
    "after the slot is finished": (slots.Slots, "finish", True),
}


def crash_at(patched: pytest.MonkeyPatch, place: str, turn: int) -> None:
    """Let the process die at a named place, when it is reached for the `turn`-th time."""
    owner, name, after = CRASHES[place]
    original, calls = getattr(owner, name), 0

    def crash(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == turn and not after:
            raise KeyboardInterrupt
        answer = original(*arguments, **options)
        if calls == turn:
            raise KeyboardInterrupt
        return answer

    patched.setattr(owner, name, crash)
    # whoever dies gives nothing back
    patched.setattr(worker.Worker, "_release", lambda self, claim: None)


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("place", CRASHES)
def test_a_crash_between_any_two_writes_heals(search: Search, place: str, turn: int) -> None:
    search.begin(study_of(3, 2).model_copy(update={"name": "c"}))
    table = other_process(search)
    with pytest.MonkeyPatch.context() as patched:
        crash_at(patched, place, turn)
        with pytest.raises(KeyboardInterrupt):
            search.hire(FakeTraining(), table).run(poll_seconds=0)
    search.run(FakeTraining())
    search.check_budget(3)
    for trial in search.trials:
        assert trial.state == TrialState.COMPLETE
        assert list(trial.intermediate_values) == [1, 2]
        assert set(trial.params) == set(SPACE)
        assert trial.user_attrs["seed"] == spec.trial_seed(7, trial.user_attrs["slot"])
    by_slot = {trial.user_attrs["slot"]: trial for trial in search.trials}
    assert by_slot[0].params == START
    found = [by_slot[slot].user_attrs["proposed_by"] for slot in range(3)]
    assert found[0] == "start" and set(found[1:]) <= {"model", "chance"}
    kept = [kept_of(search, trial)["class_accuracy"] for trial in search.trials]
    assert kept == [[1.0, 0.5, None]] * 3
    assert len(search.base.file_digests("c")) == 6, "each matrix and its curves once"
    assert not list(search.folder.rglob("epoch-*")), "checkpoints are removed all the same"


def test_a_worker_that_lost_its_lease_writes_nothing_more(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    late = search.hire(FakeTraining())
    before: list[tuple[FrozenTrial, slots.SlotRow]] = []

    def lose_lease(epoch: int) -> None:
        if epoch == 2:
            # another one takes the slot over while this epoch is trained
            seen = iter([0.0] * 4 + [100.0] * 4)
            other = slots.Slots(search.base, "s", 60.0, monotonic=lambda: next(seen))
            registry.register(search.base, search.study, trials=1)
            assert other.claim() is None
            assert other.claim() is not None
            before.append((search.trials[0], search.table.rows()[0]))

    late.train = FakeTraining(before_epoch=lose_lease)
    claim = late.slots.claim()
    assert claim is not None
    late.run_claim(claim)
    assert before == [(search.trials[0], search.table.rows()[0])]
    assert search.trials[0].state == TrialState.RUNNING
    assert "another worker owns it now" in caplog.text


def test_a_trial_that_somebody_finished_ends_without_a_write(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[FrozenTrial] = []

    def finish_it(epoch: int) -> None:
        if epoch == 2 and not told:
            study = optuna.load_study(study_name="s", storage=search.base.storage)
            told.append(study.tell(0, state=TrialState.FAIL))

    search.run(FakeTraining(before_epoch=finish_it))
    assert search.trials[0] == told[0]
    assert "somebody else finished its trial" in caplog.text
    assert search.table.rows()[0].outcome == "failed:told from outside"
    assert search.table.counts() == slots.Counts(4, 0, 0, 4)


@pytest.mark.parametrize("error", [StorageError("the database is gone"), StorageInternalError()])
def test_a_lost_database_ends_the_worker_and_gives_the_slot_back(
    search: Search, error: Exception
) -> None:
    with pytest.raises(type(error)):
        search.run(FakeTraining({(1, 2): error}))
    assert search.trials[0].state == TrialState.RUNNING
    assert search.table.counts() == slots.Counts(4, 4, 0, 0)
    search.run(FakeTraining())
    search.check_budget(4)


def test_a_worker_that_cannot_even_release_still_says_what_happened(
    search: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: Any) -> None:
        raise StorageError("no route to host")

    monkeypatch.setattr(slots.Slots, "release", unreachable)
    with pytest.raises(StorageError, match="the database is gone"):
        search.run(FakeTraining({(1, 2): StorageError("the database is gone")}))
    assert "could not be released: no route to host" in caplog.text


def test_the_lease_is_renewed_while_an_epoch_lasts(search: Search) -> None:
    renewed = threading.Event()

    class Watched(slots.Slots):
        def renew(self, claim: slots.Claim) -> None:
            super().renew(claim)
            if threading.current_thread() is not threading.main_thread():
                renewed.set()

    def wait(epoch: int) -> None:
        assert renewed.wait(30), "no sign of life during the epoch"

    table = Watched(search.base, "s", lease_seconds=0.02)
    search.hire(FakeTraining(before_epoch=wait), table).run(poll_seconds=0)
    search.check_budget(4)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lease-")]


class Outage:
    """The database as Optuna and the slots see it: away from one epoch on, back at another."""

    def __init__(self, search: Search, patched: pytest.MonkeyPatch) -> None:
        self.away = False
        self.asked = 0
        transaction, repeated = database.Database.transaction, fenced.FencedStorage._repeated

        def check() -> None:
            if self.away:
                self.asked += 1
                raise StorageLost("connection refused")

        def guarded(base: database.Database) -> Any:
            check()
            return transaction(base)

        def tried(storage: Any, operation: Any, writes: bool) -> Any:
            def once() -> Any:
                check()
                return operation()

            return repeated(storage, once, writes)

        patched.setattr(database.Database, "transaction", guarded)
        patched.setattr(fenced.FencedStorage, "_repeated", tried)

    def at(self, gone: int, back: int | None = None) -> Callable[[int], None]:
        """Go when an epoch begins, and come back when a later one does."""

        def before(epoch: int) -> None:
            self.away = epoch == gone or (self.away and epoch != back)

        return before


def test_training_goes_on_while_the_database_is_away_and_reports_what_it_owes(
    search: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    search.begin(study_of(1, epochs=5).model_copy(update={"name": "away"}))
    outage, training = Outage(search, monkeypatch), FakeTraining()
    training.before_epoch = outage.at(gone=2, back=4)
    search.run(training)
    assert outage.asked >= 2, "it was tried, and nobody waited"
    (trial,) = search.trials
    assert len(training.calls) == 1
    assert trial.state == TrialState.COMPLETE
    assert list(trial.intermediate_values) == [1, 2, 3, 4, 5]
    assert trial.user_attrs["attempts"] == 1
    assert "trial 0 trains on and reports later" in caplog.text
    assert caplog.text.count("trains on and reports later") == 1
    assert "trial 0 has reported what it owed" in caplog.text


def test_a_trial_that_ends_in_an_outage_is_told_once_it_is_over(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.begin(study_of(1).model_copy(update={"name": "late"}))
    outage, waits = Outage(search, monkeypatch), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        outage.away = len(waits) < 3

    monkeypatch.setattr(search.base.patience, "_sleep", sleep)
    monkeypatch.setattr(search.base.patience, "seconds", 60.0)
    search.run(FakeTraining(before_epoch=outage.at(gone=3)))
    assert len(waits) >= 3
    (trial,) = search.trials
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.COMPLETE, [1, 2, 3])
    search.check_budget(1)


def test_while_the_database_is_away_nobody_prunes(
    search: Search, monkeypatch: pytest.MonkeyPatch, prune: Callable[..., Pruner]
) -> None:
    search.begin(study_of(1, epochs=4).model_copy(update={"name": "unpruned"}))
    pruner = prune()
    outage = Outage(search, monkeypatch)
    search.run(FakeTraining(before_epoch=outage.at(gone=1, back=3)))
    assert pruner.asked == [3], "the newest epoch is judged once it is back, the last one never"


def asking(drain: draining.Drain, at: int) -> Callable[[int], None]:
    def before(epoch: int) -> None:
        if epoch == at:
            drain.ask("SIGTERM")

    return before


def test_who_is_asked_to_leave_finishes_its_epoch_and_gives_its_slot_back(search: Search) -> None:
    search.begin(study_of(2).model_copy(update={"name": "drained"}))
    drain = draining.Drain()
    training = FakeTraining(before_epoch=asking(drain, at=2))
    reason = search.hire(training, drain=drain).run(poll_seconds=0)
    assert reason == "SIGTERM: trial 0 stays at epoch 2"
    (trial,) = search.trials
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.RUNNING, [1, 2])
    assert search.table.counts() == slots.Counts(2, 2, 0, 0)
    assert [row.end for row in search.table.attempts()] == ["released"]
    again = FakeTraining()
    search.run(again)
    assert again.calls[0][2] is not None and again.calls[0][2].stem == "epoch-0002"
    search.check_budget(2)


def test_who_is_asked_to_leave_in_the_last_epoch_finishes_the_trial(search: Search) -> None:
    search.begin(study_of(2).model_copy(update={"name": "last"}))
    drain = draining.Drain()
    training = FakeTraining(before_epoch=asking(drain, at=EPOCHS))
    assert search.hire(training, drain=drain).run(poll_seconds=0) == "SIGTERM"
    assert [trial.state for trial in search.trials] == [TrialState.COMPLETE]
    assert search.table.counts() == slots.Counts(2, 1, 0, 1)


def test_igkd_stop_reaches_who_is_there_and_not_who_comes_later(search: Search) -> None:
    search.begin(study_of(2).model_copy(update={"name": "stopped"}))

    def stop(epoch: int) -> None:
        if epoch == 2:
            searches.ask_to_stop(search.base, "stopped")
            patched.setattr(worker, "_BEAT_SECONDS", 0.0)

    with pytest.MonkeyPatch.context() as patched:
        reason = search.hire(FakeTraining(before_epoch=stop)).run(poll_seconds=0)
    assert reason.startswith("igkd stop: trial 0 stays at epoch 2")
    wanted_before = search.hire(FakeTraining(), stops=0)
    assert wanted_before.run(poll_seconds=0) == "igkd stop"
    assert not search.table.counts().done
    assert search.hire(FakeTraining()).run(poll_seconds=0) == "budget"
    search.check_budget(2)


def test_the_register_tells_what_a_worker_does_and_that_it_left(search: Search) -> None:
    found: list[workers.WorkerRow] = []

    def look(epoch: int) -> None:
        found.extend(workers.rows(search.base, "s", identities.this_process()))

    machine = workers.Machine("cuda:3", "GPU-9", {"torch": "2.15"})
    hired = search.hire(FakeTraining(before_epoch=look), machine=machine)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker, "_BEAT_SECONDS", 0.0)
        hired.run(poll_seconds=0)
    third = found[2]
    assert (third.device, third.uuid, third.state) == ("cuda:3", "GPU-9", "training")
    assert (third.trial_number, third.epoch, third.epochs) == (0, 2, EPOCHS)
    assert third.images_per_s == 100.0 and third.alive
    (row,) = workers.rows(search.base, "s", identities.this_process())
    assert (row.state, row.trial_number) == ("left", None)


def test_a_trial_that_begins_has_none_of_the_epochs_of_the_one_before(search: Search) -> None:
    found: list[tuple[int | None, int | None]] = []

    def look(epoch: int) -> None:
        hired.register.beat()
        (row,) = workers.rows(search.base, "s", identities.this_process())
        found.append((row.trial_number, row.epoch))

    hired = search.hire(FakeTraining(before_epoch=look))
    hired.run(poll_seconds=0)
    assert [found[place * EPOCHS] for place in range(3)] == [(0, 0), (1, 0), (2, 0)]


def test_patience_begins_nothing_fresh(search: Search) -> None:
    study = study_of(9, patience=2, start=[{"temperature": 2.0, "kd_weight": 1.0}])
    search.begin(study.model_copy(update={"name": "patient"}))
    reason = search.hire(FakeTraining()).run(poll_seconds=0)
    assert "the last 2 trials brought none that is better" in reason
    assert len(search.trials) == 3
    assert search.table.counts() == slots.Counts(9, 6, 0, 3)


def test_hours_begin_nothing_fresh_but_what_has_begun_is_finished(search: Search) -> None:
    search.begin(study_of(3, hours=1).model_copy(update={"name": "hours"}))
    with pytest.raises(KeyboardInterrupt):
        search.run(FakeTraining({(1, 2): KeyboardInterrupt()}))
    with search.base.transaction() as connection:
        connection.execute(sa.update(schema.searches).values(seconds=3600.0))
    reason = search.hire(FakeTraining()).run(poll_seconds=0)
    assert reason.startswith("search.hours = 1 are spent")
    assert [trial.state for trial in search.trials] == [TrialState.COMPLETE]


def test_what_is_queued_is_tried_next_after_the_start_points(search: Search) -> None:
    queued.add(search.base, "s", [{"temperature": 7.0, "kd_weight": 0.125}, {"kd_weight": 0.75}])
    search.run(FakeTraining())
    by_slot = {trial.user_attrs["slot"]: trial for trial in search.trials}
    assert by_slot[0].params == START
    assert by_slot[1].params == {"temperature": 7.0, "kd_weight": 0.125}
    assert by_slot[2].params["kd_weight"] == 0.75
    assert [by_slot[slot].user_attrs["proposed_by"] for slot in range(3)] == [
        "start",
        "queue",
        "queue",
    ]
    assert queued.waiting(search.base, "s") == []


def test_a_queued_configuration_survives_a_crash_of_who_took_it(search: Search) -> None:
    queued.add(search.base, "s", [{"kd_weight": 0.125}])
    table = other_process(search)
    with pytest.MonkeyPatch.context() as patched:
        crash_at(patched, "before enqueue", 2)
        with pytest.raises(KeyboardInterrupt):
            search.hire(FakeTraining(), table).run(poll_seconds=0)
    search.run(FakeTraining())
    search.check_budget(4)
    (trial,) = [t for t in search.trials if t.user_attrs["proposed_by"] == "queue"]
    assert (trial.user_attrs["slot"], trial.params["kd_weight"]) == (1, 0.125)


def test_a_trial_that_takes_its_workers_with_it_is_given_up(search: Search) -> None:
    search.begin(study_of(1, max_attempts=2).model_copy(update={"name": "poison"}))
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patched:
            crash_at(patched, "after report", 1)
            with pytest.raises(KeyboardInterrupt):
                search.hire(FakeTraining(), other_process(search)).run(poll_seconds=0)
    search.run(FakeTraining())
    (first,) = search.trials
    assert first.state == TrialState.FAIL
    assert first.user_attrs["cause"] == "lost" and first.user_attrs["attempts"] == 3
    reason = first.user_attrs["reason"]
    assert "2 attempts ended with their worker's death, the last on" in reason
    assert "raise search.max_attempts" in reason
    assert search.table.counts() == slots.Counts(1, 0, 0, 1)


def test_a_pareto_study_is_told_accuracy_and_latency_and_prunes_nothing(search: Search) -> None:
    shapes = {**SPACE, "removed_blocks": {"choices": [4, 5]}}
    study = study_of(2, objectives=["accuracy", "latency_ms"], space=shapes)
    search.begin(study.model_copy(update={"name": "pareto"}))
    search.run(FakeTraining())
    for trial in search.trials:
        assert trial.values == [trial.user_attrs["accuracy"], 1.5]
        assert trial.intermediate_values == {}
        assert trial.user_attrs["epochs"] == EPOCHS
    search.check_budget(2)


def test_a_trial_says_how_far_it_is_within_the_latency_budget(search: Search) -> None:
    search.begin(study_of(2, latency_budget_ms=2.0).model_copy(update={"name": "bounded"}))
    search.run(FakeTraining({(2, 1): TrialError("diverged", "nan")}))
    assert [trial.constraints for trial in search.trials] == [{"latency_ms": -0.5}] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_is_visited_point_by_point_by_several_workers(kind: Kind, tmp_path: Path) -> None:
    base = database.connect(prepared_url(kind, tmp_path))
    space_ = {
        "temperature": {"choices": [1.0, 2.0, 4.0, 8.0]},
        "kd_weight": {"choices": [0.1, 0.9]},
    }
    study = study_of(8, sampler="grid", space=space_, start=[])
    registry.register(base, study)
    hired = [Search(base, tmp_path / "c", study).hire(FakeTraining()) for _ in range(4)]
    working = list(hired)
    while working:
        working = [worker for worker in working if worker.run_one()]
    trials = hired[0].optuna_study.trials
    assert len(trials) == len({tuple(sorted(trial.params.items())) for trial in trials}) == 8
    base.close()


def test_a_machine_that_fails_ends_its_worker_and_spends_no_slot(search: Search) -> None:
    search.begin(study_of(2).model_copy(update={"name": "broken"}))
    broken = FakeTraining({(1, 2): MachineError("CUDA error: device lost")})
    with pytest.raises(MachineError):
        search.hire(broken, other_process(search)).run(poll_seconds=0)
    assert len(broken.calls) == 1, "nothing else is claimed on such a machine"
    assert search.trials[0].state == TrialState.RUNNING
    search.run(FakeTraining())
    search.check_budget(2)
    assert [row.end for row in search.table.attempts()] == ["died", "done", "done"]


def test_an_error_in_proposing_costs_its_trial_only(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.begin(study_of(3).model_copy(update={"name": "unproposed"}))
    suggest = space.suggest

    def fail_once(trial: optuna.Trial, study: spec.Study) -> spec.TrialConfig:
        if trial.number == 1:
            raise ArithmeticError("singular matrix")
        return suggest(trial, study)

    monkeypatch.setattr(space, "suggest", fail_once)
    search.run(FakeTraining())
    states = [trial.state for trial in search.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert search.trials[1].user_attrs["cause"] == "bug"
    assert "singular matrix" in search.trials[1].user_attrs["reason"]
    assert search.table.counts() == slots.Counts(3, 0, 0, 3)


def test_who_has_lost_its_lease_stops_after_its_epoch_even_if_it_writes_nothing(
    search: Search,
) -> None:
    shapes = {**SPACE, "removed_blocks": {"choices": [4, 5]}}
    study = study_of(1, epochs=5, objectives=["accuracy", "latency_ms"], space=shapes)
    search.begin(study.model_copy(update={"name": "late"}))
    table = slots.Slots(search.base, "late", lease_seconds=0.02)
    training, noticed = FakeTraining(), threading.Event()
    hired = search.hire(training, table)

    def lose(epoch: int) -> None:
        if epoch == 2:
            with search.base.transaction() as connection:
                connection.execute(sa.update(schema.slots).values(attempt=9))
            noticed.set()
            assert hired._lost.wait(30), "the renewal noticed it"

    training.before_epoch = lose
    claim = table.claim()
    assert claim is not None
    hired.run_claim(claim)
    assert noticed.is_set() and search.trials[0].state == TrialState.RUNNING
    folder = training.folders[0]
    assert [path.name for path in folder.iterdir()] == ["epoch-0002.safetensors"]


def test_points_are_reached_in_their_order(search: Search) -> None:
    search.begin(study_of(1, epochs=1).model_copy(update={"name": "points"}))
    reached: list[str] = []
    search.hire(FakeTraining(), reached=reached.append).run(poll_seconds=0)
    assert reached == list(worker.POINTS)
