"""A search from end to end on tiny materials: facts, again means continue, and what is refused."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import load_file, save, save_file

from igkd_search import (
    additions,
    checkpoints,
    database,
    draining,
    evaluation,
    export,
    final,
    fitting,
    identities,
    inventory,
    latency,
    launch,
    materials,
    onnx_export,
    overlay_bank,
    registry,
    results,
    schema,
    searches,
    slots,
    spec,
    study_file,
    training,
    workers,
)
from igkd_search.errors import DataError, MaterialError, StorageError, StudyError
from igkd_search.vault import Vault
from tests import tiny


@pytest.fixture
def mine(searched: Path, tmp_path: Path) -> Path:
    """A home of this test's own, in which a search of two trials is finished."""
    return Path(shutil.copytree(searched, tmp_path / "home"))


@pytest.fixture
def base(mine: Path) -> Iterator[database.Database]:
    opened = database.connect(f"sqlite:///{mine / 'igkd.db'}")
    yield opened
    opened.close()


def facts_of(base: database.Database) -> dict[str, Any]:
    record = base.read_study("tiny")
    assert record is not None
    return record.facts


def listing(folder: Path) -> dict[Path, int]:
    """Every file below the folder, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def with_checkpoint(study: spec.Study, path: Path) -> spec.Study:
    teacher = study.teacher.model_copy(update={"checkpoint": str(path)})
    return study.model_copy(update={"teacher": teacher})


def no_training(*_: Any, **__: Any) -> Iterator[fitting.EpochRecord]:
    raise AssertionError("nothing was left to train")


def test_a_search_ends_with_its_budget_spent_and_a_winner(
    base: database.Database, study: spec.Study
) -> None:
    assert slots.Slots(base, "tiny").counts() == slots.Counts(2, 0, 0, 2)
    theirs = optuna.load_study(study_name="tiny", storage=base.url)
    assert [trial.state.name for trial in theirs.trials] == ["COMPLETE"] * 2
    assert sorted(theirs.best_trial.params) == sorted(study.search.space)
    assert [list(trial.intermediate_values) for trial in theirs.trials] == [[1, 2]] * 2
    assert results.best(theirs) is not None


def test_the_study_remembers_what_its_materials_are(
    base: database.Database, shared: materials.Materials, mine: Path
) -> None:
    facts = facts_of(base)
    found = json.loads(json.dumps(shared.facts()))
    assert {name: facts[name] for name in found} == found
    assert facts["teacher_accuracy"] == shared.teacher.accuracy
    assert facts["seconds"] > 0
    kept = mine / facts["teacher_file"]
    assert not Path(facts["teacher_file"]).is_absolute(), "the home may be moved"
    assert kept.read_bytes() == shared.teacher.weights.read_bytes()


def test_the_study_names_the_entries_that_its_materials_came_from(
    base: database.Database, study: spec.Study, mine: Path
) -> None:
    named = facts_of(base)["entries"]
    assert {name.partition("/")[0] for name in named} == {
        "teacher",
        "overlays",
        "targets",
        "latency",
        "onnx",
    }
    assert all((mine / "vault" / name / "manifest.json").is_file() for name in named)
    # what another host has written down stays
    base.update_facts("tiny", entries=["latency/0123456789abcdef"])
    launch.prepare(base, study, mine)
    assert facts_of(base)["entries"] == sorted([*named, "latency/0123456789abcdef"])


def test_nobody_prunes_between_the_first_entry_and_the_registration(
    study: spec.Study, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = database.connect(f"sqlite:///{mine / 'fresh.db'}")
    register, refused = registry.register, list[str]()

    def pruned_before(*arguments: Any) -> None:
        with pytest.raises(StorageError, match="a process is preparing") as caught:
            inventory.prune(Vault(mine / "vault"), base)
        refused.append(str(caught.value))
        register(*arguments)

    monkeypatch.setattr(registry, "register", pruned_before)
    launch.prepare(base, study, mine)
    assert len(refused) == 1
    assert inventory.prune(Vault(mine / "vault"), base) == []
    base.close()


def test_each_trial_carries_the_one_figure_of_its_architecture(
    base: database.Database, shared: materials.Materials
) -> None:
    student, teacher = shared.latency[tiny.STUDENT], shared.latency["teacher"]
    for row in results.rows(results.open_study(base, "tiny")):
        found = row.attributes
        assert found["architecture"] == tiny.STUDENT
        assert found["latency_ms"] == student.timing.onnxruntime.median_ms
        assert found["parameters"] == student.parameters
        assert found["compression"] == round(teacher.parameters / student.parameters, 4)
        assert found["device"] == "cpu"


def test_the_same_trial_trained_alone_gives_the_same_accuracy(
    base: database.Database, study: spec.Study, stock: training.Stock
) -> None:
    row = results.rows(results.open_study(base, "tiny"))[1]
    assert row.slot is not None
    seed = spec.trial_seed(study.search.seed, row.slot)
    config = study.trial.model_copy(update=row.parameters)
    *_, last = training.train(config, stock, seed)
    assert (row.seed, row.accuracy) == (seed, last.accuracy)
    names = ("validation_loss", "calibration_error", "raw_accuracy", "raw_validation_loss")
    assert {name: row.attributes[name] for name in names} == {
        name: getattr(last, name) for name in names
    }
    assert last.confusion is not None
    found = results.classes(base, "tiny", row)
    assert found["confusion"] == [list(counts) for counts in last.confusion]
    shares = evaluation.class_accuracy(last.confusion)
    assert found["class_accuracy"] == dict(zip(("0", "1", "2"), shares, strict=True))


def test_checkpoints_are_as_rare_and_threads_as_many_as_is_said(
    base: database.Database, study: spec.Study, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, seen = training.train, list[tuple[int, bool]]()

    def watched(*arguments: Any, **options: Any) -> Iterator[fitting.EpochRecord]:
        for record in train(*arguments, **options):
            seen.append((torch.get_num_threads(), checkpoints.newest(options["save_to"]) is None))
            yield record

    monkeypatch.setattr(training, "train", watched)
    # how often is no part of the question
    rarely = study.search.model_copy(update={"checkpoint_every": 2})
    launch.search(base, study.model_copy(update={"search": rarely}), mine, trials=3)
    threads = results.rows(results.open_study(base, "tiny"))[2].attributes["threads"]
    assert seen == [(threads, True), (threads, False)]


def test_a_trial_that_diverges_says_where_and_the_next_one_runs(
    arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    span = {"low": 1e-3, "high": 1e30, "log": True}
    start = [{"learning_rate": 1e30}, {"learning_rate": 0.1}]
    asked = tiny.study(arrays, search={"space": {"learning_rate": span}, "start": start})
    kinds = ("teacher", "overlays", "targets", "latency", "onnx")
    there = tiny.copy_entries(home, tmp_path / "there", *kinds)
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    launch.search(base, asked, there, trials=2)
    failed, other = results.rows(results.open_study(base, "tiny"))
    assert (failed.state, failed.cause, other.state) == ("failed", "diverged", "complete")
    assert failed.reason is not None
    assert re.match(r"diverged: training loss \S+ at step \d of 5, epoch 1 of 2; ", failed.reason)
    assert "batch_size = 12" in failed.reason and "learning_rate = 1e+30" in failed.reason
    assert [row.outcome for row in slots.Slots(base, "tiny").rows()] == [
        "failed:diverged",
        "complete",
    ]
    base.close()


def test_a_device_is_asked_for_in_one_place_and_a_bad_one_writes_nothing(
    study: spec.Study, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    kinds = ("teacher", "overlays", "targets", "latency", "onnx")
    there = tiny.copy_entries(home, tmp_path / "there", *kinds)
    before = listing(there)
    for attempt in (
        lambda: launch.check(study, there, device="abacus"),
        lambda: launch.prepare(base, study, there, device="abacus"),
        lambda: launch.search(base, study, there, device="abacus"),
    ):
        with pytest.raises(StudyError, match=r"--device = abacus: .* allowed: cuda, cuda:N, mps"):
            attempt()
    assert listing(there) == before and base.study_names() == []
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("IGKD_DEVICE", "abacus")
        launch.search(base, study, there, trials=1, device="cpu")
    (row,) = results.rows(results.open_study(base, "tiny"))
    assert row.attributes["device"] == "cpu"
    base.close()


def test_a_second_search_does_nothing(
    base: database.Database, study: spec.Study, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", no_training)
    before, facts = results.rows(results.open_study(base, "tiny")), facts_of(base)
    files = listing(mine / "vault")
    launch.search(base, study, mine, trials=2)
    assert results.rows(results.open_study(base, "tiny")) == before
    assert facts_of(base) | {"seconds": facts["seconds"]} == facts
    assert listing(mine / "vault") == files


def test_a_larger_budget_runs_only_what_is_missing_on_the_same_materials(
    base: database.Database, study: spec.Study, mine: Path
) -> None:
    before, facts = results.rows(results.open_study(base, "tiny")), facts_of(base)
    files = listing(mine / "vault")
    launch.search(base, study, mine, trials=3)
    after = results.rows(results.open_study(base, "tiny"))
    assert after[:2] == before
    assert [row.state for row in after] == ["complete"] * 3
    assert listing(mine / "vault") == files
    assert facts_of(base)["seconds"] > facts["seconds"]


def test_an_interrupted_search_goes_on_and_its_time_counts(
    base: database.Database, study: spec.Study, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, stopped = training.train, list[int]()

    def interrupted(*arguments: Any, **options: Any) -> Iterator[fitting.EpochRecord]:
        for record in train(*arguments, **options):
            if stopped == [1]:
                stopped.append(record.epoch)
                raise KeyboardInterrupt
            stopped.append(record.epoch)
            yield record

    facts = facts_of(base)
    with monkeypatch.context() as patched:
        patched.setattr(training, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launch.search(base, study, mine, trials=3)
    assert stopped == [1, 2]
    assert facts_of(base)["seconds"] > facts["seconds"]
    assert slots.Slots(base, "tiny").counts() == slots.Counts(3, 1, 0, 2)
    launch.search(base, study, mine, trials=3)
    row = results.rows(results.open_study(base, "tiny"))[2]
    assert (row.state, row.epochs, row.attempts) == ("complete", 2, 2)


def test_a_teacher_alone_is_what_the_whole_preparation_goes_on_from(
    study: spec.Study,
    shared: materials.Materials,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = tiny.copy_entries(home, tmp_path / "home", "overlays", "targets", "latency", "onnx")
    before = listing(fresh)
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    alone = launch.teach(base, study, fresh)
    assert alone.facts() == {
        "teacher_accuracy": shared.teacher.accuracy,
        "fingerprints": {"teacher": shared.teacher.digest},
    }
    made = {path.relative_to(fresh).parts[1] for path in {*listing(fresh)} - {*before}}
    assert "teacher" in made and not made & {"overlays", "targets", "latency", "onnx"}
    assert base.read_study("tiny") is None
    monkeypatch.setattr(fitting, "fit", no_training)
    assert launch.teach(base, study, fresh).digest == alone.digest
    launch.prepare(base, study, fresh)
    assert facts_of(base)["teacher_accuracy"] == alone.accuracy
    base.close()


def test_latency_is_measured_once_for_all_trials_of_a_study(
    base: database.Database, study: spec.Study, mine: Path
) -> None:
    other = facts_of(base)["latency"]
    other[tiny.STUDENT]["onnxruntime"]["median_ms"] = 123.0
    base.update_facts("tiny", latency=other)
    shared = launch.prepare(base, study, mine, trials=2)
    assert facts_of(base)["latency"] == other
    told = launch.describe(study, shared, "cpu")(study.trial)
    assert told["latency_ms"] == 123.0, "whatever this host would measure"


def test_who_joins_works_off_what_is_open_and_leaves_the_budget_alone(
    base: database.Database, study: spec.Study, mine: Path
) -> None:
    slots.Slots(base, "tiny").set_budget(3)
    question = tiny_with_budget(study, 50)
    before = base.read_study("tiny")
    assert launch.join(base, question, mine) == "budget"
    after = base.read_study("tiny")
    assert before is not None and after is not None
    assert (after.trials, after.question) == (before.trials, before.question)
    assert slots.Slots(base, "tiny").counts() == slots.Counts(3, 0, 0, 3)
    row = workers.rows(base, "tiny", identities.this_process())[-1]
    assert (row.device, row.uuid, row.state) == ("cpu", None, "left")
    assert set(row.versions) == {"igkd-search", "torch", "optuna"}


def tiny_with_budget(study: spec.Study, trials: int) -> spec.Study:
    search = study.search.model_copy(update={"trials": trials})
    return study.model_copy(update={"search": search})


def test_students_over_the_latency_budget_leave_the_space_before_the_first_ask(
    shared: materials.Materials, arrays: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "igkd_search")
    ranges = {"removed_blocks": {"low": 13, "high": 15, "step": 1}}
    study = tiny.study(arrays, search={"latency_budget_ms": 2.0, "space": ranges})
    row = shared.latency[tiny.STUDENT]
    table = {f"mobilenet_v2-{removed}-x0.1": in_ms(row, ms) for removed, ms in LATENCIES.items()}
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    registry.register(base, study)
    told = dataclasses.replace(shared, latency={"teacher": row, **table})
    hired = launch.hire(base, study, tmp_path, told, "cpu", draining.Drain())
    assert hired.study.search.space["removed_blocks"].values() == [14, 15]
    assert "not searched: mobilenet_v2-13-x0.1: 3 ms, over search.latency_budget" in caplog.text
    slow = {name: in_ms(row, 5.0) for name in table}
    told = dataclasses.replace(shared, latency={"teacher": row, **slow})
    with pytest.raises(StudyError, match=r"the nearest is mobilenet_v2-13-x0\.1: 5 ms"):
        launch.hire(base, study, tmp_path, told, "cpu", draining.Drain())
    base.close()


def test_a_front_of_width_and_resolution_holds_only_what_is_fast_enough(
    shared: materials.Materials, arrays: Path, tmp_path: Path
) -> None:
    ranges: dict[str, Any] = {
        "width": {"choices": [0.1, 0.3]},
        "resolution": {"low": 4, "high": 8, "step": 2},
        "kd_weight": {"low": 0.0, "high": 1.0},
    }
    search = {"objectives": ["accuracy", "latency_ms"], "min_speedup": 10, "trials": 6}
    study = tiny.study(arrays, trial={"epochs": 1}, search={**search, "space": ranges})
    row, table = shared.latency["teacher"], {}
    for each in study.students():
        assert each.resolution is not None
        table[each.name] = in_ms(row, each.width * each.resolution**2)  # from 1.6 to 19.2 ms
    told = dataclasses.replace(shared, latency={"teacher": in_ms(row, 64.0), **table})
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    registry.register(base, study)
    base.update_facts("tiny", **told.facts())
    hired = launch.hire(base, study, tmp_path, told, "cpu", draining.Drain())
    fast = [name for name, figures in table.items() if figures.timing.onnxruntime.median_ms <= 6.4]
    assert hired.study.search.students == fast and len(fast) == 4
    assert hired.run() == "budget"
    found = results.rows(results.open_study(base, "tiny"))
    assert [each.state for each in found] == ["complete"] * 6
    assert all(each.feasible and each.attributes["speedup"] >= 10 for each in found)
    assert {each.attributes["architecture"] for each in found} <= set(fast)
    front = results.front(results.open_study(base, "tiny"))
    assert front and front[0].accuracy == max(each.accuracy or 0 for each in found)
    with pytest.raises(StudyError, match=r"resolution = 8.* no student|no student of the search"):
        additions.add(base, "tiny", ["width=0.3", "resolution=8"])
    base.close()


LATENCIES = {13: 3.0, 14: 2.0, 15: 1.0}


def in_ms(row: materials.Latency, milliseconds: float) -> materials.Latency:
    stats = dataclasses.replace(row.timing.onnxruntime, median_ms=milliseconds)
    return dataclasses.replace(row, timing=dataclasses.replace(row.timing, onnxruntime=stats))


def test_who_joins_a_study_that_has_not_begun_is_told_what_to_type(
    study: spec.Study, tmp_path: Path
) -> None:
    empty = database.connect(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(StudyError, match="has not begun: type 'igkd run tiny' once, or"):
        launch.join(empty, study, tmp_path / "home")
    empty.close()
    assert not (tmp_path / "home").exists()


def test_a_word_to_stop_while_materials_are_built_is_heard(
    base: database.Database, study: spec.Study, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots.Slots(base, "tiny").set_budget(3)
    prepare = materials.prepare

    def stopped(*arguments: Any, **options: Any) -> materials.Materials:
        searches.ask_to_stop(base, "tiny")
        return prepare(*arguments, **options)

    monkeypatch.setattr(materials, "prepare", stopped)
    assert launch.join(base, study, mine) == "igkd stop"
    assert slots.Slots(base, "tiny").counts().done == 2


@pytest.fixture
def rival(
    study: spec.Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[database.Database, Path, Callable[[materials.Materials], None]]]:
    """A fresh database and a home; and a way to say what its host has built when another, which
    began at the same time, has been faster."""
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    kinds = ("teacher", "overlays", "targets", "latency", "onnx")
    slow, fast = (tiny.copy_entries(home, tmp_path / name, *kinds) for name in ("slow", "fast"))
    prepare, built = materials.prepare, list[materials.Materials]()

    def overtaken(*arguments: Any) -> materials.Materials:
        found = prepare(*arguments)
        if not built:
            return found
        other = built.pop()
        launch.prepare(base, study, fast)
        return other

    monkeypatch.setattr(materials, "prepare", overtaken)
    yield base, slow, built.append
    base.close()


def test_of_two_hosts_that_begin_at_once_the_first_to_finish_decides_the_figures(
    rival: tuple[database.Database, Path, Callable[[materials.Materials], None]],
    study: spec.Study,
    shared: materials.Materials,
) -> None:
    base, slow, say = rival
    row = shared.latency[tiny.STUDENT]
    otherwise = {name: dataclasses.replace(row, macs=7) for name in shared.latency}
    say(dataclasses.replace(shared, latency=otherwise, entries=("overlays/0123456789abcdef",)))
    found = launch.prepare(base, study, slow)
    assert found.latency == shared.latency  # law 11: one figure, on whichever host
    facts = facts_of(base)
    assert {name: row.as_dict() for name, row in found.latency.items()} == facts["latency"]
    assert "overlays/0123456789abcdef" in facts["entries"]  # both homes' entries are named
    assert any(name.startswith("targets/") for name in facts["entries"])


@pytest.mark.parametrize("part", ["data", "teacher", "overlays", "targets"])
def test_of_two_hosts_with_other_materials_the_later_one_is_refused(
    rival: tuple[database.Database, Path, Callable[[materials.Materials], None]],
    study: spec.Study,
    shared: materials.Materials,
    part: str,
) -> None:
    base, slow, say = rival
    say(dataclasses.replace(shared, fingerprints={**shared.fingerprints, part: "f" * 64}))
    with pytest.raises(StudyError, match=f"study 'tiny' began with another {part}"):
        launch.prepare(base, study, slow)
    assert facts_of(base)["fingerprints"] == dict(shared.fingerprints)


def test_another_budget_keeps_the_targets_that_the_study_began_with(
    base: database.Database, study: spec.Study, mine: Path
) -> None:
    options = study.materials.model_copy(update={"targets": "auto"})
    auto = study.model_copy(update={"materials": options})
    base.set_question("tiny", auto.model_dump(mode="json"))
    bank = facts_of(base)["fingerprints"]["targets"]
    for begun in ("live", "bank"):
        prints = facts_of(base)["fingerprints"]
        digest = bank if begun == "bank" else "live"
        base.update_facts("tiny", targets=begun, fingerprints={**prints, "targets": digest})
        shared = launch.prepare(base, auto, mine)
        assert (shared.targets is None) == (begun == "live")


@pytest.mark.parametrize("fault", [{"validation": 5}, {"classes": 2}, {"limit": 99_999}])
def test_a_source_without_a_download_is_checked_before_anything_is_written(
    fault: dict[str, int], tmp_path: Path
) -> None:
    study = registry.find("digits")
    wrong = study.model_copy(update={"data": study.data.model_copy(update=fault)})
    with pytest.raises(DataError):
        launch.check(wrong, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_changed_data_are_refused_before_anything_is_built(
    base: database.Database, study: spec.Study, mine: Path, arrays: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(arrays, tmp_path / "arrays"))
    pixels = np.load(other / "train_images.npy")
    pixels[0, 0, 0, 0] ^= 1
    np.save(other / "train_images.npy", pixels)
    moved = study.model_copy(update={"data": study.data.model_copy(update={"path": str(other)})})
    before, files = base.read_study("tiny"), listing(mine / "vault")
    with pytest.raises(StudyError, match=r"began with another data .*cannot be compared"):
        launch.search(base, moved, mine, trials=9)
    assert base.read_study("tiny") == before
    assert listing(mine / "vault") == files


def test_data_that_only_moved_are_the_same(
    base: database.Database, study: spec.Study, mine: Path, arrays: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(arrays, tmp_path / "arrays")
    moved = study.model_copy(update={"data": study.data.model_copy(update={"path": str(other)})})
    launch.prepare(base, moved, mine, trials=2)
    assert registry.find("tiny", base).data.path == str(other)


def test_another_teacher_file_is_refused(
    study: spec.Study, shared: materials.Materials, home: Path, tmp_path: Path
) -> None:
    fresh = tiny.copy_entries(home, tmp_path / "home", "latency", "onnx")
    base = database.connect(f"sqlite:///{fresh / 'igkd.db'}")
    path = tmp_path / "given.safetensors"
    shutil.copy(shared.teacher.weights, path)
    given = with_checkpoint(study, path)
    launch.prepare(base, given, fresh)
    assert facts_of(base)["teacher_file"] == str(path)
    before = base.read_study("tiny")
    save_file({name: value * 1 for name, value in load_file(path).items()}, path, {"note": "new"})
    with pytest.raises(StudyError, match="began with another teacher"):
        launch.prepare(base, given, fresh, trials=9)
    assert base.read_study("tiny") == before
    base.close()


# --- one teacher for all hosts


def another_host(home: Path, place: Path) -> Path:
    """A home without a teacher and its banks; ONNX files and times are made long enough already."""
    return tiny.copy_entries(home, place, "latency", "onnx")


def test_another_host_builds_its_banks_from_the_teacher_that_is_kept(
    base: database.Database,
    study: spec.Study,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there, facts = another_host(home, tmp_path / "there"), facts_of(base)
    monkeypatch.setattr(fitting, "fit", no_training)
    for _ in range(2):
        shared = launch.prepare(base, study, there, trials=2)
        assert shared.teacher.digest == facts["fingerprints"]["teacher"]
        assert shared.teacher.weights.is_relative_to(there / "vault" / "teacher")
        assert shared.fingerprints == facts["fingerprints"]
    assert facts_of(base)["teacher_accuracy"] == facts["teacher_accuracy"]


def test_a_host_with_a_teacher_of_its_own_uses_the_one_that_is_kept(
    base: database.Database, study: spec.Study, home: Path, tmp_path: Path
) -> None:
    # the same recipe gave other bits here, for another study
    there = tiny.copy_entries(home, tmp_path / "there", "latency", "onnx", "teacher")
    facts = facts_of(base)
    (name,) = (name for name in base.file_digests("tiny") if name.startswith("teacher-"))
    weights = load_file(home / facts["teacher_file"])
    weights["classifier.1.bias"] += 1e-3
    other = database.connect(f"sqlite:///{tmp_path / 'other.db'}")
    kept = other.keep_file("tiny", name, save(weights))
    for _ in range(2):  # as the study begins, and once it has begun
        shared = launch.prepare(other, study, there)
        assert shared.teacher.digest == kept != facts["fingerprints"]["teacher"]
    other.close()


def test_another_host_needs_no_checkpoint(
    study: spec.Study, shared: materials.Materials, home: Path, tmp_path: Path
) -> None:
    here = another_host(home, tmp_path / "here")
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    path = tmp_path / "given.pt"
    torch.save(load_file(shared.teacher.weights), path)
    given = with_checkpoint(study, path)
    begun = launch.prepare(base, given, here)
    path.unlink()
    there = another_host(home, tmp_path / "there")
    stored = registry.find("tiny", base)
    assert launch.check(stored, there, base) is not None
    found = launch.prepare(base, stored, there)
    assert found.fingerprints == begun.fingerprints
    assert found.teacher.weights.is_relative_to(there / "vault")
    other = given.model_copy(update={"name": "other"})  # has not begun, so nothing is kept for it
    for attempt in (
        lambda: launch.check(stored, there),
        lambda: launch.check(other, there, base),
        lambda: launch.prepare(base, other, there),
    ):
        with pytest.raises(StudyError, match=r"given\.pt: no such file"):
            attempt()
    base.close()


def test_the_teacher_is_kept_before_the_banks_and_holds_no_other_question_back(
    study: spec.Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("disk full")

    there = tiny.copy_entries(home, tmp_path / "there", "latency", "onnx", "teacher")
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    with monkeypatch.context() as patched:
        patched.setattr(overlay_bank, "obtain", full)
        with pytest.raises(StorageError, match="disk full"):
            launch.prepare(base, study, there)
    assert base.study_names() == []
    (kept,) = base.file_digests("tiny").values()
    options = study.teacher.model_copy(update={"epochs": 14})
    changed = launch.prepare(base, study.model_copy(update={"teacher": options}), there)
    assert changed.teacher.digest != kept
    assert sorted(base.file_digests("tiny").values()) == sorted([kept, changed.teacher.digest])
    with pytest.raises(StudyError, match=r"teacher\.epochs: 14 -> 15"):
        launch.prepare(base, study, there)
    base.close()


def test_a_study_that_began_with_another_teacher_keeps_none_in_its_place(
    base: database.Database, study: spec.Study, home: Path, tmp_path: Path
) -> None:
    # as one that an older igkd-search began, whose teacher another host trains to other bits
    with base.transaction() as connection:
        connection.execute(sa.delete(schema.files))
    known = facts_of(base)["fingerprints"]
    base.update_facts("tiny", fingerprints={**known, "teacher": "0" * 64})
    there = tiny.copy_entries(home, tmp_path / "there", "latency", "onnx", "teacher")
    with pytest.raises(StudyError, match="began with another teacher"):
        launch.prepare(base, study, there)
    assert base.file_digests("tiny") == {}
    assert not (there / "vault" / "overlays").exists()
    base.update_facts("tiny", fingerprints=known)
    launch.prepare(base, study, there)
    assert list(base.file_digests("tiny").values()) == [known["teacher"]]


def test_a_teacher_that_fails_is_not_kept(study: spec.Study, home: Path, tmp_path: Path) -> None:
    there = tiny.copy_entries(home, tmp_path / "there", "latency", "onnx", "teacher")
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    blind = study.model_copy(
        update={"teacher": study.teacher.model_copy(update={"learning_rate": 1e-9})}
    )
    with pytest.raises(MaterialError, match="to be better than chance"):
        launch.prepare(base, blind, there)
    assert base.file_digests("tiny") == {} and base.study_names() == []
    assert not (there / "vault" / "overlays").exists()
    base.close()


# --- architectures


def test_images_that_an_architecture_cannot_take_are_refused_before_anything_is_written(
    arrays: Path, tmp_path: Path
) -> None:
    plain = {"teacher": {"architecture": "alexnet", "width": 1.0}}
    wrong = tiny.study(arrays, **plain, trial={"architecture": "mobilenet_v2"})
    with pytest.raises(StudyError, match=r"alexnet cannot take images of 8x8 pixels .* 64x64;"):
        launch.check(wrong, tmp_path)
    student = tiny.study(arrays, trial={"architecture": "vgg11", "removed_blocks": 0, "width": 1.0})
    with pytest.raises(StudyError, match="vgg11-0 cannot take images of 8x8 pixels"):
        launch.check(student, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_students_of_another_architecture_are_told_apart(
    arrays: Path,
    home: Path,
    shared: materials.Materials,
    tmp_path: Path,
    own: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what they cost is not asked here, and exporting them takes seconds each
    timing = shared.latency["teacher"].timing
    monkeypatch.setattr(onnx_export, "export", lambda network, shape, path: path.touch())
    monkeypatch.setattr(latency, "measure", lambda networks, *_: dict.fromkeys(networks, timing))
    own(mine="tests.own_networks:blocks")
    choices = {"architecture": {"choices": ["mine", "mobilenet_v2"]}}
    span = {"kd_weight": {"low": 0.0, "high": 1.0}}
    asked = tiny.study(
        arrays,
        trial={"removed_blocks": 1},
        search={"space": {**choices, **span}, "start": [{"architecture": "mine"}]},
        materials={"targets": "live"},
    )
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    there = tiny.copy_entries(home, tmp_path / "there", "teacher", "overlays")
    launch.search(base, asked, there, trials=1)
    assert set(facts_of(base)["latency"]) == {"teacher", "mine-1-x0.1", "mobilenet_v2-1-x0.1"}
    (row,) = results.rows(results.open_study(base, "tiny"))
    assert (row.state, row.parameters["architecture"]) == ("complete", "mine")
    assert row.attributes["architecture"] == "mine-1-x0.1"
    exported = export.export(base, "tiny", tmp_path / "best.toml", there)
    assert exported.trial.architecture == "mine"
    again = study_file.read_exported(tmp_path / "best.toml")
    assert again.trial == exported.trial
    result = final.train(again, tmp_path / "final", there)
    assert result["student"]["architecture"] == "mine-1-x0.1"
    base.close()


def test_a_study_whose_materials_fail_is_not_begun(
    study: spec.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> materials.Materials:
        raise MaterialError("the teacher reaches 10 %")

    monkeypatch.setattr(materials, "prepare", fail)
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    with pytest.raises(MaterialError):
        launch.search(base, study, tmp_path)
    assert base.study_names() == []
    assert optuna.get_all_study_names(base.storage) == []
    base.close()


@pytest.mark.parametrize(
    ("sections", "folder", "error", "message"),
    [
        ({"trial": {"removed_blocks": 40}}, "arrays", StudyError, "40"),
        ({"data": {"classes": 2}}, "arrays", DataError, "allowed are 0 to 1"),
        ({}, "nowhere", DataError, "no such file"),
    ],
)
def test_what_can_be_known_at_once_is_checked_without_writing(
    arrays: Path,
    tmp_path: Path,
    sections: Mapping[str, Mapping[str, Any]],
    folder: str,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        launch.check(tiny.study(arrays.parent / folder, **sections), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_listed_at_once_and_decoded_later(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for i in range(10):  # that they are no images is seen when they are decoded
            (images / name / f"{i}.png").write_bytes(b"")
    home = tmp_path / "home"
    data = {"source": "folder", "validation": 4}
    assert launch.check(tiny.study(images, data=data), home) is None
    with pytest.raises(DataError, match="16 images asked for"):
        launch.check(tiny.study(images, data={**data, "validation": 16}), home)
    with pytest.raises(DataError, match="cannot be listed"):
        launch.check(tiny.study(tmp_path / "gone", data=data), home)
    assert not home.exists()


def test_what_a_trial_carries_is_plain(study: spec.Study, shared: materials.Materials) -> None:
    found = launch.describe(study, shared, "cpu")(study.trial)
    assert all(type(value) in (float, int, str) for value in found.values())


def test_a_study_that_begins_with_what_is_not_there_builds_nothing(
    arrays: Path, tmp_path: Path
) -> None:
    asked = tiny.study(arrays, search={"from": "gone"})
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    home = tmp_path / "home"
    for attempt in (
        lambda: launch.check(asked, home),
        lambda: launch.check(asked, home, base),
        lambda: launch.prepare(base, asked, home),
    ):
        with pytest.raises(StudyError, match=r"search.from = 'gone': the storage has no such"):
            attempt()
    assert base.study_names() == []
    assert not list(home.rglob("manifest.json"))
    base.close()
