"""One network's epochs: the loop that the teacher and every trial run; it knows no teacher.

What it measures stays on the device until the epoch ends, and a checkpoint is saved before an epoch
is yielded, so that a run stopped anywhere and resumed yields the records of one that was not.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from igkd_search import checkpoints, devices, evaluation, optimizers, spec
from igkd_search.errors import TrialError

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch showed; `epoch` counts completed epochs from 1.

    loss is the mean training loss. accuracy, validation_loss and calibration_error are those of the
    held-out rows with EMA weights if on, raw_accuracy and raw_validation_loss those without.
    learning_rate is the last step's. The times are not part of law 6; of the epochs that a
    checkpoint holds only the newest keeps its confusion matrix.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    calibration_error: float
    raw_accuracy: float
    raw_validation_loss: float
    learning_rate: float
    seconds: float
    images_per_s: float
    confusion: evaluation.Confusion | None = field(default=None, compare=False, repr=False)

    def without_times(self) -> "EpochRecord":
        """The part of the record that is the same each time the run is repeated."""
        return replace(self, seconds=0.0, images_per_s=0.0)


class Task(Protocol[Batch]):
    """What there is to learn: the batches of an epoch, the loss of one, and the validation."""

    @property
    def rows(self) -> int:
        """How many training rows there are."""

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """The rows // size batches of an epoch, counted from 1; all chance is the generator's."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch; nothing in it waits for the device."""

    def validate(self, model: nn.Module) -> evaluation.Scores:
        """The scores on the held-out rows, of a model in eval mode."""


def fit(
    model: nn.Module,
    task: Task[Batch],
    recipe: spec.Recipe,
    seed: int,
    device: torch.device,
    *,
    save_to: Path | None = None,
    resume_from: Path | None = None,
    checkpoint_every: int = 1,
    leaving: Callable[[], bool] = lambda: False,
    notes: Mapping[str, str] | None = None,
) -> Iterator[EpochRecord]:
    """Train `model` in place; yield one record an epoch and leave the validated weights in it.

    `save_to` is the folder of this run's checkpoints, `resume_from` a checkpoint of this or an
    earlier one: its records are yielded again, then training goes on. While `leaving()` each epoch
    is saved, whatever `checkpoint_every` says. `notes` is what checkpoints say beside the records.
    When the iterator ends, the model holds the EMA weights if EMA is on. TrialError `diverged`
    when a loss is not finite.
    """
    state = _State(model, recipe, task.rows, seed, device)
    if resume_from is not None:
        state.read(resume_from)
        yield from list(state.records)
    for epoch in range(len(state.records) + 1, recipe.epochs + 1):
        record = _run_epoch(state, task, epoch)
        state.records.append(record)
        due = epoch % checkpoint_every == 0 or epoch == recipe.epochs or leaving()
        if save_to is not None and due:
            state.write(checkpoints.path_of(save_to, epoch), notes or {})
        log.debug("epoch %d: accuracy %.4f, loss %.4f", record.epoch, record.accuracy, record.loss)
        yield record
    model.load_state_dict(state.validated.state_dict())


def generator_of(device: torch.device, seed: int) -> torch.Generator:
    """What the first epoch of a run draws all chance from but a network's own dropout."""
    return torch.Generator(device).manual_seed(seed)


def batches_of(recipe: spec.Recipe, rows: int) -> tuple[int, int]:
    """(rows of a batch, batches of an epoch): all alike, and at least one."""
    size = min(recipe.batch_size, rows)
    return size, rows // size


def _run_epoch(state: "_State", task: Task[Batch], epoch: int) -> EpochRecord:
    began = time.perf_counter()
    recipe, device, steps, size = state.recipe, state.device, state.steps, state.batch_size
    losses = torch.zeros(steps, device=device)
    autocast = devices.autocast(device)
    state.model.train()
    for step, batch in enumerate(task.epoch(epoch, size, state.generator)):
        done = (epoch - 1) * steps + step
        state.set_rate(done)
        # first, for a compiled step writes its gradients over those of the step before
        state.optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = task.loss(state.model, batch)
        torch.autograd.backward(loss)
        state.optimizer.step()
        if state.average is not None:
            state.average.update(done)
        # no .item() here: reading a value back would stall the device at every step
        losses[step] = loss.detach()
    loss_of_each = losses.tolist()
    seconds = time.perf_counter() - began
    _check_finite(loss_of_each, "training loss", recipe, epoch)
    scores = task.validate(state.validated.eval())
    raw = scores if state.average is None else task.validate(state.model.eval())
    _check_finite([scores.loss, raw.loss], "validation loss", recipe, epoch)
    return EpochRecord(
        epoch=epoch,
        loss=statistics.fmean(loss_of_each),
        accuracy=scores.accuracy,
        validation_loss=scores.loss,
        calibration_error=scores.calibration_error,
        raw_accuracy=raw.accuracy,
        raw_validation_loss=raw.loss,
        learning_rate=state.rate_of(epoch * steps - 1),
        seconds=seconds,
        images_per_s=steps * size / seconds,
        confusion=scores.confusion,
    )


