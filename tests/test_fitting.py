"""Law 6 on a small net with dropout: repeated or stopped and resumed, the record is the same."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import fitting, spec
from igkd_search.errors import MaterialError, StudyError, TrialError

CPU = torch.device("cpu")
ROWS, HELD_OUT = 26, 9
RECIPE = spec.Recipe(epochs=3, batch_size=8, learning_rate=0.05, ema_decay=0.9)
OPTIMIZERS = get_args(spec.Optimizer)


class Colours:
    """The task of naming the brightest channel; it notes the positions that it is asked for."""

    def __init__(self, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(1)
        self._images = torch.randn(rows + HELD_OUT, 3, 4, 4, generator=generator)
        self._labels = self._images.mean((2, 3)).argmax(1)
        self.rows = rows
        self.asked: list[Tensor] = []

    def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
        self.asked.append(positions)
        noise = torch.randn(len(positions), 3, 4, 4, generator=generator)
        logits = model(self._images[positions] + 0.1 * noise)
        return functional.cross_entropy(logits, self._labels[positions])

    def validate(self, model: nn.Module) -> tuple[float, float]:
        return fitting.evaluate(model, self._images[self.rows :], self._labels[self.rows :])


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
        newest = fitting.newest_checkpoint(folder)
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
            resume_from=fitting.newest_checkpoint(tmp_path),
        )
        seen = [record.without_times() for record in itertools.islice(run, attempt + 1)]
        assert seen == records[: attempt + 1]
    assert not list(run)
    assert same_weights(model.state_dict(), weights)


def test_a_resumed_run_yields_the_times_it_once_took(tmp_path: Path) -> None:
    _, run = start(save_to=tmp_path)
    first = next(run)
    _, resumed = start(resume_from=fitting.newest_checkpoint(tmp_path))
    assert next(resumed) == first


def test_only_the_times_are_left_out_of_a_record() -> None:
    _, run = start()
    record = next(run)
    assert record.seconds > 0
    assert record.images_per_s > 0
    kept = dataclasses.asdict(record) | {"seconds": 0.0, "images_per_s": 0.0}
    assert dataclasses.asdict(record.without_times()) == kept


# --- checkpoints


def test_a_run_keeps_its_newest_checkpoint_alone(tmp_path: Path) -> None:
    other = tmp_path / "other" / "epoch-0001.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"of another attempt")
    finish(save_to=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["epoch-0003.safetensors"]
    assert other.exists()


def test_the_newest_checkpoint_has_the_most_epochs_of_any_attempt(tmp_path: Path) -> None:
    assert fitting.newest_checkpoint(tmp_path / "absent") is None
    names = ["a/epoch-0002", "b/epoch-0010", "c/epoch-0009", "epoch-0001", "d/.epoch-0011.tmp"]
    for name in names:
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(save({}))
    assert fitting.newest_checkpoint(tmp_path) == tmp_path / "b" / "epoch-0010.safetensors"


def test_an_unreadable_checkpoint_is_removed_and_an_older_one_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, torn = tmp_path / "epoch-0001.safetensors", tmp_path / "epoch-0002.safetensors"
    older.write_bytes(save({"x": torch.zeros(9)}))
    torn.write_bytes(older.read_bytes()[:-4])
    assert fitting.newest_checkpoint(tmp_path) == older
    assert not torn.exists()
    assert "epoch-0002.safetensors: not a checkpoint that can be read" in caplog.text


def test_a_checkpoint_is_written_before_its_epoch_is_told(tmp_path: Path) -> None:
    _, run = start(save_to=tmp_path)
    for record in run:
        newest = fitting.newest_checkpoint(tmp_path)
        assert newest is not None
        assert newest.name == f"epoch-{record.epoch:04d}.safetensors"


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
        assert [record["epoch"] for record in json.loads(file.metadata()["records"])] == [1]
    records, _ = finish(resume_from=path)
    assert len(records) == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def forget_the_records(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"records"', b'"recards"'))


def lose(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, empty, forget_the_records, lose])
def test_a_broken_checkpoint_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    _, run = start(save_to=tmp_path)
    next(run)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(MaterialError, match=r"epoch-0001\.safetensors"):
        finish(resume_from=path)


# --- batches


@pytest.mark.parametrize(("rows", "size", "steps"), [(26, 8, 3), (24, 8, 3), (5, 64, 1)])
def test_batches_have_one_size_and_draw_each_row_at_most_once(
    rows: int, size: int, steps: int
) -> None:
    task = Colours(rows)
    recipe = RECIPE.model_copy(update={"batch_size": size})
    (*_, last) = fitting.fit(net(), task, recipe, 5, CPU)
    assert last.epoch == 3
    batch = min(size, rows)
    assert [len(positions) for positions in task.asked] == [batch] * steps * 3
    epochs = [torch.cat(task.asked[i * steps : (i + 1) * steps]) for i in range(3)]
    for drawn in epochs:
        assert len(set(drawn.tolist())) == batch * steps
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < rows
    assert not torch.equal(epochs[0], epochs[1])


def test_the_loss_of_a_record_is_the_mean_over_its_steps() -> None:
    class Counting(Colours):
        def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
            self.asked.append(positions)
            weight = next(model.parameters())
            return 0 * weight.sum() + len(self.asked)

    recipe = RECIPE.model_copy(update={"learning_rate": 0.1})
    found = [record.loss for record in fitting.fit(net(), Counting(), recipe, 5, CPU)]
    assert found == [2.0, 5.0, 8.0]


# --- optimizers and schedule


def test_the_names_of_optimizers_are_those_of_a_study_file() -> None:
    assert set(OPTIMIZERS) == set(fitting.OPTIMIZERS)


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    recipe = spec.Recipe(learning_rate=0.8, warmup=0.2)
    rates = [fitting.learning_rate(recipe, step, 10) for step in range(11)]
    assert rates[:3] == pytest.approx([0.4, 0.8, 0.8])
    assert rates[6] == pytest.approx(0.4)  # half way down
    assert rates[4] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert rates[10] == pytest.approx(0)  # the step after the last
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    recipe = spec.Recipe(learning_rate=0.8, warmup=0.0)
    assert fitting.learning_rate(recipe, 0, 1) == 0.8
    assert fitting.learning_rate(recipe, 0, 7) == 0.8


def test_a_record_states_the_rate_of_its_last_step() -> None:
    records, _ = finish()
    expected = [fitting.learning_rate(RECIPE, step, 9) for step in (2, 5, 8)]
    assert [record.learning_rate for record in records] == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_spares_norms_and_biases(optimizer: str) -> None:
    class Flat(Colours):
        def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
            model(self._images[positions])
            return sum((0 * p.sum() for p in model.parameters()), torch.zeros(()))

    changes = {"weight_decay": 0.5, "ema_decay": 0.0, "learning_rate": 0.1, "epochs": 1}
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, **changes})
    model, before = net(), net().state_dict()
    assert len(list(fitting.fit(model, Flat(), recipe, 5, CPU))) == 1
    for name, parameter in model.named_parameters():
        shrunk = parameter.abs().sum() < before[name].abs().sum()
        assert shrunk == (parameter.ndim > 1), name
        if not shrunk:
            assert torch.equal(parameter, before[name])


def test_one_step_of_sgd_worked_by_hand() -> None:
    class Slope(Colours):
        def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
            return 3.0 * model.get_parameter("weight").sum()

        def validate(self, model: nn.Module) -> tuple[float, float]:
            return 0.0, 0.0

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

    def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
        return -model.get_parameter("weight").sum()  # plain sgd at rate 1 adds 1 a step

    def validate(self, model: nn.Module) -> tuple[float, float]:
        return 0.0, model.get_parameter("weight").item()


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


# --- divergence


def test_a_diverged_run_says_where_and_what_to_change(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"learning_rate": 1e6, "epochs": 20, "ema_decay": 0.0})
    _, run = start(recipe, save_to=tmp_path)
    with pytest.raises(TrialError, match=r"epoch \d+ of 20 .*lower learning_rate") as caught:
        list(run)
    assert caught.value.cause == "diverged"
    newest = fitting.newest_checkpoint(tmp_path)
    written = 0 if newest is None else int(newest.stem.removeprefix("epoch-"))
    assert f"in epoch {written + 1} of" in str(caught.value)  # no checkpoint of NaN weights


# --- evaluation


class Rounds(nn.Module):
    """Logits are the means of the channels; it notes how large its batches are."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images.mean((2, 3))


