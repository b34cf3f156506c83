"""One network's epochs: optimizer, schedule, autocast, EMA, checkpoint, resume; no teacher.

The teacher and every trial run this loop. It draws batches by a permutation on the device, keeps
what it measures there until the epoch ends, and saves a checkpoint before it yields an epoch, so
that a run stopped anywhere and resumed yields the same records as one that was not.
"""

import copy
import importlib
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import spec, vault
from igkd_search.errors import MaterialError, StorageError, StudyError, TrialError

log = logging.getLogger(__name__)

_SMALL_IMAGE = 16 * 16  # pixels
# Pixels of one chunk of a forward: 64 images of 32x32 need some 100 MB; a GPU wants thousands.
_FORWARD_PIXELS = {"cpu": 2**16, "cuda": 2**21, "mps": 2**18}


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch showed; `epoch` counts completed epochs from 1.

    loss is the mean training loss; accuracy and validation_loss are those of the held-out rows,
    with EMA weights if on; learning_rate is the last step's. The times are not part of law 6.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    learning_rate: float
    seconds: float
    images_per_s: float

    def without_times(self) -> "EpochRecord":
        """The part of the record that is the same each time the run is repeated."""
        return replace(self, seconds=0.0, images_per_s=0.0)


class Task(Protocol):
    """What there is to learn: how many rows, the loss of a batch of them, and the validation."""

    @property
    def rows(self) -> int:
        """How many training rows there are."""

    def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
        """The mean loss of the rows at these positions (B,), each in [0, rows)."""

    def validate(self, model: nn.Module) -> tuple[float, float]:
        """(accuracy, mean loss) on the held-out rows, of a model in eval mode."""


def fit(
    model: nn.Module,
    task: Task,
    recipe: spec.Recipe,
    seed: int,
    device: torch.device,
    *,
    save_to: Path | None = None,
    resume_from: Path | None = None,
) -> Iterator[EpochRecord]:
    """Train `model` in place; yield one record an epoch and leave the validated weights in it.

    `save_to` is the folder of this run's checkpoints, `resume_from` a checkpoint of this or an
    earlier one: its records are yielded again, then training goes on. When the iterator ends, the
    model holds the EMA weights if EMA is on. TrialError `diverged` when a loss is not finite.
    """
    _import_what_optimizers_draw_in()
    state = _State(model, recipe, task.rows, seed, device)
    if resume_from is not None:
        state.read(resume_from)
        yield from list(state.records)
    for epoch in range(len(state.records) + 1, recipe.epochs + 1):
        record = _run_epoch(state, task, epoch)
        state.records.append(record)
        if save_to is not None:
            state.write(save_to / f"epoch-{epoch:04d}.safetensors")
        yield record
    model.load_state_dict(state.validated.state_dict())


def _import_what_optimizers_draw_in() -> None:
    """Import what torch imports at an optimizer's first use, so that no Ctrl-C is lost in it.

    Some of those nine hundred modules swallow a KeyboardInterrupt: until they are there, signals
    wait.
    """
    name = "torch._dynamo"
    if name in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _: caught.append(number)) for n in numbers}
    try:
        importlib.import_module(name)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    for number in caught:
        signal.raise_signal(number)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most epochs below `folder`, of any attempt, or None."""
    found = folder.glob("**/epoch-*.safetensors")
    for path in sorted(found, key=lambda path: (path.name, path.parent.name), reverse=True):
        try:
            with safe_open(path, framework="pt"):
                return path
        except (OSError, SafetensorError) as error:
            # it must not end the run again and again: an older one, or the start, will do
            log.warning("%s: not a checkpoint that can be read (%s); removed", path, error)
            path.unlink(missing_ok=True)
    return None


def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int | None = None
) -> tuple[float, float]:
    """(accuracy, mean cross entropy) on normalised images (N, C, H, W) and labels (N,)."""
    logits = predict(model, images, batch)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return accuracy.item(), functional.cross_entropy(logits, labels).item()


def predict(model: nn.Module, images: Tensor, batch: int | None = None) -> Tensor:
    """float32 logits (N, classes) of normalised images (N, C, H, W), in eval mode, in chunks."""
    assert not model.training
    pixels = _FORWARD_PIXELS.get(images.device.type, _FORWARD_PIXELS["cpu"])
    batch = batch or max(1, pixels // images[0, 0].numel())
    # not inference_mode, whose results a loss cannot use; not autocast, which would round them
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), _full_precision():
        parts = [model(chunk).float() for chunk in torch.split(images, batch)]
    return torch.cat(parts)


def _full_precision() -> AbstractContextManager[None]:
    """Convolutions without TF32, cuDNN's default: a bank must be what any other host computes."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, channels last in memory: 2x on a CPU, the rule on GPUs."""
    return model.to(device).to(memory_format=torch.channels_last)


