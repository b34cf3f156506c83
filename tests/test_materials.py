"""What trials share is built once, in the cheaper form, and known before anything is spent."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from igkd_search import (
    augment,
    datasets,
    latency,
    logits_bank,
    materials,
    models,
    onnx_export,
    spec,
    training,
)
from igkd_search.errors import MaterialError, StudyError
from tests import tiny

CPU = torch.device("cpu")


def entries(home: Path) -> set[str]:
    """Every finished entry of the vault, with when it was made."""
    found = home.glob("vault/*/*/manifest.json")
    return {f"{path.parent.parent.name}/{path.parent.name} {path.stat().st_ino}" for path in found}


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("built again")


# --- once


def test_a_second_preparation_builds_nothing_and_finds_the_same(
    study: spec.Study,
    home: Path,
    shared: materials.Materials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latency, "measure", refuse)
    monkeypatch.setattr(onnx_export, "export", refuse)
    before = entries(home)
    again = materials.prepare(study, home, CPU)
    assert entries(home) == before
    assert again.facts() == shared.facts()
    assert shared.targets is not None
    assert again.targets is not None
    np.testing.assert_array_equal(again.targets, shared.targets)
    np.testing.assert_array_equal(again.maps, shared.maps)


def test_every_row_of_the_training_part_has_targets_and_a_map(shared: materials.Materials) -> None:
    assert shared.targets is not None
    assert shared.targets.shape == (tiny.TRAIN, 18, tiny.CLASSES)
    assert shared.maps.shape == (tiny.TRAIN, tiny.SIZE, tiny.SIZE)
    assert len(shared.data.fit_rows) + len(shared.data.validation_rows) == tiny.TRAIN


def test_materials_name_the_entries_they_came_from(
    study: spec.Study, home: Path, shared: materials.Materials
) -> None:
    built = {path.parent.relative_to(home / "vault") for path in home.glob("vault/*/*/*.json")}
    assert set(shared.entries) <= {str(path) for path in built}
    kinds = [name.partition("/")[0] for name in shared.entries]
    assert kinds == ["latency", "onnx", "onnx", "overlays", "targets", "teacher"]
    # the times were found, so the files that they were taken with were not opened: still named
    assert materials.prepare(study, home, CPU).entries == shared.entries


def test_figures_that_stand_are_not_measured_again_and_nothing_is_exported(
    study: spec.Study, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    fresh = tiny.copy_entries(home, tmp_path, "teacher", "overlays", "targets")
    row = dataclasses.replace(shared.latency["teacher"], macs=7)
    stated = dict.fromkeys(shared.latency, row)
    found = materials.prepare(study, fresh, CPU, measured=stated)
    assert found.latency == stated
    assert not (fresh / "vault" / "latency").exists() and not (fresh / "vault" / "onnx").exists()


def test_facts_are_plain_json(shared: materials.Materials) -> None:
    facts = shared.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["teacher_accuracy"] == shared.teacher.accuracy
    assert facts["targets"] == "bank"
    assert facts["fingerprints"]["teacher"] == shared.teacher.digest
    assert facts["fingerprints"]["data"] == shared.data.fingerprint
    assert set(facts["fingerprints"]) == {"data", "overlays", "targets", "teacher"}
    assert facts["completeness_gap"] > 0 and -1 <= facts["map_fidelity"] <= 1
    assert facts["threads"] == shared.threads > 0
    assert facts["rows"] == {
        "fit": tiny.TRAIN - tiny.VALIDATION,
        "validation": tiny.VALIDATION,
        "classes": tiny.CLASSES,
        "shift": 1,
        "flip": True,
        "image_shape": [3, tiny.SIZE, tiny.SIZE],
    }


@pytest.mark.parametrize("control", ["shuffled", "random", "dim"])
def test_a_control_changes_what_is_read_and_not_what_is_stored(
    arrays: Path, home: Path, shared: materials.Materials, control: str
) -> None:
    before = entries(home)
    found = materials.prepare(tiny.study(arrays, overlays={"control": control}), home, CPU)
    assert entries(home) == before
    assert found.fingerprints == shared.fingerprints
    assert not np.array_equal(found.maps, shared.maps)
    assert found.maps.any() == (control != "dim")


# --- targets: bank or live


def chosen(arrays: Path, data: datasets.Dataset, **options: Any) -> bool:
    """The choice for 18 views of 75 rows and 3 classes, 10 trials of 2 epochs unless told."""
    search = {"trials": options.pop("trials", 10)}
    return logits_bank.use_bank(tiny.study(arrays, materials=options, search=search), data)


@pytest.mark.parametrize(("trials", "bank"), [(10, True), (9, True), (8, False), (1, False)])
def test_a_bank_is_built_when_it_costs_fewer_forwards(
    arrays: Path, shared: materials.Materials, trials: int, bank: bool
) -> None:
    assert shared.data.views.count == 18
    assert chosen(arrays, shared.data, trials=trials) == bank


def test_a_bank_is_built_when_it_fits(arrays: Path, shared: materials.Materials) -> None:
    size = shared.data.views.count * tiny.TRAIN * tiny.CLASSES * 2
    assert chosen(arrays, shared.data, max_bytes=size)
    assert not chosen(arrays, shared.data, max_bytes=size - 1)


def test_what_is_asked_for_is_done(arrays: Path, shared: materials.Materials) -> None:
    assert chosen(arrays, shared.data, targets="bank", max_bytes=0, trials=1)
    assert chosen(arrays, shared.data, targets="shuffled", max_bytes=0, trials=1)
    assert chosen(arrays, shared.data, views=3, max_bytes=0, trials=1)
    assert not chosen(arrays, shared.data, targets="live", trials=1000)


def test_shuffled_targets_are_those_of_another_image_of_the_same_part(
    arrays: Path, home: Path, shared: materials.Materials
) -> None:
    before = entries(home)
    study = tiny.study(arrays, materials={"targets": "shuffled"})
    found = materials.prepare(study, home, CPU)
    assert entries(home) == before  # the same bank, read otherwise
    assert found.facts()["targets"] == "shuffled"
    assert found.targets is not None and found.taught_by is not None
    assert (found.taught_by != np.arange(tiny.TRAIN)).all()
    fit_rows = shared.data.fit_rows
    assert set(found.taught_by[fit_rows]) == set(fit_rows)
    config = study.trial.model_copy(update={"kd_weight": 1.0})
    task, own = (
        training.Distillation(config, training.Stock.of(each, study, CPU), seed=3)
        for each in (found, shared)
    )
    student = training.build(config, training.Stock.of(shared, study, CPU), 3).eval()
    first, second = (
        each.loss(student, next(iter(each.epoch(1, 12, torch.Generator().manual_seed(0)))))
        for each in (task, own)
    )
    assert first.item() != second.item()


def test_training_can_be_restricted_to_some_views(
    arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    mine = tiny.copy_entries(home, tmp_path / "home")
    study = tiny.study(arrays, materials={"views": 3})
    found = materials.prepare(study, mine, CPU)
    assert found.chosen_views is not None and found.chosen_views.shape == (tiny.TRAIN, 3)
    assert found.targets is not None and found.targets.shape == (tiny.TRAIN, 3, tiny.CLASSES)
    assert found.facts()["targets"] == "bank"
    assert shared.chosen_views is None
    results = list(training.train(study.trial, training.Stock.of(found, study, CPU), 3))
    assert [result.epoch for result in results] == [1, 2]
    whole = materials.prepare(tiny.study(arrays, materials={"views": 99}), mine, CPU)
    assert whole.chosen_views is None and whole.fingerprints == shared.fingerprints


def test_both_costs_are_logged(
    arrays: Path, shared: materials.Materials, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chosen(arrays, shared.data)
    assert "targets: bank, since 18 views, 20 epochs planned" in caplog.text
    assert "(bank: 1,350 teacher forwards" in caplog.text  # 18 views of 75 rows
    assert "live: up to 1,200 forwards" in caplog.text  # 10 trials, 2 epochs of 60 fit rows
    chosen(arrays, replace(shared.data, views=augment.Views(shift=4, flip=True)))
    assert "targets: live, since 162 views" in caplog.text
    assert "(bank: 12,150 teacher forwards" in caplog.text
    chosen(arrays, shared.data, max_bytes=10)
    assert "targets: live, since the bank exceeds materials.max_bytes = 10" in caplog.text
    chosen(arrays, shared.data, targets="live")
    assert "targets: live, since targets = 'live'" in caplog.text


def test_a_live_teacher_says_what_the_bank_holds(
    arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    fresh = tiny.copy_entries(home, tmp_path, "teacher", "overlays", "latency")
    study = tiny.study(arrays, materials={"targets": "live"})
    live = materials.prepare(study, fresh, CPU)
    assert live.targets is None
    assert live.facts()["targets"] == live.fingerprints["targets"] == "live"
    assert not (fresh / "vault" / "targets").exists()
    config = study.trial.model_copy(update={"kd_weight": 0.9, "learning_rate": 0.01})
    runs = []
    for found in (live, shared):
        stock = training.Stock.of(found, study, CPU)
        runs.append(list(training.train(config, stock, 3)))
    for ours, theirs in zip(*runs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=2e-3)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=2e-2)
        assert ours.without_times() != theirs.without_times()  # fp16 is seen, so both were read


# --- latency


def test_the_table_has_the_teacher_and_every_student(
    study: spec.Study, shared: materials.Materials
) -> None:
    assert list(shared.latency) == ["teacher", tiny.STUDENT]
    networks: dict[str, nn.Module] = {
        "teacher": models.build_teacher("mobilenet_v2", tiny.CLASSES, tiny.WIDTH)
    }
    (architecture,) = materials.students(study)
    assert architecture.name == tiny.STUDENT
    networks[tiny.STUDENT] = models.build_student(architecture, tiny.CLASSES)
    for name, network in networks.items():
        row = shared.latency[name]
        assert row.parameters == models.count_parameters(network)
        assert row.macs == models.count_macs(network, (3, tiny.SIZE, tiny.SIZE))
        assert row.timing.onnxruntime.median_ms > 0
        assert row.timing.pytorch.median_ms > 0
        assert row.as_dict()["pytorch"]["n"] == 30


def test_each_student_of_the_space_is_measured_once(arrays: Path) -> None:
    space = {
        "removed_blocks": {"choices": [15, 13, 15]},
        "width": {"low": 0.1, "high": 0.3, "step": 0.1},
        "kd_weight": {"low": 0.0, "high": 1.0},
    }
    found = materials.students(tiny.study(arrays, search={"space": space}))
    assert [(a.removed_blocks, round(a.width, 9)) for a in found] == [
        (blocks, width) for blocks in (13, 15) for width in (0.1, 0.2, 0.3)
    ]


def test_new_students_are_measured_with_files_that_were_exported_before(
    arrays: Path,
    home: Path,
    shared: materials.Materials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # classes and image size decide the files, weights do not
    data = replace(shared.data, fingerprint="other")
    seen: list[set[str]] = []

    def measure(networks: Any, files: Any, *arguments: Any) -> dict[str, latency.Timing]:
        seen.append(set(networks))
        assert set(files) == set(networks)
        assert all(path.is_file() for path in files.values())
        return {name: shared.latency[name].timing for name in networks}

    monkeypatch.setattr(onnx_export, "export", refuse)
    monkeypatch.setattr(latency, "measure", measure)
    asked: list[int] = []

    def busy() -> float:
        asked.append(len(seen))
        return 0.0

    monkeypatch.setattr(latency, "warn_if_busy", busy)
    machine = latency.machine()
    monkeypatch.setattr(latency, "machine", lambda: {**machine, "cpu": "another"})
    study = tiny.study(arrays, materials={"targets": "live"})
    fresh = tiny.copy_entries(home, tmp_path, "onnx")
    for _ in range(2):
        materials.prepare(study, fresh, CPU, data)
    assert seen == [{"teacher", tiny.STUDENT}]
    assert asked == [0], "whether the machine is quiet is looked at before the timing, once"


# --- before anything is spent


@pytest.mark.parametrize(
    "sections",
    [
        {"trial": {"removed_blocks": 19}},
        {"search": {"space": {"removed_blocks": {"choices": [5, 40]}}}},
    ],
)
def test_too_many_removed_blocks_stop_before_anything_is_written(
    arrays: Path, tmp_path: Path, sections: dict[str, Any]
) -> None:
    study = tiny.study(arrays, **sections)
    for attempt in (
        lambda: materials.check(study),
        lambda: materials.prepare(study, tmp_path / "home", CPU),
    ):
        with pytest.raises(StudyError, match=r"removed_blocks = \d+: .* allowed are 0 to 18"):
            attempt()
    assert not (tmp_path / "home").exists()


def test_the_largest_legal_removal_is_accepted(arrays: Path) -> None:
    materials.check(tiny.study(arrays, trial={"removed_blocks": 18}))


def test_a_poor_teacher_stops_before_the_banks(
    arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    fresh = tiny.copy_entries(home, tmp_path, "teacher")
    # labels that no teacher can know
    labels = np.roll(shared.data.labels, 1)
    data = replace(shared.data, labels=labels)
    study = tiny.study(arrays, teacher={"minimum_accuracy": 0.99})
    with pytest.raises(MaterialError, match=r"teacher\.minimum_accuracy"):
        materials.prepare(study, fresh, CPU, data)
    assert [path.name for path in (fresh / "vault").iterdir()] == ["teacher"]


def test_every_choice_of_an_architecture_is_checked(arrays: Path) -> None:
    space = {"architecture": {"choices": ["mobilenet_v2", "resnet18"]}}
    study = tiny.study(arrays, trial={"width": 1.0, "removed_blocks": 8}, search={"space": space})
    names = [architecture.name for architecture in materials.students(study)]
    assert names == ["mobilenet_v2-8", "resnet18-8"]
    materials.check(study)
    fewer = tiny.study(arrays, trial={"width": 1.0, "removed_blocks": 9}, search={"space": space})
    with pytest.raises(StudyError, match="resnet18 has 9 blocks; allowed are 0 to 8"):
        materials.check(fewer)
    narrow = tiny.study(arrays, trial={"width": 0.5}, search={"space": space})
    with pytest.raises(StudyError, match=r"width = 0\.5: resnet18 has one width"):
        materials.check(narrow)
    teacher = {"architecture": "resnet18", "width": 0.5}
    with pytest.raises(StudyError, match=r"width = 0\.5: resnet18 has one width"):
        materials.check(tiny.study(arrays, teacher=teacher))


def test_attention_needs_a_network_with_blocks(arrays: Path) -> None:
    trial = {"width": 1.0, "removed_blocks": 0, "attention_weight": 0.5}
    teacher = {"architecture": "swin_t", "width": 1.0}
    with pytest.raises(StudyError, match=r"attention_weight compares .* swin_t has none; type"):
        materials.check(tiny.study(arrays, trial=trial, teacher=teacher))
    searched = {"space": {"attention_weight": {"low": 0.0, "high": 1.0}}}
    plain = {**trial, "attention_weight": 0.0}
    with pytest.raises(StudyError, match=r"attention_weight compares .* swin_t has none; type"):
        materials.check(tiny.study(arrays, trial=plain, teacher=teacher, search=searched))
    materials.check(tiny.study(arrays, trial=plain, teacher=teacher))
    materials.check(tiny.study(arrays, trial={"attention_weight": 0.5}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"teacher": {"cutout": 8}}, r"teacher\.cutout = 8 blanks whole images of 8x8 pixels"),
        ({"trial": {"cutout": 9}}, r"trial\.cutout = 9 blanks .*; allowed are 0 to 7"),
        (
            {"search": {"space": {"cutout": {"low": 0.0, "high": 12.0}}}},
            r"trial\.cutout = 12 blanks .*; allowed are 0 to 7",
        ),
        (
            {"search": {"space": {"cutout": {"choices": [0, 8, 2]}}}},
            r"trial\.cutout = 8 blanks .*; allowed are 0 to 7",
        ),
    ],
)
def test_a_cutout_that_blanks_whole_images_is_refused_before_a_teacher_is_trained(
    arrays: Path,
    shared: materials.Materials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr("igkd_search.teacher.obtain", refuse)
    study = tiny.study(arrays, **sections)
    with pytest.raises(StudyError, match=said):
        materials.prepare(study, tmp_path / "home", CPU)
    assert not (tmp_path / "home").exists()
    materials.check_images(
        tiny.study(arrays, teacher={"cutout": 7}, trial={"cutout": 7}), shared.data
    )


def test_images_are_checked_before_a_teacher_is_trained(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igkd_search.teacher.obtain", refuse)
    study = tiny.study(arrays, teacher={"architecture": "vgg11", "width": 1.0})
    study = study.model_copy(
        update={"trial": study.trial.model_copy(update={"architecture": "mobilenet_v2"})}
    )
    with pytest.raises(StudyError, match="vgg11 cannot take images of 8x8 pixels"):
        materials.prepare(study, tmp_path / "home", CPU)
    assert not (tmp_path / "home").exists()


# --- resolution


def test_a_student_of_a_lower_resolution_has_a_place_of_its_own_and_others_keep_theirs(
    arrays: Path, shared: materials.Materials
) -> None:
    space = {"resolution": {"choices": [4, 8]}, "kd_weight": {"low": 0.0, "high": 1.0}}
    timed = materials._timed(tiny.study(arrays, search={"space": space}), shared.data)
    assert list(timed) == ["teacher", f"{tiny.STUDENT}-r4", f"{tiny.STUDENT}-r8"]
    assert "resolution" not in timed["teacher"].described
    small = timed[f"{tiny.STUDENT}-r4"]
    assert small.described["resolution"] == 4
    student = small.build()
    assert isinstance(student, models.Student) and student.resize is not None
    # entries that were kept before there was such a field are found
    plain = materials._timed(tiny.study(arrays), shared.data)[tiny.STUDENT].described
    assert set(plain) == set(small.described) - {"resolution"}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"trial": {"resolution": 9}}, r"trial\.resolution = 9 is more than the 8x8 pixels"),
        (
            {"search": {"space": {"resolution": {"choices": [8, 16]}}}},
            r"trial\.resolution = 16 is more than the 8x8 pixels .* of up to 8, or leave it out",
        ),
        (
            {"trial": {"resolution": 4, "removed_blocks": 3}},
            r"trial\.resolution = 4 is too small for mobilenet_v2-3-x0\.1-r4, .* type 8 or more",
        ),
    ],
)
def test_a_resolution_that_cannot_be_is_refused_before_a_teacher_is_trained(
    arrays: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr("igkd_search.teacher.obtain", refuse)
    study = tiny.study(arrays, **sections)
    with pytest.raises(StudyError, match=said):
        materials.prepare(study, tmp_path / "home", CPU)
    assert not (tmp_path / "home").exists()


def test_a_network_of_one_size_starts_from_no_teacher_of_another_resolution(arrays: Path) -> None:
    trial = {"width": 1.0, "removed_blocks": 0, "resolution": 4, "initialisation": "teacher"}
    teacher = {"architecture": "vit_b_32", "width": 1.0}
    with pytest.raises(StudyError, match=r"vit_b_32 has weights for each place of an image"):
        materials.check(tiny.study(arrays, trial=trial, teacher=teacher))


def test_a_judge_of_latency_is_asked_before_anything_is_trained(
    arrays: Path, tmp_path: Path, home: Path
) -> None:
    fresh = tiny.copy_entries(home, tmp_path / "home", "latency", "onnx")
    seen: list[Any] = []

    def judge(table: Mapping[str, materials.Latency]) -> None:
        seen.append(set(table))
        raise StudyError("too slow")

    with pytest.raises(StudyError, match="too slow"):
        materials.prepare(tiny.study(arrays), fresh, CPU, judge=judge)
    assert seen == [{"teacher", tiny.STUDENT}]
    assert not (fresh / "vault" / "teacher").exists()


def test_how_busy_the_machine_was_goes_with_the_table(
    study: spec.Study, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = tiny.copy_entries(home, tmp_path / "home", "teacher", "overlays", "targets", "onnx")
    monkeypatch.setattr(latency, "warn_if_busy", lambda: 1.5)
    for _ in range(2):
        machine = materials.prepare(study, fresh, CPU).facts()["machine"]
        assert (machine["cores_used_by_others"], machine["quiet"]) == (1.5, False)