def _check_finite(losses: list[float], what: str, recipe: spec.Recipe, epoch: int) -> None:
    step = next((step for step, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if step is None:
        return
    place = f"step {step + 1} of {len(losses)}, epoch {epoch} of {recipe.epochs}"
    listed = ", ".join(f"{name} = {value}" for name, value in recipe.model_dump().items())
    raise TrialError(
        "diverged",
        f"{what} {losses[step]:g} at {place if what == 'training loss' else f'epoch {epoch}'}; "
        f"lower learning_rate or raise warmup ({listed})",
    )


def optimizer_of(recipe: spec.Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a recipe names, for a model that lies on its device."""
    return optimizers.build(
        recipe.optimizer,
        model,
        learning_rate=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


class _State:
    """All that an epoch changes, and so all that a checkpoint holds.

    The schedule is a function of the step, and bf16 needs no loss scale: neither has a state.
    """

    def __init__(
        self, model: nn.Module, recipe: spec.Recipe, rows: int, seed: int, device: torch.device
    ) -> None:
        # dropout draws from torch's global generator, all else from ours
        torch.manual_seed(seed)
        self.generator = generator_of(device, seed)
        self.device = device
        self.recipe = recipe
        self.model = devices.place(model, device)
        decay = recipe.ema_decay
        self.average = optimizers.Average(self.model, decay) if decay else None
        self.optimizer = optimizer_of(recipe, self.model)
        self.batch_size, self.steps = batches_of(recipe, rows)
        self.records: list[EpochRecord] = []

    @property
    def validated(self) -> nn.Module:
        return self.model if self.average is None else self.average.model

    def rate_of(self, step: int) -> float:
        recipe = self.recipe
        total = self.steps * recipe.epochs
        peak, warmup = recipe.learning_rate, recipe.warmup
        return optimizers.learning_rate(peak, warmup, step, total, recipe.schedule)

    def set_rate(self, step: int) -> None:
        # a float, not a tensor: the fused step is never compiled, and takes it as an argument
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_of(step)

    def write(self, path: Path, notes: Mapping[str, str]) -> None:
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.average is not None:
            averaged = self.average.model.state_dict()
            tensors |= {f"ema.{key}": value for key, value in averaged.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{key}": value
                for key, value in values.items()
                if isinstance(value, Tensor)
            }
        tensors["generator.ours"] = self.generator.get_state()
        tensors["generator.global"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            tensors["generator.mps"] = torch.mps.get_rng_state()
        older = [replace(record, confusion=None) for record in self.records[:-1]]
        records = [asdict(record) for record in [*older, *self.records[-1:]]]
        checkpoints.write(path, tensors, {**notes, "records": records})

    def read(self, path: Path) -> None:
        tensors, plain = checkpoints.read(path)
        self.model.load_state_dict(checkpoints.part(tensors, "model."))
        if self.average is not None:
            self.average.model.load_state_dict(checkpoints.part(tensors, "ema."))
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoints.part(tensors, "optimizer.").items():
            index, _, key = name.partition(".")
            # the fused step walks memory, so a momentum must lie in it as its parameter does
            like = parameters[int(index)]
            if value.shape == like.shape:
                value = torch.empty_like(like).copy_(value)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.generator.set_state(tensors["generator.ours"])
        torch.set_rng_state(tensors["generator.global"])
        if self.device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)
        if self.device.type == "mps" and "generator.mps" in tensors:
            torch.mps.set_rng_state(tensors["generator.mps"])
        self.records = [_record(row) for row in plain["records"]]


def _record(row: dict[str, Any]) -> EpochRecord:
    confusion = row["confusion"]
    return EpochRecord(**row | {"confusion": confusion and tuple(map(tuple, confusion))})
