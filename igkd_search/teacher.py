"""The teacher: trained here on the fit rows only, or read from a safetensors file.

Its weights are an entry of the vault, so one training serves every study that asks for the same
teacher, and a training that was killed goes on at its last epoch.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import augment, console, datasets, fitting, models, networks, spec, vault
from igkd_search.errors import MaterialError, StudyError, TrialError

log = logging.getLogger(__name__)

_RECIPE_VERSION = 1  # raise when the same options would train another teacher
_WEIGHTS = "teacher.safetensors"


@dataclass(frozen=True)
class Teacher:
    """A finished teacher: its network in eval mode on the device, and what is known of it."""

    network: nn.Module
    accuracy: float
    """On the validation rows, in [0, 1]."""
    weights: Path
    digest: str
    """sha256 of the weights file."""


class Classification:
    """The task of learning labels from random views of some rows, by cross entropy."""

    def __init__(
        self,
        reader: augment.Reader,
        labels: Tensor,
        fit_rows: Tensor,
        validation_rows: Tensor,
        label_smoothing: float,
    ) -> None:
        self._reader, self._labels, self._fit_rows = reader, labels, fit_rows
        self._label_smoothing = label_smoothing
        self._validation = (reader.unaugmented(validation_rows), labels[validation_rows])

    @property
    def rows(self) -> int:
        """How many training rows there are."""
        return len(self._fit_rows)

    def loss(self, model: nn.Module, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Mean cross entropy of the rows at these positions, each in a view of its own."""
        rows = self._fit_rows[positions]
        views = self._reader.kinds.draw(len(rows), generator)
        return functional.cross_entropy(
            model(self._reader.normalised(rows, views)),
            self._labels[rows],
            label_smoothing=self._label_smoothing,
        )

    def validate(self, model: nn.Module) -> tuple[float, float]:
        """(accuracy, mean loss) on the validation rows."""
        return fitting.evaluate(model, *self._validation)


def obtain(
    options: spec.Teacher, data: datasets.Dataset, store: vault.Vault, device: torch.device
) -> Teacher:
    """The teacher these options ask for, from the vault, from its file or trained now.

    MaterialError when it is worse than `minimum_accuracy` on validation, or training diverges.
    """
    if options.checkpoint is not None:
        weights = _checked_file(options)
        console.settle("teacher", f"from {weights.name}")
    else:
        weights = _trained(options, data, store, device) / _WEIGHTS
    network = models.build_teacher(
        options.architecture, data.classes, options.width, max(data.image_shape[1:])
    )
    load_weights(network, weights)
    fitting.place(network, device).eval().requires_grad_(False)
    accuracy, _ = _task(options, data, device).validate(network)
    if accuracy < options.minimum_accuracy:
        raise MaterialError(
            f"the teacher reaches {accuracy:.1%} on validation, below teacher.minimum_accuracy = "
            f"{options.minimum_accuracy:.1%}; raise teacher.epochs, change teacher.learning_rate, "
            "or lower the minimum"
        )
    return Teacher(network, accuracy, weights, vault.file_digest(weights))


def check(options: spec.Teacher) -> None:
    """StudyError or MaterialError when there is no such network, or not this checkpoint."""
    networks.check(options.architecture, options.width)
    if options.checkpoint is not None:
        _checked_file(options)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors state dict; MaterialError names the first key that does not fit."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MaterialError(f"{path}: not a readable safetensors file: {error}") from error
    wanted = network.state_dict()
    for key in [*wanted, *found]:
        ours = tuple(wanted[key].shape) if key in wanted else None
        theirs = tuple(found[key].shape) if key in found else None
        if ours != theirs:
            raise MaterialError(
                f"{path}: {key} is {theirs or 'absent'} in the file, but {ours or 'absent'} in the "
                "architecture that the study names"
            )
    network.load_state_dict(found)


def _checked_file(options: spec.Teacher) -> Path:
    assert options.checkpoint is not None
    path = Path(options.checkpoint)
    if not path.is_file():
        raise StudyError(
            f"teacher.checkpoint: {path}: no such file; give the path of a safetensors file, or "
            "remove the key to train a teacher"
        )
    if options.checkpoint_sha256 not in (None, vault.file_digest(path)):
        raise MaterialError(
            f"{path}: its sha256 is {vault.file_digest(path)}, not {options.checkpoint_sha256}; "
            "this is another teacher than the one that was stated"
        )
    return path


def _trained(
    options: spec.Teacher, data: datasets.Dataset, store: vault.Vault, device: torch.device
) -> Path:
    said = options.model_dump(exclude={"checkpoint", "checkpoint_sha256", "minimum_accuracy"})
    views = [data.views.shift, data.views.flip]
    inputs = {"data": data.fingerprint, "views": views, "teacher": said, "version": _RECIPE_VERSION}
    if store.contains("teacher", inputs):
        console.settle("teacher", "found")
    return store.entry("teacher", inputs, lambda folder: _train(folder, options, data, device))


def _train(
    folder: Path, options: spec.Teacher, data: datasets.Dataset, device: torch.device
) -> None:
    torch.manual_seed(options.seed)
    network = models.build_teacher(
        options.architecture, data.classes, options.width, max(data.image_shape[1:])
    )
    checkpoints = folder / "checkpoints"
    resume_from = fitting.newest_checkpoint(checkpoints)
    records = []
    with console.stage("teacher", options.epochs, "epochs") as stage:
        try:
            for record in fitting.fit(
                network,
                _task(options, data, device),
                options,
                options.seed,
                device,
                save_to=checkpoints,
                resume_from=resume_from,
            ):
                records.append(record)
                stage.advance(note=f"validation {record.accuracy:.1%}")
        except TrialError as error:
            shutil.rmtree(checkpoints, ignore_errors=True)
            raise MaterialError(f"training the teacher: {error}") from error
    weights = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
    vault.write_whole(folder / _WEIGHTS, save(weights))
    plain = [vars(record) for record in records]
    vault.write_whole(folder / "records.json", json.dumps(plain).encode())
    shutil.rmtree(checkpoints, ignore_errors=True)


def _task(options: spec.Teacher, data: datasets.Dataset, device: torch.device) -> Classification:
    reader = augment.Reader.of(
        torch.tensor(data.images),
        None,
        data.views,
        torch.from_numpy(data.mean).to(device),
        torch.from_numpy(data.sd).to(device),
    )
    return Classification(
        reader,
        torch.from_numpy(data.labels).to(device),
        torch.from_numpy(data.fit_rows).to(device),
        torch.from_numpy(data.validation_rows).to(device),
        options.label_smoothing,
    )