def test_evaluation_is_worked_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    images = logits[:, :, None, None].expand(3, 2, 4, 4)
    labels = torch.tensor([0, 1, 1])
    accuracy, loss = fitting.evaluate(Rounds().eval(), images, labels)
    by_hand = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx(sum(by_hand) / 3)


def test_prediction_goes_in_chunks_without_a_gradient() -> None:
    model, images = Rounds().eval(), torch.randn(5, 2, 4, 4).double()
    found = fitting.predict(model, images, batch=2)
    assert model.batches == [2, 2, 1]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not found.is_inference()
    torch.testing.assert_close(found, images.mean((2, 3)).float())


def test_prediction_needs_eval_mode() -> None:
    with pytest.raises(AssertionError):
        fitting.predict(Rounds().train(), torch.zeros(1, 2, 4, 4))


def test_the_device_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGKD_DEVICE", "meta")
    assert fitting.default_device() == torch.device("meta")
    monkeypatch.setenv("IGKD_DEVICE", "abacus")
    with pytest.raises(StudyError, match=r"IGKD_DEVICE = abacus.*allowed: cuda, mps, cpu"):
        fitting.default_device()
    monkeypatch.delenv("IGKD_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fitting.default_device() == torch.device("cuda")


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_computes_in_bf16_where_its_hardware_does(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def is_supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    assert fitting._has_bf16(torch.device("cuda", 1)) == supported
    assert asked == [False]
    assert not fitting._has_bf16(CPU)
    assert not fitting._has_bf16(torch.device("mps"))


def test_a_placed_model_is_channels_last() -> None:
    placed = fitting.place(net(), CPU)
    assert placed.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("side", "asked", "expected"), [(8, None, 1), (16, None, 1), (32, None, 3), (8, "3", 3)]
)
def test_small_images_are_fitted_on_one_thread_unless_told(
    side: int, asked: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    try:
        torch.set_num_threads(3)
        assert fitting.use_threads((3, side, side)) == expected == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


# --- interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_a_slow_import_waits_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    done = list[str]()

    def swallowing(name: str) -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            done.append("swallowed")
        done.append(name)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setattr(importlib, "import_module", swallowing)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            fitting._import_what_optimizers_draw_in()
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert done == ["torch._dynamo"]
