"""TrialConfig and materials in, one EpochResult an epoch out. It knows nothing of Optuna.

A batch is one look-up of pixels and maps, an overlay drawn per sample, and the soft targets of the
very views that were drawn, from the bank or from the live teacher.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from igkd_search import (
    augment,
    datasets,
    fitting,
    logits_bank,
    losses,
    materials,
    memory,
    models,
    spec,
)
from igkd_search.errors import TrialError

EpochResult = fitting.EpochRecord


@dataclass(frozen=True)
class Stock:
    """The materials of a study on one device, made once a worker and read by all its trials."""

    reader: augment.Reader
    labels: Tensor
    targets: Tensor | None
    """fp16 (N, V, classes), or None when `network` answers live."""
    chosen: Tensor | None
    """The view indexes (N, V) that training is restricted to and `targets` holds, or None: all."""
    taught_by: Tensor | None
    """The row (N,) whose targets each row learns from, as a control, or None: its own."""
    network: nn.Module
    fit_rows: Tensor
    validation: tuple[Tensor, Tensor]
    """Normalised images (V, C, H, W) and labels (V,), never augmented or overlaid."""
    classes: int
    architecture: str
    """The teacher's, which is a student's by default."""

    @property
    def image_side(self) -> int:
        """The larger of height and width, in pixels."""
        return max(self.validation[0].shape[2:])

    @classmethod
    def of(cls, shared: materials.Materials, study: spec.Run, device: torch.device) -> "Stock":
        """Bring the materials of a study to a device."""
        data = shared.data
        reader = datasets.reader_of(data, device, torch.tensor(shared.maps))
        labels = torch.from_numpy(data.labels).to(device)
        held_out = torch.from_numpy(data.validation_rows).to(device)
        targets, chosen, taught_by = (
            None if array is None else torch.tensor(array).to(device)
            for array in (shared.targets, shared.chosen_views, shared.taught_by)
        )
        return cls(
            reader=reader,
            labels=labels,
            targets=targets,
            chosen=chosen,
            taught_by=taught_by,
            network=shared.teacher.network,
            fit_rows=torch.from_numpy(data.fit_rows).to(device),
            validation=(reader.unaugmented(held_out), labels[held_out]),
            classes=data.classes,
            architecture=study.teacher.architecture,
        )


class Distillation:
    """The task of a trial: learn labels and soft targets from views with overlays."""

    def __init__(self, config: spec.TrialConfig, stock: Stock, rows: Tensor | None = None) -> None:
        self._config, self._stock = config, stock
        self._rows = stock.fit_rows if rows is None else rows

    @property
    def rows(self) -> int:
        """How many training rows there are."""
        return len(self._rows)

    def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
        """The distillation loss of the rows at these positions, each in a view of its own."""
        config, reader = self._config, self._stock.reader
        rows = self._rows[positions]
        places, views = self._draw(rows, generator)
        images, maps = reader.unit(rows, views)
        overlaid = augment.overlay(
            images,
            maps,
            generator,
            probability=config.overlay_probability,
            strength=config.overlay_strength,
            exponent_max=config.overlay_exponent_max,
        )
        logits = model(augment.normalise(overlaid, reader.mean, reader.sd)).float()
        return losses.distillation_loss(
            logits,
            self._targets(rows, places, views, logits),
            self._stock.labels[rows],
            kd_weight=config.kd_weight,
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
        )

    def validate(self, model: nn.Module) -> tuple[float, float]:
        """(accuracy, mean loss) on the validation rows."""
        return fitting.evaluate(model, *self._stock.validation)

    def _draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A place in the bank and the view it holds, for each row: (B,) and (B,)."""
        kinds, chosen = self._stock.reader.kinds, self._stock.chosen
        if chosen is None:
            views = kinds.draw(len(rows), generator)
            return views, views
        places = torch.randint(
            chosen.shape[1], (len(rows),), generator=generator, device=generator.device
        )
        return places, chosen[rows, places]

    def _targets(self, rows: Tensor, places: Tensor, views: Tensor, logits: Tensor) -> Tensor:
        stock = self._stock
        if self._config.kd_weight == 0:
            return logits.detach()  # the soft term is multiplied by zero: ask no teacher
        if stock.targets is None:
            # the teacher sees the view without overlay, as in the paper
            return logits_bank.live_logits(stock.network, stock.reader, rows, views)
        taught_by = rows if stock.taught_by is None else stock.taught_by[rows]
        return stock.targets[taught_by, places].float()


def build(config: spec.TrialConfig, stock: Stock, seed: int) -> nn.Module:
    """The student of a configuration, from `seed` or the teacher's first blocks."""
    torch.manual_seed(seed)
    architecture = models.Architecture.of(config, stock.architecture)
    student = models.build_student(architecture, stock.classes, stock.image_side)
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
) -> Iterator[EpochResult]:
    """Train the student of one trial; yield a result an epoch, those of a checkpoint first.

    `student` is trained in place, by default a fresh one of `build`; `rows` are by default the
    fit rows. TrialError: `diverged` (a loss is not finite) or `out_of_memory`.
    """
    try:
        yield from fitting.fit(
            build(config, stock, seed) if student is None else student,
            Distillation(config, stock, rows),
            config,
            seed,
            stock.labels.device,
            save_to=save_to,
            resume_from=resume_from,
        )
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out_of_memory(error):
            raise
        raise TrialError(
            "out_of_memory", f"{error}; lower batch_size ({config.batch_size}) or width"
        ) from error
