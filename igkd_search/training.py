"""TrialConfig and materials in, one EpochResult an epoch out. It knows nothing of Optuna.

A step is one look-up of pixels and maps, an overlay as chance has it, and the soft targets of the
very views that were drawn, from the bank or from the live teacher. What is differentiated of it is
one pure function, `lessons.learn`, which may be compiled.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import (
    augment,
    batches,
    checkpoints,
    compiling,
    datasets,
    devices,
    evaluation,
    fitting,
    lessons,
    materials,
    memory,
    models,
    small_maps,
    spec,
)
from igkd_search.errors import MachineError, TrialError, reason_of

EpochResult = fitting.EpochRecord


@dataclass(frozen=True)
class Stock:
    """The materials of a study on one device, made once a worker and read by all its trials.

    Images and targets that do not fit there stay on the host and are sent batch by batch.
    """

    reader: augment.Reader
    labels: Tensor
    targets: Tensor | NDArray[np.float16] | None
    """fp16 (N, V, classes) on the device, or on the host as an array; None: `network` answers."""
    chosen: Tensor | None
    """The view indexes (N, V) that training is restricted to and `targets` holds, or None: all."""
    taught_by: Tensor | None
    """The row (N,) whose targets each row learns from, as a control, or None: its own."""
    network: nn.Module
    fit_rows: Tensor
    validation_rows: Tensor
    classes: int
    architecture: str
    """The teacher's, which is a student's by default."""
    steps: compiling.Steps

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """That of one image, (C, H, W)."""
        return self.reader.image_shape

    @classmethod
    def of(
        cls,
        shared: materials.Materials,
        study: spec.Run,
        device: torch.device,
        resident: bool | None = None,
        planned_epochs: int | None = None,
    ) -> "Stock":
        """Bring the materials of a study to a device.

        `resident` says whether images and targets are kept there; by default what fits is.
        `planned_epochs` are those of all trainings to come, by default the study's.
        """
        data = shared.data
        reader = datasets.reader_of(data, device, shared.maps, resident)
        targets: Tensor | NDArray[np.float16] | None = shared.targets
        if shared.targets is not None:
            fits = memory.holds(device, shared.targets.nbytes) if resident is None else resident
            targets = torch.tensor(shared.targets).to(device) if fits else shared.targets
        chosen, taught_by = (
            None if array is None else torch.from_numpy(array).to(device)
            for array in (shared.chosen_views, shared.taught_by)
        )
        return cls(
            reader=reader,
            labels=torch.from_numpy(data.labels).to(device),
            targets=targets,
            chosen=chosen,
            taught_by=taught_by,
            network=shared.teacher.network,
            fit_rows=torch.from_numpy(data.fit_rows).to(device),
            validation_rows=torch.from_numpy(data.validation_rows).to(device),
            classes=data.classes,
            architecture=study.teacher.architecture,
            steps=compiling.Steps.of(device, planned_epochs or study.planned_epochs()),
        )

    def fetch(self, soft: bool) -> batches.Fetch | None:
        """How a batch comes by what is not on the device; None where everything is.

        Without `soft` it brings no targets, for none are asked.
        """
        reader, device = self.reader, self.reader.device
        targets = self.targets if soft else None
        streamed = isinstance(targets, np.ndarray)
        if reader.packed is not None and not streamed:
            return None
        taught_by = None if self.taught_by is None else self.taught_by.cpu().numpy()

        def from_host(
            rows: batches.Indexes, places: batches.Indexes
        ) -> tuple[Tensor | None, Tensor | None]:
            pixels = reader.fetch(rows) if reader.packed is None else None
            if not isinstance(targets, np.ndarray):
                return pixels, None
            teachers = rows if taught_by is None else taught_by[rows]
            views = targets.shape[1]
            flat = targets.reshape(-1, targets.shape[2])
            return pixels, augment.send(flat, teachers * views + places, device)

        return from_host


class Distillation:
    """The task of a trial: learn labels and soft targets from views with overlays."""

    def __init__(
        self, config: spec.TrialConfig, stock: Stock, seed: int, rows: Tensor | None = None
    ) -> None:
        self._config, self._stock = config, stock
        self.learn: compiling.Learn = lessons.learn
        self._knobs = lessons.Knobs.of(config)
        self._feed = batches.Feed(
            stock.fit_rows if rows is None else rows,
            stock.reader.kinds,
            config,
            seed,
            chosen=stock.chosen,
            fetch=stock.fetch(soft=config.kd_weight != 0),
        )
        self._watched: nn.Module | None = None
        if config.attention_weight:
            self._watched = models.first_blocks(stock.network, config.removed_blocks)

    @property
    def rows(self) -> int:
        """How many training rows there are."""
        return len(self._feed.rows)

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return fitting.batches_of(self._config, self.rows)[1]

    @property
    def key(self) -> lessons.Key:
        """All that changes the graph of a step."""
        config = self._config
        return lessons.Key(
            spec.Architecture.of(config, self._stock.architecture),
            fitting.batches_of(config, self.rows)[0],
            config.cutout,
            soft=config.kd_weight != 0,
            watched=config.attention_weight != 0,
        )

    def use(self, step: compiling.Step) -> None:
        """Learn by this step from now on."""
        self.learn, self._knobs = step.learn, self._knobs_for(step.compiled)

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[batches.Batch]:
        """The batches of an epoch, counted from 1, each row in a view of its own."""
        return self._feed.epoch(number, size, generator)

    def example(self, compiled: bool) -> tuple[Any, ...]:
        """The inputs of one step after the model, drawn without touching the trial's own chance."""
        size, _ = fitting.batches_of(self._config, self.rows)
        generator = torch.Generator(self._feed.rows.device).manual_seed(0)
        batch = next(self.epoch(1, size, generator))
        return self.lesson(batch), self._knobs_for(compiled), self._config.cutout

    def loss(self, model: nn.Module, batch: batches.Batch) -> Tensor:
        """The distillation loss of a batch, and that of attention where it has a weight."""
        return self.learn(model, self.lesson(batch), self._knobs, self._config.cutout)

    def validate(self, model: nn.Module) -> evaluation.Scores:
        """The scores on the validation rows, which are never augmented or overlaid."""
        stock = self._stock
        return evaluation.score_rows(model, stock.reader, stock.labels, stock.validation_rows)

    def _knobs_for(self, compiled: bool) -> lessons.Knobs:
        # tensors are made once a trial, for a copy at each step would wait for the device
        knobs = lessons.Knobs.of(self._config)
        return knobs.on(self._stock.labels.device) if compiled else knobs

    def lesson(self, batch: batches.Batch) -> lessons.Lesson:
        """Everything that is looked up or asked of the live teacher before the student answers."""
        reader = self._stock.reader
        images, maps = reader.unit(batch.rows, batch.views, batch.pixels)
        watched = None
        if self._watched is not None:
            watched = evaluation.predict(self._watched, self._plain(images))
        return lessons.Lesson(
            images,
            maps,
            batch.chance,
            reader.mean,
            reader.sd,
            labels=self._stock.labels[batch.rows],
            targets=self._targets(batch, images),
            watched=watched,
        )

    def _targets(self, batch: batches.Batch, images: Tensor) -> Tensor | None:
        stock = self._stock
        if self._config.kd_weight == 0:
            return None  # ask no teacher
        if stock.targets is None:
            return evaluation.predict(stock.network, self._plain(images))
        if batch.targets is not None:
            return batch.targets.float()
        assert isinstance(stock.targets, Tensor)
        taught_by = batch.rows if stock.taught_by is None else stock.taught_by[batch.rows]
        return stock.targets[taught_by, batch.places].float()

    def _plain(self, images: Tensor) -> Tensor:
        # the teacher sees the view without overlay, as in the paper
        return augment.normalise(images, self._stock.reader.mean, self._stock.reader.sd)


