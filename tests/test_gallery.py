"""The gallery shows fit rows as trials would read them, under every control, and opens no test."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from igkd_search import (
    augment,
    controls,
    datasets,
    fitting,
    gallery,
    latency,
    logits_bank,
    materials,
    spec,
)
from igkd_search.errors import StudyError
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found(study: spec.Study, home: Path, shared: materials.Materials) -> gallery.Gallery:
    """The gallery of the tiny study, from its finished materials."""
    return gallery.assemble(study, shared.data, range(tiny.CLASSES), home, CPU)


def logits_of(shared: materials.Materials, rows: Any) -> torch.Tensor:
    reader = datasets.reader_of(shared.data, CPU)
    with torch.no_grad():
        return torch.as_tensor(shared.teacher.network(reader.unaugmented(torch.as_tensor(rows))))


def test_each_class_is_shown_by_its_first_fit_row_that_the_teacher_knows(
    found: gallery.Gallery, shared: materials.Materials
) -> None:
    fit, labels = shared.data.fit_rows, shared.data.labels
    known = logits_of(shared, fit).argmax(1).numpy() == labels[fit]
    for label, row in enumerate(found.rows):
        assert row == fit[known & (labels[fit] == label)][0]
    assert found.names == ("0", "1", "2") and found.known == (True, True, True)


def test_the_probability_is_the_teachers(
    found: gallery.Gallery, shared: materials.Materials
) -> None:
    shares = logits_of(shared, found.rows).softmax(1)
    expected = [float(shares[column, column]) for column in range(tiny.CLASSES)]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_images_and_maps_are_those_of_the_rows(
    found: gallery.Gallery, shared: materials.Materials
) -> None:
    np.testing.assert_array_equal(np.rint(found.images * 255), shared.data.images[found.rows])
    np.testing.assert_array_equal(np.rint(found.maps * 255), shared.maps[found.rows])
    assert found.maps.max() == 1


@pytest.mark.parametrize("control", get_args(spec.Control))
def test_each_control_lays_the_maps_that_trials_would_read(
    found: gallery.Gallery, shared: materials.Materials, study: spec.Study, control: spec.Control
) -> None:
    groups = (shared.data.fit_rows, shared.data.validation_rows)
    maps = controls.apply(shared.maps, control, groups, study.data.seed)[found.rows] / 255
    by_hand = 0.5 * shared.data.images[found.rows] / 255 + 0.5 * maps[:, None]
    np.testing.assert_allclose(found.overlays[control], by_hand, atol=1e-6)


def test_the_strength_is_that_of_the_trial(
    arrays: Path, home: Path, shared: materials.Materials
) -> None:
    weak = tiny.study(arrays, trial={"overlay_strength": 0.0})
    found = gallery.assemble(weak, shared.data, [0], home, CPU)
    np.testing.assert_allclose(found.overlays["none"], found.images, atol=1e-6)


def test_only_teacher_and_maps_are_built_and_no_test_part_is_opened(
    study: spec.Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("not needed")

    monkeypatch.setattr(datasets, "load_test", refuse)
    monkeypatch.setattr(logits_bank, "obtain", refuse)
    monkeypatch.setattr(latency, "measure", refuse)
    fresh = tiny.copy_entries(home, tmp_path / "home", "teacher")
    gallery.draw(study, tmp_path / "a.png", fresh)
    kinds = {path.parent.parent.name for path in fresh.glob("vault/*/*/manifest.json")}
    assert kinds == {"teacher", "overlays"}
    assert list((fresh / "vault" / "users").iterdir()) == []


def test_on_another_host_the_teacher_is_the_one_the_study_keeps(
    study: spec.Study,
    home: Path,
    shared: materials.Materials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Kept:
        def begun(self) -> bytes:
            return shared.teacher.weights.read_bytes()

        def fetch(self, recipe: str) -> bytes:
            return self.begun()

        def keep(self, recipe: str, weights: bytes) -> bytes:
            return self.begun()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(fitting, "fit", refuse)
    fresh = tiny.copy_entries(home, tmp_path / "home", "overlays")
    found = gallery.draw(study, tmp_path / "a.png", fresh, keeper=Kept())
    assert found.teacher_accuracy == shared.teacher.accuracy


def test_the_picture_differs_from_row_to_row(
    study: spec.Study, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    found = gallery.draw(study, tmp_path / "new" / "a.png", home, data=shared.data)
    with Image.open(tmp_path / "new" / "a.png") as written:
        picture = np.asarray(written.convert("L")).astype(int)
    assert picture.shape[0] > 1200 and picture.shape[1] >= 1300
    strips = gallery._strips(found)
    assert [strip.label for strip in strips] == [
        "original",
        "map",
        "overlay",
        "shuffled",
        "random",
        "dim",
    ]
    cells = picture[240:][: 6 * 218].reshape(6, 218, -1)[:, 20:180, 310:480]
    for one in range(6):
        for other in range(one):
            assert (cells[one] != cells[other]).mean() > 0.1, (strips[one], strips[other])


@pytest.mark.parametrize("control", get_args(spec.Control))
def test_the_row_that_trials_see_is_marked(found: gallery.Gallery, control: spec.Control) -> None:
    strips = gallery._strips(replace(found, control=control))
    (marked,) = [strip for strip in strips if strip.marked]
    assert marked.note == "trials see this"
    assert marked.pictures is found.overlays[control]
    assert marked.label == replace(found, control=control).seen


def test_a_class_that_the_teacher_never_knows_is_shown_by_its_first_fit_row(
    shared: materials.Materials,
) -> None:
    class Always(nn.Module):
        """Says the same of every image."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([9.0, 0.0, 0.0]).expand(len(images), 3)

    reader, fit = datasets.reader_of(shared.data, CPU), shared.data.fit_rows
    always = Always().eval()
    ours, other = (gallery._choose(shared.data, label, always, reader) for label in (0, 2))
    assert ours.known and ours.probability > 0.99
    assert not other.known and other.probability < 0.01
    for label, choice in ((0, ours), (2, other)):
        assert choice.row == fit[shared.data.labels[fit] == label][0]


def test_the_picture_says_where_the_teacher_is_wrong(found: gallery.Gallery) -> None:
    told = replace(found, probabilities=(0.9, 0.25, 1.0), known=(True, False, True))
    notes = [note for _, note in gallery._columns(told)]
    assert notes == ["p = 0.900", "p = 0.250, wrong", "p = 1.000"]


def test_classes_are_chosen_by_label_or_name(shared: materials.Materials) -> None:
    assert gallery.choose_classes(shared.data, None) == [0, 1, 2]
    assert gallery.choose_classes(shared.data, "2, 0,2") == [2, 0]
    many = replace(shared.data, classes=100)
    assert gallery.choose_classes(many, None) == list(range(10))
    with pytest.raises(StudyError, match=r"11 given; allowed are 1 to 10"):
        gallery.choose_classes(many, ",".join(map(str, range(11))))
    with pytest.raises(StudyError, match=r"unknown are 3, x"):
        gallery.choose_classes(shared.data, "0,3,x")


def test_the_overlay_is_augments_own(
    found: gallery.Gallery,
    study: spec.Study,
    home: Path,
    shared: materials.Materials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def overlay(images: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(options)
        return images

    monkeypatch.setattr(augment, "overlay", overlay)
    gallery.assemble(study, shared.data, [0], home, CPU)
    assert seen == [{"probability": 1.0, "strength": 0.5, "exponent_max": 1.0}] * 4
