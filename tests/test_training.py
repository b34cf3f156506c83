"""One trial: what the student sees and is told, that validation is left alone, and how it fails."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import (
    augment,
    datasets,
    fitting,
    logits_bank,
    losses,
    materials,
    models,
    spec,
    training,
)
from igkd_search.errors import DataError, TrialError
from tests import tiny

CPU = torch.device("cpu")
SEED = 11
FIT_ROWS = tiny.TRAIN - tiny.VALIDATION


def config_of(study: spec.Study, **changes: Any) -> spec.TrialConfig:
    return study.trial.model_copy(update=changes)


def run(
    config: spec.TrialConfig, stock: training.Stock, seed: int = SEED, **options: Any
) -> list[training.EpochResult]:
    results = training.train(config, stock, seed, **options)
    return [result.without_times() for result in results]


class Mute(nn.Module):
    """A teacher that must not be asked."""

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("the teacher was asked")


# --- law 6


@pytest.mark.parametrize("stop", [1, 2])
def test_a_trial_stopped_and_resumed_has_the_same_record(
    study: spec.Study, stock: training.Stock, tmp_path: Path, stop: int
) -> None:
    config = config_of(study, epochs=3)
    whole = run(config, stock)
    assert run(config, stock) == whole
    results = training.train(config, stock, SEED, save_to=tmp_path)
    for _ in range(stop):
        next(results)
    assert isinstance(results, Generator)
    results.close()
    newest = fitting.newest_checkpoint(tmp_path)
    assert newest is not None
    assert run(config, stock, save_to=tmp_path, resume_from=newest) == whole


def test_another_seed_is_another_trial(study: spec.Study, stock: training.Stock) -> None:
    config = config_of(study)
    assert run(config, stock, 12) != run(config, stock)
    one, same, other = (
        training.build(config, stock, seed).state_dict() for seed in (SEED, SEED, 12)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


# --- law 3


def test_validation_images_are_neither_augmented_nor_overlaid(
    study: spec.Study,
    shared: materials.Materials,
    stock: training.Stock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlaid: list[Tensor] = []
    evaluated: list[Tensor] = []
    overlay, evaluate = augment.overlay, fitting.evaluate

    def watched(images: Tensor, *arguments: Any, **options: Any) -> Tensor:
        assert 0 <= images.min() <= images.max() <= 1  # before normalisation
        overlaid.append(images)
        return overlay(images, *arguments, **options)

    def noted(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
        evaluated.append(images)
        return evaluate(model, images, labels)

    monkeypatch.setattr(augment, "overlay", watched)
    monkeypatch.setattr(fitting, "evaluate", noted)
    config = config_of(study, overlay_probability=1.0)
    assert len(run(config, stock)) == config.epochs
    assert [len(images) for images in overlaid] == [12] * (FIT_ROWS // 12) * config.epochs
    data = shared.data
    plain = data.images[data.validation_rows].astype(np.float64) / 255
    expected = (plain - data.mean[:, None, None]) / data.sd[:, None, None]
    assert len(evaluated) == config.epochs
    for images in evaluated:
        np.testing.assert_allclose(images.numpy(), expected, rtol=1e-4, atol=1e-5)
    labels = stock.validation[1].numpy()
    np.testing.assert_array_equal(labels, data.labels[data.validation_rows])


def test_validation_rows_are_not_trained_on(study: spec.Study, stock: training.Stock) -> None:
    # another image, map, label and soft target of every validation row: the same trial
    held_out = np.setdiff1d(np.arange(tiny.TRAIN), stock.fit_rows.numpy())
    assert len(held_out) == tiny.VALIDATION
    assert stock.targets is not None
    packed, labels, targets = (
        t.clone() for t in (stock.reader.packed, stock.labels, stock.targets)
    )
    packed[held_out], labels[held_out], targets[held_out] = 255, 0, torch.nan
    reader = replace(stock.reader, packed=packed)
    poisoned = replace(stock, reader=reader, labels=labels, targets=targets)
    config = config_of(study, kd_weight=0.5, overlay_probability=1.0)
    assert run(config, poisoned) == run(config, stock)


@pytest.fixture(scope="module")
def unchanged(study: spec.Study, stock: training.Stock) -> list[training.EpochResult]:
    """The record of the study's own trial."""
    return run(config_of(study), stock)