def first_lesson(config: spec.TrialConfig, stock: Stock, seed: int) -> lessons.Lesson:
    """What the first step of a trial learns from, without the teacher's part; drawn anew."""
    # no teacher is asked, and nothing of this changes what is drawn
    plain = config.model_copy(update={"kd_weight": 0.0, "attention_weight": 0.0})
    task = Distillation(plain, stock, seed)
    size, _ = fitting.batches_of(plain, task.rows)
    generator = fitting.generator_of(stock.labels.device, seed)
    return task.lesson(next(task.epoch(1, size, generator)))


def build(config: spec.TrialConfig, stock: Stock, seed: int) -> nn.Module:
    """The student of a configuration, from `seed` or the teacher's first blocks."""
    torch.manual_seed(seed)
    architecture = spec.Architecture.of(config, stock.architecture)
    student = models.build_student(architecture, stock.classes, stock.image_shape)
    if config.initialisation == "teacher":
        models.copy_prefix(student, stock.network)
    return student


def train(
    config: spec.TrialConfig,
    stock: Stock,
    seed: int,
    *,
    student: nn.Module | None = None,
    rows: Tensor | None = None,
    save_to: Path | None = None,
    resume_from: Path | None = None,
    checkpoint_every: int = 1,
    leaving: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Train the student of one trial; yield a result an epoch, those of a checkpoint first.

    `student`, by default a fresh one of `build`, holds the validated weights when the iterator
    ends; `rows` are by default the fit rows. While `leaving()` each epoch is saved. The step is
    that of a checkpoint where it can be. TrialError: `diverged` (a loss is not finite) or
    `out_of_memory`; MachineError when the device or the disk failed.
    """
    stock.steps.kind = "eager"  # what a trial is that fails before its first step
    before = None if resume_from is None else checkpoints.read_plain(resume_from).get("step")
    try:
        student = build(config, stock, seed) if student is None else student
        task = Distillation(config, stock, seed, rows)
        padded = small_maps.padded(student, stock.labels.device)
        with padded, stock.steps.lend(student, task, before) as step:
            task.use(step)
            yield from fitting.fit(
                step.model,
                task,
                config,
                seed,
                stock.labels.device,
                save_to=save_to,
                resume_from=resume_from,
                checkpoint_every=checkpoint_every,
                leaving=leaving,
                notes={"step": step.kind},
            )
        return
    except (MemoryError, RuntimeError, OSError) as error:
        if not memory.is_out_of_memory(error):
            if devices.has_failed(error):
                raise MachineError(
                    f"the machine failed under a training: {reason_of(error)}"
                ) from error
            raise
        asked = memory.what_was_asked(error)
    # outside of the handler, whose traceback would keep the failed step's tensors alive
    memory.give_back()
    raise TrialError(
        "out_of_memory",
        f"{asked}; lower batch_size ({config.batch_size}), width ({config.width:g}) or resolution, "
        f"or raise removed_blocks ({config.removed_blocks})",
    )
