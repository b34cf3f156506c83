"""TrialConfig and materials in, one EpochResult an epoch out. It knows nothing of Optuna.

A batch is one look-up of pixels and maps, an overlay drawn per sample, and the soft targets of the
very views that were drawn, from the bank or from the live teacher.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from igkd_search import augment, banks, fitting, losses, materials, models, spec
from igkd_search.errors import TrialError

EpochResult = fitting.EpochRecord


@dataclass(frozen=True)
class Stock:
    """The materials of a study on one device, made once a worker and read by all its trials."""

    reader: augment.Reader
    labels: Tensor
    targets: Tensor | None
    """fp16 (N, views, classes), or None when `network` answers live."""
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
        mean, sd = (torch.from_numpy(values).to(device) for values in (data.mean, data.sd))
        images, maps = torch.tensor(data.images), torch.tensor(shared.maps)
        reader = augment.Reader.of(images, maps, data.views, mean, sd)
        labels = torch.from_numpy(data.labels).to(device)
        held_out = torch.from_numpy(data.validation_rows).to(device)
        targets = None if shared.targets is None else torch.tensor(shared.targets).to(device)
        return cls(
            reader=reader,
            labels=labels,
            targets=targets,
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
        views = reader.kinds.draw(len(rows), generator)
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
            self._targets(rows, views, logits),
            self._stock.labels[rows],
            kd_weight=config.kd_weight,
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
        )

    def validate(self, model: nn.Module) -> tuple[float, float]:
        """(accuracy, mean loss) on the validation rows."""
        return fitting.evaluate(model, *self._stock.validation)

    def _targets(self, rows: Tensor, views: Tensor, logits: Tensor) -> Tensor:
        if self._config.kd_weight == 0:
            return logits.detach()  # the soft term is multiplied by zero: ask no teacher
        if self._stock.targets is not None:
            return self._stock.targets[rows, views].float()
        # the teacher sees the view without overlay, as in the paper
        return banks.live_logits(self._stock.network, self._stock.reader, rows, views)


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
        # the CPU allocator has no class of its own; "memory format" and the like are bugs
        named = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not named and "DefaultCPUAllocator" not in str(error):
            raise
        raise TrialError(
            "out_of_memory", f"{error}; lower batch_size ({config.batch_size}) or width"
        ) from error