@pytest.mark.parametrize(
    "change",
    [
        {"overlay_probability": 0.9},
        {"overlay_strength": 0.9},
        {"overlay_exponent_max": 4.0},
        {"kd_weight": 0.9},
        {"temperature": 1.5},
        {"label_smoothing": 0.1},
        {"learning_rate": 0.05},
        {"removed_blocks": 16},
        {"width": 0.5},
        {"initialisation": "teacher"},
    ],
)
def test_each_field_of_a_trial_matters(
    study: spec.Study,
    stock: training.Stock,
    unchanged: list[training.EpochResult],
    change: dict[str, Any],
) -> None:
    assert run(config_of(study, **change), stock) != unchanged


@pytest.mark.parametrize("off", [{"overlay_probability": 0.0}, {"overlay_strength": 0.0}])
def test_without_overlays_the_maps_do_not_matter(
    study: spec.Study, stock: training.Stock, off: dict[str, float]
) -> None:
    packed = stock.reader.packed.clone()
    packed[..., 3] = 255 - packed[..., 3]
    other = replace(stock, reader=replace(stock.reader, packed=packed))
    config = config_of(study, **off)
    assert run(config, other) == run(config, stock)
    assert run(config_of(study), other) != run(config_of(study), stock)


# --- law 4: what the student is told


class CrossEntropy(training.Distillation):
    """The same views and overlays, and labels alone."""

    def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
        config, reader = self._config, self._stock.reader
        rows = self._rows[positions]
        views = reader.kinds.draw(len(rows), generator)
        overlaid = augment.overlay(
            *reader.unit(rows, views),
            generator,
            probability=config.overlay_probability,
            strength=config.overlay_strength,
            exponent_max=config.overlay_exponent_max,
        )
        logits = model(augment.normalise(overlaid, reader.mean, reader.sd))
        return functional.cross_entropy(logits, self._stock.labels[rows])


@pytest.mark.parametrize("bank", [True, False])
def test_kd_weight_0_asks_no_teacher_and_is_cross_entropy(
    study: spec.Study, stock: training.Stock, bank: bool
) -> None:
    config = config_of(study, kd_weight=0.0)
    targets = torch.full((tiny.TRAIN, 18, tiny.CLASSES), torch.nan) if bank else None
    mute = replace(stock, network=Mute(), targets=targets)
    student = training.build(config, stock, SEED)
    plain = fitting.fit(student, CrossEntropy(config, stock), config, SEED, CPU)
    assert run(config, mute) == [record.without_times() for record in plain]


def test_with_a_bank_the_teacher_is_not_asked(study: spec.Study, stock: training.Stock) -> None:
    config = config_of(study, kd_weight=1.0)
    assert run(config, replace(stock, network=Mute())) == run(config, stock)


def test_a_live_teacher_sees_the_view_without_overlay(
    study: spec.Study, stock: training.Stock
) -> None:
    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []
            self.eval()

        def forward(self, images: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            self.seen.append(images)
            logits: Tensor = stock.network(images)
            return logits

    network = Noted()
    live = replace(stock, network=network, targets=None)
    config = config_of(study, kd_weight=1.0, overlay_probability=1.0)
    generator = torch.Generator().manual_seed(1)
    positions = torch.arange(12)
    student = training.build(config, stock, SEED).eval()
    loss = training.Distillation(config, live).loss(student, positions, generator)
    # what the generator drew first are the views
    views = stock.reader.kinds.draw(12, torch.Generator().manual_seed(1))
    (seen,) = network.seen
    expected = stock.reader.normalised(stock.fit_rows[positions], views)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)
    from_bank = training.Distillation(config, stock).loss(
        student, positions, torch.Generator().manual_seed(1)
    )
    assert loss.item() == pytest.approx(from_bank.item(), rel=2e-3)


def test_misaligned_targets_are_seen_in_the_accuracy(
    study: spec.Study, stock: training.Stock
) -> None:
    # the fault of the paper's code: each row is told what the teacher says of another image
    assert stock.targets is not None
    taught_by = torch.arange(tiny.TRAIN).roll(1)  # neighbours differ in class
    shuffled = replace(stock, taught_by=taught_by)
    config = config_of(study, kd_weight=1.0, temperature=2.0, epochs=10, learning_rate=0.05)
    aligned, wrong = (run(config, s)[-1].accuracy for s in (stock, shuffled))
    assert aligned > wrong + 0.2


