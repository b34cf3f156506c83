"""Final training reads train and validation rows, and the test set once a finished model."""

import csv
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from igkd_search import (
    ablation,
    arms,
    augment,
    datasets,
    deployment,
    evaluation,
    faithfulness,
    final,
    fitting,
    held_out,
    materials,
    models,
    runs,
    spec,
    timings,
    training,
    tuning,
    workshop,
)
from igkd_search.arms import Arm
from igkd_search.errors import StudyError, TrialError
from tests import tiny

EPOCHS = 2


@pytest.fixture(scope="module")
def exported(study: spec.Study, shared: materials.Materials) -> spec.Exported:
    """The tiny study's own trial, exported; its materials lie in the home of the session."""
    return tiny.exported(study, fingerprints=dict(shared.fingerprints))


@pytest.fixture(scope="module")
def whole(
    exported: spec.Exported, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder and the result of an uninterrupted final training."""
    folder = tmp_path_factory.mktemp("final") / "made" / "here"
    return folder, final.train(exported, folder, home)


@pytest.fixture(autouse=True)
def light(whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what `whole` has shown once stand for what takes seconds: ONNX, attributions, pictures.

    Students are what they are here all the same; other modules test what is replaced.
    """
    folder, result = whole

    def write(student: nn.Module, *arguments: Any, **options: Any) -> dict[str, Any]:
        into: Path = arguments[4]
        for name in (deployment.FP32, deployment.INT8):
            (into / name).write_bytes((folder / name).read_bytes())
        told: dict[str, Any] = json.loads(json.dumps(result["deployment"]))
        for kind in told.values():
            del kind["accuracy"]
        return told

    monkeypatch.setattr(deployment, "write", write)
    monkeypatch.setattr(faithfulness, "measure", lambda *a, **o: result["faithfulness"])
    monkeypatch.setattr(faithfulness, "draw_maps", lambda *a, **o: None)
    timed = result["latency"] | {"skipped": []}
    monkeypatch.setattr(timings, "measure", lambda *a, **o: timed)
    for module in (faithfulness, ablation):
        monkeypatch.setattr(module, "draw", lambda found, path: path.write_bytes(b""))


def without_history(result: dict[str, Any]) -> dict[str, Any]:
    """A result but for when it was written."""
    return {key: value for key, value in result.items() if key != "history"}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[spec.Data]:
    """Every reading of the test set."""
    found: list[spec.Data] = []
    load_test = datasets.load_test

    def counted(data: spec.Data, *arguments: Any) -> datasets.Part:
        found.append(data)
        return load_test(data, *arguments)

    monkeypatch.setattr(datasets, "load_test", counted)
    return found


def kill_after(monkeypatch: pytest.MonkeyPatch, epochs: int, runs: int = 1) -> None:
    """Let the process die when the `runs`-th student has completed `epochs` epochs."""
    fit, begun = fitting.fit, list[None]()

    def killed(*arguments: Any, **options: Any) -> Iterator[fitting.EpochRecord]:
        begun.append(None)
        for record in fit(*arguments, **options):
            yield record
            if (len(begun), record.epoch) == (runs, epochs):
                raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", killed)


def changed(exported: spec.Exported, **changes: Any) -> spec.Exported:
    trial = exported.trial.model_copy(update=changes)
    return exported.model_copy(update={"trial": trial})


def student_of(folder: Path, exported: spec.Exported) -> nn.Module:
    trial = exported.trial
    architecture = spec.Architecture(
        exported.teacher.architecture, trial.removed_blocks, trial.width
    )
    network = models.build_student(architecture, tiny.CLASSES)
    network.load_state_dict(load_file(folder / "student.safetensors"), strict=True)
    return network.eval()


def naive_accuracy(network: nn.Module, arrays: Path, shared: materials.Materials) -> float:
    """Test accuracy worked out here: image by image, normalised by the fit rows of the data."""
    images, labels = (np.load(arrays / f"test_{part}.npy") for part in ("images", "labels"))
    fit_rows = shared.data.images[shared.data.fit_rows] / 255
    mean, sd = (f(axis=(0, 2, 3))[:, None, None] for f in (fit_rows.mean, fit_rows.std))
    right = 0
    for image, label in zip(images, labels, strict=True):
        seen = torch.from_numpy((image / 255 - mean) / sd).float()
        right += int(network(seen[None]).argmax()) == label
    return right / len(labels)


def same(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# --- what is written


def test_the_student_is_delivered_and_reproduces_its_test_accuracy(
    whole: tuple[Path, dict[str, Any]],
    exported: spec.Exported,
    arrays: Path,
    shared: materials.Materials,
) -> None:
    folder, result = whole
    student = student_of(folder, exported)
    accuracy = naive_accuracy(student, arrays, shared)
    assert result["student"]["accuracy"] == {
        "mean": pytest.approx(accuracy),
        "sd": None,
        "n": 1,
    }
    assert accuracy > 0.4  # chance is a third
    teacher = naive_accuracy(shared.teacher.network, arrays, shared)
    assert result["teacher"]["accuracy"] == pytest.approx(teacher)


def test_the_result_says_what_was_trained_and_what_it_costs(
    whole: tuple[Path, dict[str, Any]], exported: spec.Exported, shared: materials.Materials
) -> None:
    folder, result = whole
    assert json.loads((folder / "result.json").read_text()) == result
    assert spec.Exported.model_validate(result["configuration"]) == exported
    assert result["test"] == {"images": tiny.TEST, "reads": 1, "duplicates": 0}
    student, teacher = result["student"], result["teacher"]
    (seed,) = student["seeds"]
    assert (seed["seed"], seed["reads"]) == (workshop.final_seed(exported, 0), 1)
    assert seed["accuracy"] == student["accuracy"]["mean"]
    assert student["shipped"] == seed and student["arm"] == "kd+ig"
    assert list(result["arms"]) == ["kd+ig"] and result["ablation"] is None
    assert result["arms"]["kd+ig"]["seeds"] == student["seeds"]
    assert student["architecture"] == tiny.STUDENT
    figures = shared.latency[tiny.STUDENT], shared.latency["teacher"]
    for told, row in zip((student, teacher), figures, strict=True):
        assert {name: told[name] for name in row.as_dict()} == row.as_dict()
    assert student["compression"] == figures[1].parameters / figures[0].parameters
    assert result["machine"]["threads"] == 1
    (missing,) = result["latency"]["skipped"]
    assert missing["engine"] == "compiled" and "igkd latency" in missing["reason"]


def test_a_result_of_before_a_field_was_there_is_finished_too(
    whole: tuple[Path, dict[str, Any]], exported: spec.Exported, home: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "final")
    older = json.loads((folder / "result.json").read_text())
    older["asked"] = "the digest of a question without it"
    for section in ("teacher", "trial"):
        del older["configuration"][section]["cutout"]
    (folder / "result.json").write_text(json.dumps(older))
    assert final.train(exported, folder, home) == older


def test_what_is_delivered(whole: tuple[Path, dict[str, Any]]) -> None:
    assert {path.name for path in whole[0].iterdir()} == {
        "example.py",
        "faithfulness.png",
        "lock",
        "model_card.md",
        "plan.json",
        "predictions.csv",
        "result.json",
        "runs",
        "student.int8.onnx",
        "student.onnx",
        "student.safetensors",
        "test_set.json",
    }
    assert not [*whole[0].rglob("checkpoints")]


# --- train and validation rows


def test_every_row_of_the_training_part_is_learnt(
    exported: spec.Exported,
    home: Path,
    shared: materials.Materials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Tensor] = []
    unit = augment.Reader.unit

    def noted(
        reader: augment.Reader, rows: Tensor, views: Tensor, fetched: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if len(rows) == exported.trial.batch_size:
            drawn.append(rows)
        return unit(reader, rows, views, fetched)

    assert shared.targets is not None  # a live teacher would read the same rows once more

    monkeypatch.setattr(augment.Reader, "unit", noted)
    run = changed(exported, epochs=6)
    final.train(run, tmp_path, home)
    assert len(drawn) == 6 * (tiny.TRAIN // 12)
    assert set(torch.cat(drawn).tolist()) == set(range(tiny.TRAIN))


def test_the_seed_is_neither_the_trial_s_nor_that_of_another_student(
    exported: spec.Exported,
) -> None:
    seeds = [workshop.final_seed(exported, index) for index in range(3)]
    assert len({exported.provenance.seed, *seeds}) == 4
    assert seeds == [workshop.final_seed(exported, index) for index in range(3)]


# --- law 8: the test set


def test_the_test_set_is_read_once_and_after_the_last_epoch(
    exported: spec.Exported, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fit, load_test = fitting.fit, datasets.load_test

    def noted(*arguments: Any, **options: Any) -> Iterator[fitting.EpochRecord]:
        for record in fit(*arguments, **options):
            order.append(f"epoch {record.epoch}")
            yield record

    def read(*arguments: Any) -> datasets.Part:
        order.append("test")
        return load_test(*arguments)

    monkeypatch.setattr(fitting, "fit", noted)
    monkeypatch.setattr(datasets, "load_test", read)
    final.train(exported, tmp_path, home, seeds=2)
    assert order == ["epoch 1", "epoch 2"] * 2 + ["test"]


def test_test_images_that_were_trained_on_are_counted_before_the_evaluation(
    exported: spec.Exported,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrays = tiny.write_arrays(tmp_path / "arrays")
    images = np.load(arrays / "test_images.npy")
    images[[0, 5, 7]] = np.load(arrays / "train_images.npy")[[2, 2, 70]]
    np.save(arrays / "test_images.npy", images)
    order: list[str] = []
    for module, name in (
        (datasets, "load_test"),
        (datasets, "count_duplicates"),
        (evaluation, "score"),
    ):
        monkeypatch.setattr(module, name, noting(order, getattr(module, name)))
    data = exported.data.model_copy(update={"path": str(arrays)})
    moved = exported.model_copy(update={"data": data})
    result = final.train(moved, tmp_path / "final", home)
    assert result["test"] == {"images": tiny.TEST, "reads": 1, "duplicates": 3}
    assert f"3 of {tiny.TEST} test images are in the training part too" in caplog.text
    models = 4  # teacher, student, and its two files
    assert order[-2 - models :] == ["load_test", "count_duplicates", *["score"] * models]


def noting(order: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which adds its name to `order`."""

    def noted(*arguments: Any, **options: Any) -> Any:
        order.append(function.__name__)
        return function(*arguments, **options)

    return noted


def test_a_finished_folder_is_not_trained_or_tested_again(
    whole: tuple[Path, dict[str, Any]],
    exported: spec.Exported,
    home: Path,
    reads: list[spec.Data],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("done again")

    folder, result = whole
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for module, name in ((fitting, "fit"), (materials, "prepare")):
        monkeypatch.setattr(module, name, refuse)
    assert final.train(exported, folder, home) == result
    assert not reads
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_finished_folder_is_refused_for_other_data(
    whole: tuple[Path, dict[str, Any]], exported: spec.Exported, home: Path, tmp_path: Path
) -> None:
    folder, _ = whole
    elsewhere = tiny.write_arrays(tmp_path / "other")
    images = np.load(elsewhere / "train_images.npy")
    images[0, ..., 0, 0] ^= 255
    np.save(elsewhere / "train_images.npy", images)
    data = exported.data.model_copy(update={"path": str(elsewhere)})
    with pytest.raises(StudyError, match="the result of another data set"):
        final.train(exported.model_copy(update={"data": data}), folder, home)


def test_a_reading_whose_answers_were_lost_is_counted(
    exported: spec.Exported,
    home: Path,
    tmp_path: Path,
    reads: list[spec.Data],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(held_out, "_answered", die)
        final.train(exported, tmp_path, home)
    assert len(reads) == 1
    assert not (tmp_path / "result.json").exists()
    result = final.train(exported, tmp_path, home)
    assert result["test"]["reads"] == 2, "the teacher's, which was first"
    assert [seed["reads"] for seed in result["student"]["seeds"]] == [1]


def test_what_was_answered_before_a_death_is_not_asked_again(
    whole: tuple[Path, dict[str, Any]],
    exported: spec.Exported,
    home: Path,
    tmp_path: Path,
    reads: list[spec.Data],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("igkd_search.delivery.write", die)
        final.train(exported, tmp_path, home)
    result = final.train(exported, tmp_path, home)
    assert len(reads) == 1 and result["test"]["reads"] == 1
    assert without_history(result) == without_history(whole[1])


def test_a_test_part_that_became_another_is_refused(
    exported: spec.Exported, home: Path, tmp_path: Path
) -> None:
    arrays = tiny.write_arrays(tmp_path / "arrays")
    data = exported.data.model_copy(update={"path": str(arrays)})
    moved, folder = exported.model_copy(update={"data": data}), tmp_path / "final"
    final.train(moved, folder, home)
    labels = np.load(arrays / "test_labels.npy")
    np.save(arrays / "test_labels.npy", labels[::-1])
    with pytest.raises(StudyError, match="the test part is another now"):
        final.train(moved, folder, home, seeds=2)


# --- killed and continued


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_killed_training_goes_on_to_the_same_student(
    whole: tuple[Path, dict[str, Any]],
    exported: spec.Exported,
    home: Path,
    tmp_path: Path,
    reads: list[spec.Data],
    epochs: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_after(patch, epochs)
        final.train(exported, tmp_path, home)
    assert not reads
    (checkpoint,) = tmp_path.rglob("epoch-*.safetensors")
    assert checkpoint.name == f"epoch-{epochs:04d}.safetensors"
    result = final.train(exported, tmp_path, home)
    assert without_history(result) == without_history(whole[1])
    assert len(reads) == 1
    assert same(tmp_path, whole[0])


def test_several_seeds_share_one_reading_and_deliver_the_first(
    whole: tuple[Path, dict[str, Any]],
    exported: spec.Exported,
    home: Path,
    tmp_path: Path,
    reads: list[spec.Data],
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_after(patch, 1, runs=2)
        final.train(exported, tmp_path, home, seeds=2)
    result = final.train(exported, tmp_path, home, seeds=2)
    assert len(reads) == 1
    student = result["student"]
    accuracies = [row["accuracy"] for row in student["seeds"]]
    assert student["accuracy"]["n"] == len(accuracies) == 2
    assert student["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert student["accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert len({row["seed"] for row in student["seeds"]}) == 2
    assert student["seeds"][0] == whole[1]["student"]["seeds"][0]
    assert same(tmp_path, whole[0])


@pytest.mark.parametrize("change", [{"kd_weight": 0.9}, {"epochs": 1}])
def test_a_killed_training_of_another_configuration_is_not_continued(
    exported: spec.Exported, home: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_after(patch, 1)
        final.train(exported, tmp_path / "used", home)
    other = changed(exported, **change)
    final.train(other, tmp_path / "used", home)
    final.train(other, tmp_path / "empty", home)
    assert same(tmp_path / "used", tmp_path / "empty")
    assert not [*(tmp_path / "used").rglob("checkpoints")], "nor left behind"


# --- arms and seeds


NAMES = "baseline,kd,ig,kd+ig,kd+ig:dim,kd:shuffled"


@pytest.fixture(scope="module")
def compared(
    exported: spec.Exported, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Six arms of two seeds, of one epoch each."""
    folder = tmp_path_factory.mktemp("compared") / "final"
    one = changed(exported, epochs=1)
    return folder, final.train(one, folder, home, 2, wanted=arms.read(NAMES))


def test_every_arm_has_the_same_seeds_and_recipe(
    compared: tuple[Path, dict[str, Any]], exported: spec.Exported
) -> None:
    result = compared[1]
    assert list(result["arms"]) == NAMES.split(",")
    seeds = [workshop.final_seed(exported, index) for index in range(2)]
    free = {"kd_weight", "attention_weight", "overlay_probability"}
    recipes = []
    for arm in result["arms"].values():
        assert [each["seed"] for each in arm["seeds"]] == seeds
        recipes.append({key: arm["trial"][key] for key in arm["trial"] if key not in free})
    assert all(recipe == recipes[0] for recipe in recipes)
    assert result["arms"]["kd+ig:dim"]["control"] == "dim"
    assert result["arms"]["kd:shuffled"]["targets"] == "shuffled"


def test_every_model_reads_the_test_set_once(compared: tuple[Path, dict[str, Any]]) -> None:
    folder, result = compared
    counters = [*folder.rglob(held_out.READS)]
    assert len(counters) == 12 + 3, "every student; the teacher, and both files of the shipped one"
    assert {json.loads(path.read_text()) for path in counters} == {1}
    assert {each["reads"] for arm in result["arms"].values() for each in arm["seeds"]} == {1}


def test_arms_that_learn_otherwise_are_other_students(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = compared
    weights = {
        name: (folder / arm["seeds"][0]["folder"] / runs.WEIGHTS).read_bytes()
        for name, arm in result["arms"].items()
    }
    assert len(set(weights.values())) == len(weights)
    assert (folder / "student.safetensors").read_bytes() == weights["kd+ig"]


def test_arms_are_compared_and_what_all_have_answered_is_written(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = compared
    found = result["ablation"]
    assert found["reference"] == "baseline" and list(found["arms"]) == NAMES.split(",")
    for name, arm in result["arms"].items():
        assert found["arms"][name]["mean"] == pytest.approx(arm["accuracy"]["mean"])
    assert json.loads((folder / "ablation.json").read_text()) == found
    assert "kd:shuffled" in (folder / "ablation.md").read_text()
    with (folder / "predictions.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == tiny.TEST
    for column, model in (("prediction", result["student"]["shipped"]), ("teacher", None)):
        right = np.mean([row[column] == row["label"] for row in rows])
        wanted = result["teacher"] if model is None else model
        assert right == pytest.approx(wanted["accuracy"])
    other = result["arms"]["kd"]["seeds"][1]["accuracy"]
    assert np.mean([row["kd/2"] == row["label"] for row in rows]) == pytest.approx(other)


def test_arms_and_seeds_are_added_to_what_is_there(
    exported: spec.Exported, home: Path, tmp_path: Path, reads: list[spec.Data]
) -> None:
    one = changed(exported, epochs=1)
    first = final.train(one, tmp_path, home)
    both = final.train(one, tmp_path, home, 2, wanted=[Arm(kd="none")])
    assert list(both["arms"]) == ["kd+ig", "kd"]
    assert both["arms"]["kd+ig"]["seeds"][0] == first["arms"]["kd+ig"]["seeds"][0]
    assert both["student"]["shipped"] == first["student"]["shipped"]
    assert [(each["arms"], each["seeds"]) for each in both["history"]] == [
        (["kd+ig"], 1),
        (["kd+ig", "kd"], 2),
    ]
    assert len(reads) == 2 and both["test"]["reads"] == 1, "a model reads once, whenever it came"
    assert final.train(one, tmp_path, home, 1) == both, "what is there is not forgotten"
    assert len(reads) == 2


def test_what_is_shipped_stays_what_it_was_when_the_test_set_was_opened(
    exported: spec.Exported, home: Path, tmp_path: Path
) -> None:
    one = changed(exported, epochs=1)
    first = final.train(one, tmp_path, home, wanted=[Arm()])
    assert first["student"]["arm"] == "baseline"
    both = final.train(one, tmp_path, home, wanted=[Arm("none", "none")])
    assert list(both["arms"]) == ["baseline", "kd+ig"]
    assert both["student"]["shipped"] == first["student"]["shipped"]


def test_what_another_command_has_added_meanwhile_is_kept(
    exported: spec.Exported, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, train_all = changed(exported, epochs=1), runs.train_all
    others = [Arm(kd="none")]

    def meanwhile(*arguments: Any, **options: Any) -> None:
        train_all(*arguments, **options)
        if others:
            final.train(one, tmp_path, home, 2, wanted=[others.pop()])

    monkeypatch.setattr(runs, "train_all", meanwhile)
    result = final.train(one, tmp_path, home, wanted=[Arm(ig="none")])
    assert {name: arm["accuracy"]["n"] for name, arm in result["arms"].items()} == {
        "kd": 2,
        "ig": 2,
    }
    assert len(result["history"]) == 2 and result["student"]["arm"] == "kd"


def test_a_folder_is_about_one_configuration_from_the_first_reading_on(
    exported: spec.Exported, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    one = changed(exported, epochs=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("igkd_search.delivery.write", die)
        final.train(one, tmp_path, home)
    with pytest.raises(StudyError, match="models of another configuration have read the test"):
        final.train(changed(one, kd_weight=0.9), tmp_path, home)
    with pytest.raises(StudyError, match="trained with no --tune-arms"):
        final.train(one, tmp_path, home, tune=2)


def test_one_training_that_diverges_keeps_no_other_from_its_end(
    exported: spec.Exported, home: Path, tmp_path: Path, reads: list[spec.Data]
) -> None:
    one = changed(exported, epochs=1)
    found = {Arm(): {"parameters": {"learning_rate": 1e9}}, Arm(kd="none"): {"parameters": {}}}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrialError, match="baseline, seed 1"):
        patch.setattr(tuning, "settle", lambda *arguments: found)
        final.train(one, tmp_path, home, wanted=arms.read("baseline,kd"), tune=2)
    assert [path.parts[-3] for path in tmp_path.rglob(runs.RECORD)] == ["kd"]
    assert not reads


def test_only_training_trains_and_reads_nothing(
    exported: spec.Exported, home: Path, tmp_path: Path, reads: list[spec.Data]
) -> None:
    one = changed(exported, epochs=1)
    assert final.train(one, tmp_path, home, 2, alone=False) == {}
    assert len([*tmp_path.rglob(runs.RECORD)]) == 2 and not reads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", None)
        final.train(one, tmp_path, home, 2)
    assert len(reads) == 1


def test_tuned_arms_are_trained_by_what_each_has_found(
    exported: spec.Exported, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(asked: Any, *arguments: Any) -> dict[Arm, dict[str, Any]]:
        rates = {Arm(): 0.01, Arm("none", "none"): 0.02}
        return {
            arm: {"parameters": {"learning_rate": rates[arm]}, "validation_accuracy": 0.5}
            for arm in asked
        } | {Arm(kd="none"): {"parameters": {}, "validation_accuracy": None}}

    monkeypatch.setattr(tuning, "settle", settle)
    one = changed(exported, epochs=1)
    result = final.train(one, tmp_path, home, wanted=arms.read("baseline,kd+ig"), tune=3)
    assert result["arms"]["baseline"]["trial"]["learning_rate"] == 0.01
    assert result["arms"]["kd+ig"]["trial"]["learning_rate"] == 0.02
    assert result["tuning"]["trials"] == 3
    assert result["tuning"]["arms"]["baseline"]["parameters"] == {"learning_rate": 0.01}
    assert result["ablation"]["tuned"] == 3
    with pytest.raises(StudyError, match="its arms were trained with --tune-arms 3"):
        final.train(one, tmp_path, home, 2, wanted=arms.read("baseline,kd+ig"))


def test_an_arm_of_what_the_file_lacks_is_refused_before_anything_is_written(
    exported: spec.Exported, home: Path, tmp_path: Path
) -> None:
    without = changed(exported, kd_weight=0.0)
    with pytest.raises(StudyError, match=r"--arms kd: trial\.kd_weight = 0 in the file"):
        final.train(without, tmp_path / "final", home, wanted=[Arm(kd="none")])
    assert not (tmp_path / "final").exists()


# --- refused


@pytest.mark.parametrize("cause", ["configuration", "trial seed"])
def test_the_result_of_another_configuration_is_kept(
    whole: tuple[Path, dict[str, Any]],
    exported: spec.Exported,
    home: Path,
    reads: list[spec.Data],
    cause: str,
) -> None:
    folder, result = whole
    run = changed(exported, kd_weight=0.9) if cause == "configuration" else exported
    if cause == "trial seed":
        run = tiny.exported(exported, seed=8)
    with pytest.raises(StudyError, match=r"result\.json: the result of another configuration"):
        final.train(run, folder, home)
    assert not reads
    assert json.loads((folder / "result.json").read_text()) == result


def test_to_the_result_of_an_older_version_nothing_is_added(
    whole: tuple[Path, dict[str, Any]], exported: spec.Exported, home: Path, tmp_path: Path
) -> None:
    older = {
        key: whole[1][key]
        for key in ("configuration", "fingerprints", "test", "teacher", "student")
    }
    (tmp_path / "result.json").write_text(json.dumps(older))
    assert final.train(exported, tmp_path, home) == older
    with pytest.raises(StudyError, match="the result of an older igkd-search"):
        final.train(exported, tmp_path, home, seeds=2)


def test_where_it_was_exported_does_not_make_it_another(
    whole: tuple[Path, dict[str, Any]], exported: spec.Exported, home: Path
) -> None:
    folder, result = whole
    run = tiny.exported(exported, exported="2026-01-01T00:00:00+00:00", study="copy")
    assert final.train(run, folder, home) == result


def test_a_diverged_training_reads_no_test_set(
    exported: spec.Exported, home: Path, tmp_path: Path, reads: list[spec.Data]
) -> None:
    with pytest.raises(TrialError, match="diverged"):
        final.train(changed(exported, learning_rate=1e9), tmp_path, home)
    assert not reads
    assert not (tmp_path / "result.json").exists()


def test_materials_that_are_not_those_of_the_search_are_told(
    study: spec.Study,
    shared: materials.Materials,
    home: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    stated = {**shared.fingerprints, "data": "0" * 64, "unheard-of": "1" * 64}
    final.train(tiny.exported(study, fingerprints=stated), tmp_path, home)
    said = [record.getMessage() for record in caplog.records if record.name.endswith(".workshop")]
    assert said == [
        f"the data are not those of the search (sha256 {'0' * 12}, "
        f"now {shared.fingerprints['data'][:12]})"
    ]


def test_a_search_s_student_is_the_one_that_is_built(
    exported: spec.Exported, stock: training.Stock, whole: tuple[Path, dict[str, Any]]
) -> None:
    ours = student_of(whole[0], exported)
    searched = training.build(exported.trial, stock, 0)
    assert str(ours) == str(searched)
    assert whole[1]["student"]["parameters"] == models.count_parameters(searched)