class _State:
    """All that an epoch changes, and so all that a checkpoint holds."""

    def __init__(
        self, model: nn.Module, recipe: spec.Recipe, rows: int, seed: int, device: torch.device
    ) -> None:
        # dropout draws from torch's global generator, all else from ours
        torch.manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device
        self.recipe = recipe
        self.model = place(model, device)
        self.averaged = copy.deepcopy(self.model) if recipe.ema_decay else None
        self._pairs = (_floats(self.averaged), _floats(self.model)) if self.averaged else None
        self.optimizer = OPTIMIZERS[recipe.optimizer](_parameter_groups(model, recipe), recipe)
        self.batch_size = min(recipe.batch_size, rows)
        self.steps_per_epoch = rows // self.batch_size
        self.records: list[EpochRecord] = []

    @property
    def validated(self) -> nn.Module:
        averaged: nn.Module | None = self.averaged
        return self.model if averaged is None else averaged

    def average(self, step: int) -> None:
        """Move the average towards the weights; quickly at first, or it would keep the start."""
        if self._pairs is not None:
            decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(*self._pairs, 1 - decay)

    def write(self, path: Path) -> None:
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"ema.{key}": value for key, value in self.averaged.state_dict().items()}
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
        plain = {key: value.contiguous() for key, value in tensors.items()}
        records = json.dumps([asdict(record) for record in self.records])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{path.parent}: cannot be made for checkpoints ({error.strerror}); free space "
                "there, or choose another folder with --home or IGKD_HOME"
            ) from error
        vault.write_whole(path, save(plain, metadata={"records": records}))
        for older in path.parent.glob("epoch-*.safetensors"):
            if older.name < path.name:
                older.unlink(missing_ok=True)

    def read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                records = json.loads(file.metadata()["records"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise MaterialError(f"{path}: not a checkpoint that can be read: {error}") from error
        self.model.load_state_dict(_part(tensors, "model."))
        if self.averaged is not None:
            self.averaged.load_state_dict(_part(tensors, "ema."))
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
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
        self.records = [EpochRecord(**record) for record in records]


def _run_epoch(state: _State, task: Task, epoch: int) -> EpochRecord:
    began = time.perf_counter()
    steps, size, device = state.steps_per_epoch, state.batch_size, state.device
    order = torch.randperm(task.rows, generator=state.generator, device=device)
    total = torch.zeros((), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=_has_bf16(device))
    state.model.train()
    rate = 0.0
    for step in range(steps):
        done = (epoch - 1) * steps + step
        rate = learning_rate(state.recipe, done, steps * state.recipe.epochs)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with autocast:
            loss = task.loss(state.model, order[step * size : (step + 1) * size], state.generator)
        state.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        state.optimizer.step()
        state.average(done)
        # no .item() here: reading a value back would stall the device at every step
        total += loss.detach()
    mean_loss = total.item() / steps
    seconds = time.perf_counter() - began
    accuracy, validation_loss = task.validate(state.validated.eval())
    if not math.isfinite(mean_loss + validation_loss):
        raise TrialError(
            "diverged",
            f"training loss {mean_loss:g}, validation loss {validation_loss:g} in epoch {epoch} of "
            f"{state.recipe.epochs} at learning_rate {state.recipe.learning_rate:g}; lower "
            "learning_rate or raise warmup",
        )
    return EpochRecord(
        epoch=epoch,
        loss=mean_loss,
        accuracy=accuracy,
        validation_loss=validation_loss,
        learning_rate=rate,
        seconds=seconds,
        images_per_s=steps * size / seconds,
    )


def _has_bf16(device: torch.device) -> bool:
    """Whether a step is quicker in bf16: where the hardware computes in it, not in emulation.

    On a CPU always no: torch has no public test for its bf16 units that all supported versions
    know, and a record would depend on which CPU it was made on.
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def learning_rate(recipe: spec.Recipe, step: int, steps: int) -> float:
    """The rate of `step` in [0, steps): linear warm-up to the peak, then a cosine to zero."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _sgd(groups: list[dict[str, Any]], recipe: spec.Recipe) -> torch.optim.Optimizer:
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov, fused=True
    )


def _adamw(groups: list[dict[str, Any]], recipe: spec.Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _adam(groups: list[dict[str, Any]], recipe: spec.Recipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=recipe.learning_rate, fused=True)


OPTIMIZERS = {"adam": _adam, "adamw": _adamw, "sgd": _sgd}
"""Name -> (parameter groups, recipe) -> optimizer."""


def _parameter_groups(model: nn.Module, recipe: spec.Recipe) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _floats(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def use_threads(image_shape: tuple[int, int, int]) -> int:
    """Set torch's CPU threads for images (C, H, W), and return how many.

    Up to 16x16 it is one: the layers are so small that a second thread gains a quarter on a quiet
    machine and loses a factor of twenty on a busy one, where it spins while it waits. Above that
    torch's own choice stands, and OMP_NUM_THREADS is always obeyed.
    """
    _, height, width = image_shape
    if height * width <= _SMALL_IMAGE and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return torch.get_num_threads()


def default_device() -> torch.device:
    """IGKD_DEVICE when set (`cuda`, `mps`, `cpu`), else the best there is."""
    asked = os.environ.get("IGKD_DEVICE")
    if asked:
        try:
            return torch.zeros((), device=asked).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise StudyError(f"IGKD_DEVICE = {asked}: {reason}; allowed: cuda, mps, cpu") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