def test_restricted_to_chosen_views_a_batch_shows_and_is_told_of_these_alone(
    study: spec.Study, stock: training.Stock
) -> None:
    assert stock.targets is not None
    kinds = stock.reader.kinds
    chosen = torch.tensor(logits_bank.choose_views(kinds, tiny.TRAIN, 2, seed=0))
    few = replace(
        stock, chosen=chosen, targets=stock.targets.gather(1, chosen[..., None].expand(-1, -1, 3))
    )
    config = config_of(study, kd_weight=1.0, overlay_probability=0.0)
    network, positions = training.build(config, stock, SEED).eval(), torch.arange(FIT_ROWS)
    seen = list[Tensor]()
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    loss = training.Distillation(config, few).loss(
        network, positions, torch.Generator().manual_seed(5)
    )
    rows = stock.fit_rows
    options = [stock.reader.normalised(rows, chosen[rows, place]) for place in (0, 1)]
    matches = torch.stack([(seen[0] == option).flatten(1).all(1) for option in options])
    assert matches.any(0).all() and matches.any(1).all()
    # and what it is told is what a live teacher says of the very same images
    told = replace(stock, targets=None)
    views = torch.where(matches[0], chosen[rows, 0], chosen[rows, 1])
    live = logits_bank.live_logits(told.network, told.reader, rows, views)
    expected = losses.distillation_loss(
        network(seen[0]), live, stock.labels[rows], kd_weight=1.0, temperature=config.temperature
    )
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)


# --- law 8


def test_a_search_runs_on_an_unreadable_test_set(
    arrays: Path, home: Path, shared: materials.Materials, tmp_path: Path
) -> None:
    folder = tiny.write_arrays(tmp_path / "arrays")
    for name in ("test_images", "test_labels"):
        (folder / f"{name}.npy").write_bytes(b"garbage")
    fresh = tiny.copy_entries(home, tmp_path / "home", "latency")
    study = tiny.study(folder, materials={"targets": "bank"})
    found = materials.prepare(study, fresh, CPU)
    assert found.data.fingerprint == shared.data.fingerprint
    results = run(config_of(study), training.Stock.of(found, study, CPU))
    assert [result.epoch for result in results] == [1, 2]
    with pytest.raises(DataError, match="test_images"):
        datasets.load_test(study.data, fresh, tiny.CLASSES)


# --- the student


def test_a_student_may_start_from_the_teacher_s_first_blocks(
    study: spec.Study, stock: training.Stock
) -> None:
    config = config_of(study, initialisation="teacher")
    student, teacher = training.build(config, stock, SEED), stock.network.state_dict()
    fresh = training.build(config_of(study), stock, SEED)
    assert isinstance(student, models.Student)
    assert len(student.features) == 19 - tiny.REMOVED_BLOCKS
    for name, value in student.state_dict().items():
        if name.startswith("features."):
            torch.testing.assert_close(value, teacher[name], rtol=0, atol=0)
        else:
            torch.testing.assert_close(value, fresh.state_dict()[name], rtol=0, atol=0)


def test_training_leaves_the_teacher_as_it_was(study: spec.Study, stock: training.Stock) -> None:
    before = {key: value.clone() for key, value in stock.network.state_dict().items()}
    run(config_of(study, initialisation="teacher", kd_weight=0.5), replace(stock, targets=None))
    for name, value in stock.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not stock.network.training


# --- failures


def test_a_full_device_says_what_to_lower(
    study: spec.Study, stock: training.Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> Tensor:
        raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")

    monkeypatch.setattr(training.Distillation, "loss", full)
    with pytest.raises(TrialError, match=r"20\.00 GiB; lower batch_size \(12\) or width") as caught:
        run(config_of(study), stock)
    assert caught.value.cause == "out_of_memory"


def test_a_loss_that_is_not_finite_ends_the_trial(study: spec.Study, stock: training.Stock) -> None:
    with pytest.raises(TrialError, match="epoch 1 of 2") as caught:
        run(config_of(study, learning_rate=1e9), stock)
    assert caught.value.cause == "diverged"
