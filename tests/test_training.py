"""One trial: what the student sees and is told, that validation is left alone, and how it fails."""

import gc
import itertools
import math
import weakref
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from igkd_search import (
    augment,
    batches,
    checkpoints,
    controls,
    datasets,
    evaluation,
    fitting,
    logits_bank,
    losses,
    materials,
    memory,
    models,
    registry,
    spec,
    training,
)
from igkd_search.errors import DataError, MachineError, TrialError
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


def drawn(task: training.Distillation, size: int = 12, seed: int = 1) -> batches.Batch:
    """The first batch of an epoch."""
    return next(iter(task.epoch(1, size, torch.Generator().manual_seed(seed))))


def bank_of(stock: training.Stock) -> Tensor:
    """The targets where they are on the device."""
    assert isinstance(stock.targets, Tensor)
    return stock.targets


def packed_of(stock: training.Stock) -> Tensor:
    """The pixels where they are on the device."""
    assert stock.reader.packed is not None
    return stock.reader.packed


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


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
    newest = checkpoints.newest(tmp_path)
    assert newest is not None
    assert run(config, stock, save_to=tmp_path, resume_from=newest) == whole


EVERYTHING: dict[str, Any] = {
    "epochs": 4,
    "learning_rate": 0.01,
    "cutout": 3,
    "alternating_flip": True,
    "attention_weight": 0.5,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "kd_weight": 0.6,
    "overlay_probability": 0.5,
}


@pytest.mark.parametrize("optimizer", get_args(spec.Optimizer))
def test_with_everything_on_a_trial_killed_in_any_step_and_resumed_has_the_same_record(
    study: spec.Study,
    stock: training.Stock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
) -> None:
    config = config_of(study, **EVERYTHING, optimizer=optimizer)
    student = training.build(config, stock, SEED)
    whole = list(training.train(config, stock, SEED, student=student))
    # five steps an epoch: after epoch 1, in the middle of the third, before the last step
    for step, kept in ((6, "epoch-0001"), (13, "epoch-0002"), (20, "epoch-0003")):
        folder = tmp_path / str(step)
        with monkeypatch.context() as patch:
            kill(patch, step)
            with pytest.raises(KeyboardInterrupt):
                run(config, stock, save_to=folder)
        newest = checkpoints.newest(folder)
        assert newest is not None and newest.stem == kept
        again = training.build(config, stock, SEED)
        resumed = training.train(
            config, stock, SEED, student=again, save_to=folder, resume_from=newest
        )
        found = list(resumed)
        assert [r.without_times() for r in found] == [r.without_times() for r in whole]
        assert found[-1].confusion == whole[-1].confusion is not None
        assert same(again, student)


