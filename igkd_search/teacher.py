"""The teacher: trained here on the fit rows only, or read from a file of weights.

Its weights are an entry of the vault, so one training serves every study that asks for the same
teacher, and a training that was killed goes on at its last epoch. A keeper, where there is one,
gives every host of a study the same weights.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from igkd_search import (
    architectures,
    augment,
    batches,
    checkpoints,
    datasets,
    devices,
    evaluation,
    fitting,
    losses,
    models,
    networks,
    small_maps,
    spec,
    stages,
    vault,
    weight_files,
)
from igkd_search.errors import MaterialError, TrialError

log = logging.getLogger(__name__)

_RECIPE_VERSION = 2  # raise when the same options would train another teacher


@dataclass(frozen=True)
class Teacher:
    """A finished teacher: its network in eval mode on the device, and what is known of it."""

    network: nn.Module
    accuracy: float
    """On the validation rows, in [0, 1]."""
    weights: Path
    digest: str
    """sha256 of the weights file."""

    def facts(self) -> dict[str, Any]:
        """What is known of it, as plain JSON."""
        return {"teacher_accuracy": self.accuracy, "fingerprints": {"teacher": self.digest}}


class Classification:
    """The task of learning labels from random views of some rows, by cross entropy."""

    def __init__(
        self,
        reader: augment.Reader,
        labels: Tensor,
        fit_rows: Tensor,
        validation_rows: Tensor,
        options: spec.Teacher,
    ) -> None:
        self._reader, self._labels, self._options = reader, labels, options
        self._validation_rows = validation_rows
        fetch = None if reader.packed is not None else self._fetch
        self._feed = batches.Feed(fit_rows, reader.kinds, options, options.seed, fetch=fetch)

    @property
    def rows(self) -> int:
        """How many training rows there are."""
        return len(self._feed.rows)

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[batches.Batch]:
        """The batches of an epoch, counted from 1, each row in a view of its own."""
        return self._feed.epoch(number, size, generator)

    def loss(self, model: nn.Module, batch: batches.Batch) -> Tensor:
        """Mean cross entropy of a batch."""
        reader, options = self._reader, self._options
        images, _ = reader.unit(batch.rows, batch.views, batch.pixels)
        seen = augment.normalise(images, reader.mean, reader.sd)
        if options.cutout:
            seen = augment.cut_out(seen, batch.chance[2:], options.cutout)
        labels = self._labels[batch.rows]
        return losses.cross_entropy(model(seen), labels, options.label_smoothing)

    def validate(self, model: nn.Module) -> evaluation.Scores:
        """The scores on the validation rows."""
        return evaluation.score_rows(model, self._reader, self._labels, self._validation_rows)

    def _fetch(
        self, rows: batches.Indexes, places: batches.Indexes
    ) -> tuple[Tensor | None, Tensor | None]:
        return self._reader.fetch(rows), None


class Keeper(Protocol):
    """Where a study keeps its teacher for all hosts; the first one kept is the teacher."""

    def begun(self) -> bytes | None:
        """The weights that the study began with; None when it has not begun or kept none."""

    def fetch(self, recipe: str) -> bytes | None:
        """The weights kept for this recipe, or None."""

    def keep(self, recipe: str, weights: bytes) -> bytes:
        """Keep weights, unless some are kept for this recipe; return those that are kept."""


def obtain(
    options: spec.Teacher,
    data: datasets.Dataset,
    store: vault.Vault,
    device: torch.device,
    keeper: Keeper | None = None,
) -> Teacher:
    """The teacher these options ask for: from the vault, the keeper or its file, or trained now.

    It is given to the keeper once it has passed; another one that is kept already takes its place.
    MaterialError when it is at chance level or worse than `minimum_accuracy` on validation, or
    training diverges.
    """
    weights, recipe = _found(options, data, store, device, keeper)
    network, accuracy = _judged(weights, options, data, device)
    if keeper is not None and recipe is not None:
        ours = weights.read_bytes()
        kept = keeper.keep(recipe, ours)
        if kept != ours:
            log.info("another host made this teacher first; its weights are used")
            weights = _placed(kept, store)
            network, accuracy = _judged(weights, options, data, device)
    return Teacher(network, accuracy, weights, vault.file_digest(weights))


def check(options: spec.Teacher, keeper: Keeper | None = None) -> None:
    """StudyError or MaterialError when there is no such network, or not this checkpoint."""
    networks.check(options.architecture, options.width)
    if options.checkpoint is not None and _begun(options, keeper) is None:
        weight_files.check(options)


def _judged(
    weights: Path, options: spec.Teacher, data: datasets.Dataset, device: torch.device
) -> tuple[nn.Module, float]:
    """The network with these weights, and its accuracy on validation, which must be enough."""
    network = _fresh(options, data)
    weight_files.load(network, weights, Path(options.checkpoint) if options.checkpoint else None)
    devices.place(network, device).eval().requires_grad_(False)
    accuracy = _task(options, data, device).validate(network).accuracy
    _check_accuracy(accuracy, options, data)
    return network, accuracy


def _fresh(options: spec.Teacher, data: datasets.Dataset) -> nn.Module:
    side = max(data.image_shape[1:])
    return models.build_teacher(options.architecture, data.classes, options.width, side)


def _check_accuracy(accuracy: float, options: spec.Teacher, data: datasets.Dataset) -> None:
    labels = data.labels[data.validation_rows]
    chance, bound = chance_level(labels)
    said = (
        f"the teacher reaches {accuracy:.1%} on {len(labels)} validation images, where always "
        f"answering the most frequent class gives {chance:.1%}"
    )
    remedy = "raise teacher.epochs, change teacher.learning_rate"
    if options.checkpoint is not None:
        remedy = "give a teacher.checkpoint that was trained on this data, with its normalisation"
    if accuracy < options.minimum_accuracy:
        raise MaterialError(
            f"{said}: below teacher.minimum_accuracy = {options.minimum_accuracy:.1%}; {remedy}, "
            "or lower the minimum"
        )
    if bound >= 1:
        raise MaterialError(
            f"{said}: on so few no accuracy is better than chance; hold out more with "
            "data.validation"
        )
    if accuracy <= bound:
        raise MaterialError(
            f"{said}: it must exceed {bound:.1%} to be better than chance; {remedy}, or hold out "
            "more images with data.validation"
        )


def chance_level(labels: NDArray[np.int64]) -> tuple[float, float]:
    """(accuracy of always answering the most frequent class, that plus two standard errors)."""
    chance = float(np.bincount(labels).max()) / len(labels)
    return chance, chance + 2 * math.sqrt(chance * (1 - chance) / len(labels))


def _found(
    options: spec.Teacher,
    data: datasets.Dataset,
    store: vault.Vault,
    device: torch.device,
    keeper: Keeper | None,
) -> tuple[Path, str | None]:
    """The weights, and the digest of what they are made from; None when they are kept already."""
    if options.checkpoint is None:
        inputs = _recipe(options, data)
        return _trained(inputs, options, data, store, device, keeper), vault.digest(inputs)
    begun = _begun(options, keeper)
    if begun is not None:
        stages.settle("teacher", "from the database")
        return _placed(begun, store), None
    file = weight_files.check(options)
    stages.settle("teacher", f"from {file.name}")
    return weight_files.as_safetensors(file, store), vault.digest({"file": vault.file_digest(file)})


def _begun(options: spec.Teacher, keeper: Keeper | None) -> bytes | None:
    """What a study began with, where its checkpoint is not on this host."""
    assert options.checkpoint is not None
    if keeper is None or Path(options.checkpoint).is_file():
        return None
    return keeper.begun()


def _placed(weights: bytes, store: vault.Vault) -> Path:
    """An entry of the vault that holds these very weights."""

    def write(folder: Path) -> None:
        vault.write_whole(folder / weight_files.WEIGHTS, weights)

    inputs = {"weights": hashlib.sha256(weights).hexdigest()}
    return store.entry("teacher", inputs, write) / weight_files.WEIGHTS


def _recipe(options: spec.Teacher, data: datasets.Dataset) -> dict[str, Any]:
    """All that decides the weights of a teacher that is trained here."""
    said = options.model_dump(exclude={"checkpoint", "checkpoint_sha256", "minimum_accuracy"})
    views = [data.views.shift, data.views.flip]
    inputs = {"data": data.fingerprint, "views": views, "teacher": said, "version": _RECIPE_VERSION}
    origin = architectures.origin(options.architecture)
    return inputs if origin is None else {**inputs, "origin": origin}


def _trained(
    inputs: Mapping[str, Any],
    options: spec.Teacher,
    data: datasets.Dataset,
    store: vault.Vault,
    device: torch.device,
    keeper: Keeper | None,
) -> Path:
    if store.contains("teacher", inputs):
        stages.settle("teacher", "found")

    def build(folder: Path) -> None:
        kept = None if keeper is None else keeper.begun() or keeper.fetch(vault.digest(inputs))
        if kept is None:
            _train(folder, options, data, device)
            return
        stages.settle("teacher", "from the database")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        vault.write_whole(folder / weight_files.WEIGHTS, kept)

    return store.entry("teacher", inputs, build) / weight_files.WEIGHTS


def _train(
    folder: Path, options: spec.Teacher, data: datasets.Dataset, device: torch.device
) -> None:
    torch.manual_seed(options.seed)
    network = _fresh(options, data)
    save_to = folder / "checkpoints"
    resume_from = checkpoints.newest(save_to)
    records = []
    padded = small_maps.padded(network, device)
    with padded, stages.stage("teacher", options.epochs, "epochs") as stage:
        try:
            for record in fitting.fit(
                network,
                _task(options, data, device),
                options,
                options.seed,
                device,
                save_to=save_to,
                resume_from=resume_from,
            ):
                records.append(record)
                stage.advance(note=f"validation {record.accuracy:.1%}")
        except TrialError as error:
            shutil.rmtree(save_to, ignore_errors=True)
            raise MaterialError(f"training the teacher: {error}") from error
    weights = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
    vault.write_whole(folder / weight_files.WEIGHTS, save(weights))
    plain = [asdict(record) for record in records]
    vault.write_whole(folder / "records.json", json.dumps(plain).encode())
    shutil.rmtree(save_to, ignore_errors=True)


def _task(options: spec.Teacher, data: datasets.Dataset, device: torch.device) -> Classification:
    return Classification(
        datasets.reader_of(data, device),
        torch.from_numpy(data.labels).to(device),
        torch.from_numpy(data.fit_rows).to(device),
        torch.from_numpy(data.validation_rows).to(device),
        options,
    )
