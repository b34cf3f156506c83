"""Law 6 on a small net with dropout: repeated or stopped and resumed, the record is the same."""

import dataclasses
import itertools
import json
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import checkpoints, evaluation, fitting, optimizers, spec
from igkd_search.errors import TrialError

CPU = torch.device("cpu")
ROWS, HELD_OUT = 26, 9
RECIPE = spec.Recipe(epochs=3, batch_size=8, learning_rate=0.05, ema_decay=0.9)
OPTIMIZERS = get_args(spec.Optimizer)


Batch = tuple[Tensor, Tensor]
"""Rows (B,) and their noise (B, 3, 4, 4)."""


class Colours:
    """The task of naming the brightest channel; it notes the rows of each step."""

    def __init__(self, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(1)
        self._images = torch.randn(rows + HELD_OUT, 3, 4, 4, generator=generator)
        self._labels = self._images.mean((2, 3)).argmax(1)
        self.rows = rows
        self.asked: list[Tensor] = []

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
        steps = self.rows // size
        order = torch.randperm(self.rows, generator=generator)[: steps * size]
        noise = torch.randn(steps, size, 3, 4, 4, generator=generator)
        return zip(torch.split(order, size), noise, strict=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        rows, noise = batch
        self.asked.append(rows)
        logits = model(self._images[rows] + 0.1 * noise)
        return functional.cross_entropy(logits, self._labels[rows])

    def validate(self, model: nn.Module) -> evaluation.Scores:
        assert not model.training
        return evaluation.evaluate(model, self._images[self.rows :], self._labels[self.rows :])


def told(loss: float) -> evaluation.Scores:
    """Scores of which only the loss says something."""
    return evaluation.Scores(0.0, loss, 0.0, ())


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def start(
    recipe: spec.Recipe = RECIPE,
    *,
    seed: int = 5,
    save_to: Path | None = None,
    resume_from: Path | None = None,
) -> tuple[nn.Module, Iterator[fitting.EpochRecord]]:
    model = net()
    # the state of the global generator at the start must not matter
    torch.manual_seed(99)
    run = fitting.fit(model, Colours(), recipe, seed, CPU, save_to=save_to, resume_from=resume_from)
    return model, run


def finish(
    recipe: spec.Recipe = RECIPE,
    *,
    seed: int = 5,
    save_to: Path | None = None,
    resume_from: Path | None = None,
) -> tuple[list[fitting.EpochRecord], dict[str, Tensor]]:
    """The records without their times, and the weights at the end."""
    model, run = start(recipe, seed=seed, save_to=save_to, resume_from=resume_from)
    return [record.without_times() for record in run], model.state_dict()


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def recipe_of(optimizer: str, ema_decay: float) -> spec.Recipe:
    changes = {"optimizer": optimizer, "ema_decay": ema_decay, "learning_rate": 0.01}
    return RECIPE.model_copy(update=changes)


# --- law 6


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stopped_after_any_epoch_and_resumed_the_record_is_the_same(
    tmp_path: Path, optimizer: str, ema_decay: float
) -> None:
    recipe = recipe_of(optimizer, ema_decay)
    records, weights = finish(recipe)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert same_weights(finish(recipe)[1], weights)
    for stop in (1, 2, 3):
        folder = tmp_path / str(stop)
        _, run = start(recipe, save_to=folder)
        for _ in range(stop):
            next(run)
        assert isinstance(run, Generator)
        run.close()
        newest = checkpoints.newest(folder)
        assert newest is not None
        found, resumed = finish(recipe, save_to=folder, resume_from=newest)
        assert found == records
        assert same_weights(resumed, weights)


def test_the_same_seed_gives_the_same_record_and_another_seed_does_not() -> None:
    records, weights = finish()
    again, same = finish()
    other, _ = finish(seed=6)
    assert again == records
    assert same_weights(same, weights)
    assert [record.loss for record in other] != [record.loss for record in records]


def test_a_run_stopped_at_every_epoch_by_another_attempt_is_the_same(tmp_path: Path) -> None:
    records, weights = finish()
    for attempt in range(3):
        model, run = start(
            save_to=tmp_path / f"attempt-{attempt}",
            resume_from=checkpoints.newest(tmp_path),
        )
        seen = [record.without_times() for record in itertools.islice(run, attempt + 1)]
        assert seen == records[: attempt + 1]
    assert not list(run)
    assert same_weights(model.state_dict(), weights)


def test_a_resumed_run_yields_the_times_it_once_took(tmp_path: Path) -> None:
    _, run = start(save_to=tmp_path)
    first = next(run)
    _, resumed = start(resume_from=checkpoints.newest(tmp_path))
    assert next(resumed) == first


def test_only_the_times_are_left_out_of_a_record() -> None:
    _, run = start()
    record = next(run)
    assert record.seconds > 0
    assert record.images_per_s > 0
    kept = dataclasses.asdict(record) | {"seconds": 0.0, "images_per_s": 0.0}
    assert dataclasses.asdict(record.without_times()) == kept


# --- checkpoints


def test_a_checkpoint_is_written_before_its_epoch_is_told(tmp_path: Path) -> None:
    _, run = start(save_to=tmp_path)
    for record in run:
        newest = checkpoints.newest(tmp_path)
        assert newest is not None
        assert newest.name == f"epoch-{record.epoch:04d}.safetensors"


def test_checkpoints_may_be_rarer_and_the_last_epoch_has_one(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 5})
    found = []
    for _ in fitting.fit(net(), Colours(), recipe, 5, CPU, save_to=tmp_path, checkpoint_every=2):
        found.append([path.name for path in tmp_path.glob("*")])
    second, fourth, last = ([f"epoch-000{epoch}.safetensors"] for epoch in (2, 4, 5))
    assert found == [[], second, second, fourth, last]


def test_who_is_leaving_saves_each_epoch(tmp_path: Path) -> None:
    recipe, leaving, saved = spec.Recipe(epochs=5, batch_size=8), [False], list[int]()
    run = fitting.fit(
        net(),
        Colours(),
        recipe,
        5,
        CPU,
        save_to=tmp_path,
        checkpoint_every=5,
        leaving=lambda: leaving[0],
    )
    for record in run:
        found = checkpoints.newest(tmp_path)
        saved.append(0 if found is None else checkpoints.epoch_of(found))
        leaving[0] = record.epoch == 2
    assert saved == [0, 0, 3, 3, 5]


def test_of_the_records_in_a_checkpoint_only_the_newest_keeps_its_confusion(
    tmp_path: Path,
) -> None:
    _, run = start(save_to=tmp_path)
    written = [next(run), next(run)]
    assert all(sum(map(sum, record.confusion or ())) == HELD_OUT for record in written)
    _, resumed = start(resume_from=checkpoints.newest(tmp_path))
    first, second = next(resumed), next(resumed)
    assert [first, second] == written
    assert first.confusion is None
    assert second.confusion == written[1].confusion


def test_a_checkpoint_of_an_older_version_is_removed_and_the_run_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records, weights = finish()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_VERSION", 1)
        _, run = start(save_to=tmp_path)
        next(run)
    (older,) = tmp_path.iterdir()
    found, again = finish(save_to=tmp_path, resume_from=checkpoints.newest(tmp_path))
    assert "a checkpoint of version 1, where this igkd goes on from 2; removed" in caplog.text
    assert not older.exists()
    assert found == records and same_weights(again, weights)


def test_no_pickle_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("pickle")

    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    _, run = start(save_to=tmp_path)
    next(run)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {  # noqa: SIM118
            "ema",
            "generator",
            "model",
            "optimizer",
        }
        assert [record["epoch"] for record in json.loads(file.metadata()["plain"])["records"]] == [
            1
        ]
    records, _ = finish(resume_from=path)
    assert len(records) == 3


# --- batches


@pytest.mark.parametrize(("rows", "size", "steps"), [(26, 8, 3), (24, 8, 3), (5, 64, 1)])
def test_a_batch_is_as_large_as_asked_or_all_rows(rows: int, size: int, steps: int) -> None:
    task = Colours(rows)
    recipe = RECIPE.model_copy(update={"batch_size": size})
    (*_, last) = fitting.fit(net(), task, recipe, 5, CPU)
    assert last.epoch == 3
    assert [len(asked) for asked in task.asked] == [min(size, rows)] * steps * 3


def test_the_loss_of_a_record_is_the_mean_over_its_steps() -> None:
    class Counting(Colours):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            self.asked.append(batch[0])
            weight = next(model.parameters())
            return 0 * weight.sum() + len(self.asked)

    recipe = RECIPE.model_copy(update={"learning_rate": 0.1})
    found = [record.loss for record in fitting.fit(net(), Counting(), recipe, 5, CPU)]
    assert found == [2.0, 5.0, 8.0]


# --- optimizers and schedule


def test_a_record_states_the_rate_of_its_last_step() -> None:
    records, _ = finish()
    expected = [optimizers.learning_rate(0.05, 0.2, step, 9) for step in (2, 5, 8)]
    assert [record.learning_rate for record in records] == expected


def test_one_step_of_sgd_worked_by_hand() -> None:
    class Slope(Colours):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return 3.0 * model.get_parameter("weight").sum()

        def validate(self, model: nn.Module) -> evaluation.Scores:
            return told(0.0)

    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    recipe = spec.Recipe(
        epochs=1,
        batch_size=13,
        learning_rate=0.1,
        warmup=0,
        momentum=0.5,
        weight_decay=0.1,
        ema_decay=0,
    )
    assert len(list(fitting.fit(model, Slope(), recipe, 0, CPU))) == 1
    # Nesterov: gradient + momentum * velocity; rates 0.1, then 0.1 * (1 + cos(pi / 2)) / 2
    first = 3.0 + 0.1 * 2.0
    weight = 2.0 - 0.1 * (first + 0.5 * first)
    second = 3.0 + 0.1 * weight
    weight -= 0.05 * (second + 0.5 * (0.5 * first + second))
    assert model.weight.item() == pytest.approx(weight)


# --- EMA


class Probe(Colours):
    """Sets the weight to 1, 2, 3 ... and lets validation tell the weight it sees."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return -model.get_parameter("weight").sum()  # plain sgd at rate 1 adds 1 a step

    def validate(self, model: nn.Module) -> evaluation.Scores:
        return told(model.get_parameter("weight").item())


def averages(ema_decay: float, steps: int) -> float:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    recipe = spec.Recipe(
        epochs=1,
        batch_size=2,
        learning_rate=1.0,
        warmup=0.999,
        momentum=0,
        weight_decay=0,
        ema_decay=ema_decay,
    )
    (record,) = fitting.fit(model, Probe(2 * steps), recipe, 0, CPU)
    assert model.weight.item() == record.validation_loss  # the validated weights are left in it
    return record.validation_loss


def test_the_average_starts_quickly_and_is_worked_by_hand() -> None:
    # warm-up over all 4 steps: the weight is 1/4, 3/4, 6/4, 10/4
    expected = 0.0
    for step, weight in enumerate([0.25, 0.75, 1.5, 2.5]):
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert averages(0.99, 4) == pytest.approx(expected)
    # a fixed decay of 0.99 would still sit near the start
    assert averages(0.99, 4) > 1.5
    assert averages(0.0, 4) == pytest.approx(2.5)


def test_norm_statistics_are_averaged_too_and_the_training_is_left_alone() -> None:
    records, averaged = finish()
    plain, last = finish(RECIPE.model_copy(update={"ema_decay": 0.0}))
    assert [r.loss for r in plain] == [r.loss for r in records]  # the training is the same
    assert [r.validation_loss for r in plain] != [r.validation_loss for r in records]
    for name in ("1.running_mean", "1.running_var", "0.weight"):
        assert not torch.equal(averaged[name], last[name])
    start_of_mean = torch.zeros(6)
    assert not torch.equal(averaged["1.running_mean"], start_of_mean)


def test_with_an_average_the_weights_themselves_are_validated_too() -> None:
    averaged, _ = finish()
    plain, _ = finish(RECIPE.model_copy(update={"ema_decay": 0.0}))
    for with_it, without in zip(averaged, plain, strict=True):
        assert with_it.validation_loss != with_it.raw_validation_loss == without.validation_loss
        assert with_it.raw_accuracy == without.accuracy
        assert without.raw_validation_loss == without.validation_loss
        assert without.raw_accuracy == without.accuracy


def test_without_an_average_one_validation_serves_both() -> None:
    class Counted(Colours):
        validations = 0

        def validate(self, model: nn.Module) -> evaluation.Scores:
            self.validations += 1
            return super().validate(model)

    for ema_decay, times in ((0.0, 3), (0.9, 6)):
        task = Counted()
        recipe = RECIPE.model_copy(update={"ema_decay": ema_decay})
        assert len(list(fitting.fit(net(), task, recipe, 5, CPU))) == 3
        assert task.validations == times


# --- divergence


class Bursting(Colours):
    """A loss that is not finite from its fifth step on, or a validation of the second epoch."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._validated = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        return loss * math.inf if self._where == "training" and len(self.asked) == 5 else loss

    def validate(self, model: nn.Module) -> evaluation.Scores:
        self._validated += 1
        return told(math.nan if self._where == "validation" and self._validated == 2 else 0.5)


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("training", "training loss inf at step 2 of 3, epoch 2 of 3"),
        ("validation", "validation loss nan at epoch 2"),
    ],
)
def test_a_diverged_run_says_where_with_which_configuration_and_what_to_change(
    tmp_path: Path, where: str, place: str
) -> None:
    recipe = spec.Recipe(epochs=3, batch_size=8, ema_decay=0, label_smoothing=0.0, momentum=0.5)
    seen = []
    with pytest.raises(TrialError) as caught:
        for record in fitting.fit(net(), Bursting(where), recipe, 5, CPU, save_to=tmp_path):
            seen.append(record.epoch)
    assert caught.value.cause == "diverged"
    configuration = ", ".join(f"{name} = {value}" for name, value in recipe)
    assert "momentum = 0.5" in configuration
    assert str(caught.value) == (
        f"diverged: {place}; lower learning_rate or raise warmup ({configuration})"
    )
    assert seen == [1]
    newest = checkpoints.newest(tmp_path)
    assert newest is not None and newest.name == "epoch-0001.safetensors"  # none of what burst


def test_the_average_may_hide_what_the_weights_themselves_show() -> None:
    class Raw(Colours):
        def validate(self, model: nn.Module) -> evaluation.Scores:
            self.asked.append(torch.zeros(0))
            return told(math.inf if len(self.asked) == 5 else 0.5)  # 3 steps, average, weights

    with pytest.raises(TrialError, match="validation loss inf at epoch 1"):
        list(fitting.fit(net(), Raw(), RECIPE, 5, CPU))


def test_weights_that_burst_by_themselves_are_noticed() -> None:
    recipe = RECIPE.model_copy(update={"learning_rate": 1e9, "epochs": 20, "ema_decay": 0.0})
    _, run = start(recipe)
    with pytest.raises(TrialError, match=r"loss (nan|inf) at .*learning_rate = 1000000000\.0"):
        list(run)