def kill(patch: pytest.MonkeyPatch, step: int) -> None:
    """Interrupt the run in this step, counted from 1."""
    steps, loss = itertools.count(1), training.Distillation.loss

    def stopped(task: training.Distillation, model: nn.Module, batch: batches.Batch) -> Tensor:
        if next(steps) == step:
            raise KeyboardInterrupt
        return loss(task, model, batch)

    patch.setattr(training.Distillation, "loss", stopped)


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
    overlay, predict_each, scored = augment.overlay, evaluation.predict_each, list[Tensor]()
    score = evaluation.score

    def watched(images: Tensor, *arguments: Any, **options: Any) -> Tensor:
        assert 0 <= images.min() <= images.max() <= 1  # before normalisation
        overlaid.append(images)
        return overlay(images, *arguments, **options)

    def noted(model: nn.Module, chunks: Iterable[Tensor]) -> Tensor:
        evaluated.append(torch.cat(list(chunks)))
        return predict_each(model, [evaluated[-1]])

    def told(logits: Tensor, labels: Tensor) -> evaluation.Scores:
        scored.append(labels)
        return score(logits, labels)

    monkeypatch.setattr(augment, "overlay", watched)
    monkeypatch.setattr(evaluation, "predict_each", noted)
    monkeypatch.setattr(evaluation, "score", told)
    config = config_of(study, overlay_probability=1.0, cutout=5)
    assert len(run(config, stock)) == config.epochs
    assert [len(images) for images in overlaid] == [12] * (FIT_ROWS // 12) * config.epochs
    data = shared.data
    plain = data.images[data.validation_rows].astype(np.float64) / 255
    expected = (plain - data.mean[:, None, None]) / data.sd[:, None, None]
    assert len(evaluated) == len(scored) == 2 * config.epochs  # the average and the weights
    for images, labels in zip(evaluated, scored, strict=True):
        np.testing.assert_allclose(images.numpy(), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(labels.numpy(), data.labels[data.validation_rows])


def test_validation_rows_are_not_trained_on(study: spec.Study, stock: training.Stock) -> None:
    # another image, map, label and soft target of every validation row: the same training
    held_out = np.setdiff1d(np.arange(tiny.TRAIN), stock.fit_rows.numpy())
    assert len(held_out) == tiny.VALIDATION
    packed, labels, targets = (t.clone() for t in (packed_of(stock), stock.labels, bank_of(stock)))
    packed[held_out], labels[held_out], targets[held_out] = 255, 0, torch.nan
    reader = replace(stock.reader, packed=packed)
    poisoned = replace(stock, reader=reader, labels=labels, targets=targets)
    config = config_of(study, kd_weight=0.5, overlay_probability=1.0)
    students = [training.build(config, stock, SEED) for _ in range(2)]
    one, other = (
        run(config, each, student=student)
        for each, student in zip((stock, poisoned), students, strict=True)
    )
    assert [record.loss for record in one] == [record.loss for record in other]
    assert same(*students)
    assert one[-1].validation_loss != other[-1].validation_loss  # so they were poisoned


@pytest.mark.parametrize("off", [{"overlay_probability": 0.0}, {"overlay_strength": 0.0}])
def test_without_overlays_the_maps_do_not_matter(
    study: spec.Study, stock: training.Stock, off: dict[str, float]
) -> None:
    packed = packed_of(stock).clone()
    packed[..., 3] = 255 - packed[..., 3]
    other = replace(stock, reader=replace(stock.reader, packed=packed))
    config = config_of(study, **off)
    assert run(config, other) == run(config, stock)
    assert run(config_of(study), other) != run(config_of(study), stock)


# --- law 4: what the student is told


class CrossEntropy(training.Distillation):
    """The same views and overlays, and labels alone."""

    def loss(self, model: nn.Module, batch: batches.Batch) -> Tensor:
        config, reader = self._config, self._stock.reader
        overlaid = augment.overlay(
            *reader.unit(batch.rows, batch.views),
            batch.chance[:2],
            probability=config.overlay_probability,
            strength=config.overlay_strength,
            exponent_max=config.overlay_exponent_max,
        )
        logits = model(augment.normalise(overlaid, reader.mean, reader.sd))
        return functional.cross_entropy(logits, self._stock.labels[batch.rows])


@pytest.mark.parametrize("bank", [True, False])
def test_kd_weight_0_asks_no_teacher_and_is_cross_entropy(
    study: spec.Study, stock: training.Stock, bank: bool
) -> None:
    config = config_of(study, kd_weight=0.0)
    targets = torch.full((tiny.TRAIN, 18, tiny.CLASSES), torch.nan) if bank else None
    mute = replace(stock, network=Mute(), targets=targets)
    student = training.build(config, stock, SEED)
    plain = fitting.fit(student, CrossEntropy(config, stock, SEED), config, SEED, CPU)
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
    student = training.build(config, stock, SEED).eval()
    task = training.Distillation(config, live, SEED)
    batch = drawn(task)
    loss = task.loss(student, batch)
    (seen,) = network.seen
    expected = stock.reader.normalised(batch.rows, batch.views)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)
    from_bank = training.Distillation(config, stock, SEED).loss(student, batch)
    assert loss.item() == pytest.approx(from_bank.item(), rel=2e-3)


def test_misaligned_targets_are_seen_in_the_accuracy(
    study: spec.Study, stock: training.Stock
) -> None:
    # the fault of the paper's code: each row is told what the teacher says of another image
    taught_by = torch.arange(tiny.TRAIN).roll(1)  # neighbours differ in class
    shuffled = replace(stock, taught_by=taught_by)
    config = config_of(study, kd_weight=1.0, temperature=2.0, epochs=10, learning_rate=0.05)
    aligned, wrong = (run(config, s)[-1].accuracy for s in (stock, shuffled))
    assert aligned > wrong + 0.2


def test_restricted_to_chosen_views_a_batch_shows_and_is_told_of_these_alone(
    study: spec.Study, stock: training.Stock
) -> None:
    kinds, bank = stock.reader.kinds, bank_of(stock)
    chosen = torch.tensor(logits_bank.choose_views(kinds, tiny.TRAIN, 2, seed=0))
    few = replace(stock, chosen=chosen, targets=bank.gather(1, chosen[..., None].expand(-1, -1, 3)))
    config = config_of(study, kd_weight=1.0, overlay_probability=0.0)
    network, task = (
        training.build(config, stock, SEED).eval(),
        training.Distillation(config, few, 5),
    )
    seen = list[Tensor]()
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    batch = drawn(task, FIT_ROWS)
    loss, rows = task.loss(network, batch), batch.rows
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


# --- what stays on the host


def with_targets(shared: materials.Materials, mode: str) -> materials.Materials:
    """The materials of a study whose targets are asked for like this."""
    assert shared.targets is not None
    if mode == "live":
        return replace(shared, targets=None)
    if mode == "shuffled":
        return replace(shared, taught_by=np.roll(np.arange(tiny.TRAIN), 1))
    if mode == "chosen":
        chosen = logits_bank.choose_views(shared.data.views, tiny.TRAIN, 2, seed=0)
        bank = np.take_along_axis(shared.targets, chosen[..., None], 1)
        return replace(shared, targets=bank, chosen_views=chosen)
    if mode == "fine":
        return replace(shared, maps=(shared.maps / 255).astype(np.float16))
    return shared


@pytest.mark.parametrize("mode", ["bank", "live", "shuffled", "chosen", "fine"])
def test_a_trial_whose_materials_stream_has_the_same_record(
    study: spec.Study, shared: materials.Materials, mode: str
) -> None:
    found = with_targets(shared, mode)
    config = config_of(
        study, **EVERYTHING | {"epochs": 2, "alternating_flip": mode != "chosen", "kd_weight": 0.9}
    )
    resident, streaming = (
        training.Stock.of(found, study, CPU, resident=resident) for resident in (True, False)
    )
    assert resident.fetch(True) is None and streaming.fetch(True) is not None
    assert resident.reader.packed is not None and streaming.reader.packed is None
    assert streaming.targets is found.targets
    assert streaming.image_shape == resident.image_shape == (3, tiny.SIZE, tiny.SIZE)
    stocks = [resident, streaming]
    if mode in ("bank", "shuffled", "chosen"):  # either may fit without the other
        stocks.append(replace(resident, targets=found.targets))
        stocks.append(replace(streaming, targets=resident.targets))
    students = [training.build(config, resident, SEED) for _ in stocks]
    records = [
        list(training.train(config, each, SEED, student=student))
        for each, student in zip(stocks, students, strict=True)
    ]
    for others, student in zip(records[1:], students[1:], strict=True):
        assert [r.without_times() for r in others] == [r.without_times() for r in records[0]]
        assert [r.confusion for r in others] == [r.confusion for r in records[0]]
        assert same(student, students[0])


def test_the_modes_of_targets_differ(study: spec.Study, shared: materials.Materials) -> None:
    # or the test above would compare one thing with itself
    config = config_of(study, kd_weight=0.9, epochs=1)
    losses_of = {
        mode: run(config, training.Stock.of(with_targets(shared, mode), study, CPU))[0].loss
        for mode in ("bank", "live", "shuffled", "chosen", "fine")
    }
    assert len(set(losses_of.values())) == 5


def test_what_fits_is_resident_and_what_does_not_streams(
    study: spec.Study,
    shared: materials.Materials,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "igkd_search")
    assert shared.targets is not None
    images, targets = tiny.TRAIN * 10 * 10 * 4, shared.targets.nbytes
    assert targets < images
    for free, kept in ((2 * images, (True, True)), (2 * targets, (False, True)), (0, (False,) * 2)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        caplog.clear()
        found = training.Stock.of(shared, study, CPU)
        assert (found.reader.packed is not None, isinstance(found.targets, Tensor)) == kept
        assert ("images do not fit into cpu: they stream" in caplog.text) != kept[0]


# --- nothing in a step waits for the device


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a GPU would be waited for: values read back, sizes that depend on values."""

    _READS = frozenset(
        {
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.equal,
            torch.ops.aten.is_nonzero,
            torch.ops.aten.lift_fresh,  # a value sent from Python, which waits until it is there
            torch.ops.aten.masked_select,
            torch.ops.aten.nonzero,
            torch.ops.aten._unique2,
        }
    )
    _BY_MASK = frozenset({torch.ops.aten.index, torch.ops.aten.index_put_})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        packet = func.overloadpacket
        indexes = args[1] if packet in self._BY_MASK else []
        masks = [index for index in indexes if index is not None and index.dtype == torch.bool]
        if packet in self._READS or masks:
            self.found[str(packet)] += 1
        return func(*args, **(kwargs or {}))


def waits(config: spec.TrialConfig, stock: training.Stock) -> Counter[str]:
    """What one epoch waits for, validation included."""
    student = training.build(config, stock, SEED)
    mode = Waits()
    with mode:
        (record,) = training.train(config, stock, SEED, student=student)
    assert record.epoch == 1
    return mode.found


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [
        *((name, "bank") for name in get_args(spec.Optimizer)),
        *(("sgd", mode) for mode in ("live", "shuffled", "chosen")),
    ],
)
def test_no_step_waits_for_the_device(
    study: spec.Study, shared: materials.Materials, optimizer: str, mode: str
) -> None:
    found = training.Stock.of(with_targets(shared, mode), study, CPU)
    changes = {"epochs": 1, "optimizer": optimizer, "alternating_flip": mode != "chosen"}
    config = config_of(study, **EVERYTHING | changes)
    few, many = (waits(config.model_copy(update={"batch_size": size}), found) for size in (20, 5))
    assert few == many  # 3 and 12 steps


@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: bool(loss > 0),
        lambda loss: torch.equal(loss, loss),
        lambda loss: loss[None][loss[None] > 0],
        lambda loss: torch.tensor(1.0),
    ],
)
def test_what_waits_would_be_seen(
    study: spec.Study, stock: training.Stock, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    loss = training.Distillation.loss

    def reading(task: training.Distillation, model: nn.Module, batch: batches.Batch) -> Tensor:
        found = loss(task, model, batch)
        read(found)
        return found

    monkeypatch.setattr(training.Distillation, "loss", reading)
    few, many = (waits(config_of(study, epochs=1, batch_size=size), stock) for size in (20, 5))
    assert (many - few).total() == 9


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


def test_a_student_that_starts_from_the_teacher_starts_with_a_lower_loss(
    study: spec.Study, stock: training.Stock
) -> None:
    fresh, taught = (
        run(config_of(study, initialisation=name, epochs=1, learning_rate=0.01), stock)[0]
        for name in ("random", "teacher")
    )
    assert taught.loss < fresh.loss


def test_attention_is_paid_where_the_teacher_looks(
    study: spec.Study, stock: training.Stock
) -> None:
    assert distance_of_attention(study, stock, 5.0) < 0.8 * distance_of_attention(study, stock, 0.0)


def distance_of_attention(study: spec.Study, stock: training.Stock, weight: float) -> float:
    """How far a student looks elsewhere than its teacher on the fit rows, after some epochs."""
    config = config_of(study, attention_weight=weight, epochs=4, learning_rate=0.05)
    student = training.build(config, stock, SEED)
    run(config, stock, student=student)
    assert isinstance(student.eval(), models.Student)
    images = stock.reader.unaugmented(stock.fit_rows)
    with torch.no_grad():
        theirs = models.first_blocks(stock.network, config.removed_blocks)(images)
        return losses.attention_loss(student.get_submodule("features")(images), theirs).item()


def test_attention_is_added_to_the_distillation_loss_and_compares_the_same_block(
    study: spec.Study, stock: training.Stock
) -> None:
    plain = config_of(study, attention_weight=0.0, overlay_probability=0.0)
    student = training.build(plain, stock, SEED).eval()
    assert isinstance(student, models.Student)
    weighed = training.Distillation(plain.model_copy(update={"attention_weight": 0.3}), stock, SEED)
    without, batch = training.Distillation(plain, stock, SEED), drawn(weighed)
    images = stock.reader.normalised(batch.rows, batch.views)
    theirs = images
    for block in (models.blocks(stock.network) or [])[: len(student.features)]:
        theirs = block(theirs)
    distance = losses.attention_loss(student.features(images), theirs).item()
    assert distance > 0
    expected = without.loss(student, batch).item() + 0.3 * distance
    assert weighed.loss(student, batch).item() == pytest.approx(expected, rel=1e-5)
    # where the student is the teacher's own beginning, there is nothing to pay
    models.copy_prefix(student, stock.network)
    assert weighed.loss(student, batch).item() == pytest.approx(
        without.loss(student, batch).item(), rel=1e-5
    )


def test_for_attention_the_teacher_sees_the_view_without_overlay(
    study: spec.Study, stock: training.Stock
) -> None:
    config = config_of(study, attention_weight=0.3, overlay_probability=1.0, cutout=3)
    student = training.build(config, stock, SEED).eval()
    assert isinstance(student, models.Student)
    seen = list[Tensor]()
    student.features.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    task = training.Distillation(config, stock, SEED)
    without = config.model_copy(update={"attention_weight": 0.0})
    batch = drawn(task)
    paid = task.loss(student, batch) - training.Distillation(without, stock, SEED).loss(
        student, batch
    )
    plain = stock.reader.normalised(batch.rows, batch.views)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], plain)
    theirs = models.first_blocks(stock.network, config.removed_blocks)(plain)
    distance = losses.attention_loss(student.features(seen[0]), theirs)
    assert paid.item() == pytest.approx(0.3 * distance.item(), rel=1e-4)


def test_training_leaves_the_teacher_as_it_was(study: spec.Study, stock: training.Stock) -> None:
    before = {key: value.clone() for key, value in stock.network.state_dict().items()}
    changes = {"initialisation": "teacher", "kd_weight": 0.5, "attention_weight": 0.5}
    run(config_of(study, **changes), replace(stock, targets=None))
    for name, value in stock.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not stock.network.training


# --- failures


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_full_device_says_what_was_asked_and_what_to_change_and_is_emptied(
    study: spec.Study,
    stock: training.Stock,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    held, given_back = list[weakref.ref[Tensor]](), list[bool]()

    def full(task: training.Distillation, model: nn.Module, batch: batches.Batch) -> Tensor:
        activations = model(stock.reader.normalised(batch.rows, batch.views))
        held.append(weakref.ref(activations))
        raise error("tried to allocate 20.00 GiB")

    give_back = memory.give_back

    def noted() -> None:
        # what the failed step made is let go of before the memory is asked back
        given_back.append(held[0]() is None)
        give_back()

    monkeypatch.setattr(training.Distillation, "loss", full)
    monkeypatch.setattr(memory, "give_back", noted)
    gc.disable()
    try:
        with pytest.raises(TrialError) as caught:
            run(config_of(study, width=0.2), stock)
    finally:
        gc.enable()
    assert caught.value.cause == "out_of_memory"
    assert str(caught.value) == (
        "out_of_memory: tried to allocate 20.00 GiB; lower batch_size (12), width (0.2) or "
        f"resolution, or raise removed_blocks ({tiny.REMOVED_BLOCKS})"
    )
    assert given_back == [True]
    assert caught.value.__context__ is None


def test_what_is_not_about_memory_is_raised_as_it_came(
    study: spec.Study, stock: training.Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("unsupported memory format option")

    monkeypatch.setattr(training.Distillation, "loss", broken)
    with pytest.raises(RuntimeError, match="unsupported memory format"):
        run(config_of(study), stock)


def test_a_loss_that_is_not_finite_ends_the_trial(study: spec.Study, stock: training.Stock) -> None:
    with pytest.raises(
        TrialError, match=r"epoch 1.*\(epochs = 2, batch_size = 12, .*removed_blocks = 15"
    ) as told:
        run(config_of(study, learning_rate=1e9), stock)
    assert told.value.cause == "diverged"
    assert "kd_weight = 0.5" in str(told.value)  # as it is by default, which may change


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: uncorrectable ECC error"), OSError(5, "I/O error")]
)
def test_a_machine_that_fails_is_no_fault_of_the_trial(
    stock: training.Stock, study: spec.Study, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(training.Distillation, "loss", fail)
    with pytest.raises(MachineError, match="the machine failed under a training"):
        list(training.train(study.trial, stock, 3))


def test_a_student_of_a_lower_resolution_learns_from_images_in_full(
    study: spec.Study, stock: training.Stock
) -> None:
    config = config_of(study, resolution=4, attention_weight=0.3, initialisation="teacher")
    student, before = training.build(config, stock, SEED), stock.network.state_dict()
    kept = {name: value.clone() for name, value in before.items()}
    assert isinstance(student, models.Student) and student.resize is not None
    seen = list[Tensor]()
    student.resize.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    records = run(config, stock, student=student)
    side = tiny.SIZE
    assert {tuple(each.shape[1:]) for each in seen} == {(3, side, side)}
    assert math.isfinite(records[-1].loss)
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    # on every machine and after every stop the same
    assert [each.loss for each in run(config, stock)] == [each.loss for each in records]


def test_attention_of_a_lower_resolution_compares_the_same_block(
    study: spec.Study, stock: training.Stock
) -> None:
    config = config_of(study, resolution=4, attention_weight=0.3, overlay_probability=0.0)
    student = training.build(config, stock, SEED).eval()
    assert isinstance(student, models.Student)
    task = training.Distillation(config, stock, SEED)
    without = training.Distillation(
        config.model_copy(update={"attention_weight": 0.0}), stock, SEED
    )
    batch = drawn(task)
    images = stock.reader.normalised(batch.rows, batch.views)
    theirs = models.first_blocks(stock.network, config.removed_blocks)(images)
    assert student.maps(images).shape[2] < theirs.shape[2]
    distance = losses.attention_loss(student.maps(images), theirs).item()
    paid = task.loss(student, batch) - without.loss(student, batch)
    assert paid.item() == pytest.approx(0.3 * distance, abs=1e-5)


def test_what_the_papers_code_does_is_a_training_of_ours(
    arrays: Path, home: Path, tmp_path: Path
) -> None:
    paper = registry.find("paper")
    tables: dict[str, dict[str, Any]] = {
        "data": {"normalise": False},
        "overlays": {"steps": 2, "baseline": "black", "control": "shuffled"},
        "materials": {"targets": "shuffled"},
        "trial": {
            **paper.trial.model_dump(exclude_none=True),
            **{"epochs": 2, "removed_blocks": tiny.REMOVED_BLOCKS, "width": tiny.WIDTH},
        },
    }
    study = tiny.study(arrays, **tables)
    shared = materials.prepare(study, tiny.copy_entries(home, tmp_path, "onnx"), CPU)
    stock = training.Stock.of(shared, study, CPU)
    seen = stock.reader.unaugmented(torch.arange(5))
    assert seen.min() >= 0 and seen.max() <= 1
    assert stock.taught_by is not None
    assert not (stock.taught_by == torch.arange(tiny.TRAIN)).any(), "of another image, all of them"
    groups = (shared.data.fit_rows, shared.data.validation_rows)
    mapped = controls.other_rows(groups, study.data.seed)
    alike = (stock.taught_by.numpy() == mapped).mean()
    assert alike < 0.2, "maps and targets are those of two other images"
    records = run(study.trial, stock)
    assert [record.learning_rate for record in records] == [1e-3, 1e-3]
    assert all(record.accuracy == record.raw_accuracy for record in records), "no average"
