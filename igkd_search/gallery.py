"""What an overlay is, to the eye: one image a class, its map, the overlay, and every control.

As Figure 3 of the paper (arXiv 2503.13008). The images are fit rows, never the test part, and each
row of the picture is what a trial under that control would read.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import (
    augment,
    controls,
    datasets,
    devices,
    evaluation,
    figures,
    models,
    overlay_bank,
    spec,
    teacher,
    users,
    vault,
)
from igkd_search.errors import StudyError

MOST_CLASSES = 10
_CHUNK = 16  # images of a class asked at once until the teacher knows one
_ROW_NAMES: dict[spec.Control, str] = {
    "none": "overlay",
    "shuffled": "shuffled",
    "random": "random",
    "dim": "dim",
}
_ROW_NOTES: dict[spec.Control, str] = {
    "none": "with its own map",
    "shuffled": "another image's map",
    "random": "the map, scattered",
    "dim": "darkening alone",
}


@dataclass(frozen=True)
class Gallery:
    """The pictures of one image a class; all arrays are by column.

    rows (B,) are rows of the training part; images float (B, C, H, W) and maps (B, H, W) in [0, 1];
    overlays holds one (B, C, H, W) for each control.
    """

    study: str
    rows: NDArray[np.int64]
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    """The teacher's, of the image's own class."""
    known: tuple[bool, ...]
    """Whether the teacher gets the image right; where not, it knows no fit row of that class."""
    images: NDArray[np.float32]
    maps: NDArray[np.float32]
    overlays: dict[spec.Control, NDArray[np.float32]]
    control: spec.Control
    """Whose overlays the trials of this study see."""
    teacher_accuracy: float
    steps: int
    fidelity: float
    """How the bank's maps correlate with those of a much finer path."""
    strength: float

    @property
    def seen(self) -> str:
        """The name of the row that trials see."""
        return _ROW_NAMES[self.control]


def check(
    study: spec.Study,
    output: Path,
    home: Path,
    keeper: teacher.Keeper | None = None,
    device: str | None = None,
) -> datasets.Dataset:
    """Whatever can be known at once, before a teacher is trained; returns the data.

    StudyError, DataError or MaterialError say what is wrong, be it with `device` (devices.choose).
    """
    figures.check_format(output)
    devices.choose(device)
    teacher.check(study.teacher, keeper)
    # decoded images are an entry that no study may name yet; other sources write none
    writes = study.data.source in datasets.CACHED
    with users.using(home / "vault") if writes else contextlib.nullcontext():
        data = datasets.load(study.data, home)
    models.check_teacher_images(
        study.teacher.architecture, data.classes, study.teacher.width, data.image_shape
    )
    return data


def draw(
    study: spec.Study,
    output: Path,
    home: Path,
    classes: str | None = None,
    data: datasets.Dataset | None = None,
    keeper: teacher.Keeper | None = None,
    device: str | None = None,
) -> Gallery:
    """Write the gallery to `output`, building the teacher and the maps where they are missing.

    The teacher is the study's own, where `keeper` has one.
    `classes` are names or labels, between commas; by default the first ten. StudyError when they
    are none of this data set, or too many.
    """
    used = devices.choose(device)
    data = data if data is not None else check(study, output, home, keeper, device)
    chosen = choose_classes(data, classes)
    # no study may name these entries yet
    with users.using(home / "vault"):
        found = assemble(study, data, chosen, home, used, keeper)
    figure = figures.draw_gallery(_title(found), _subtitle(found), _columns(found), _strips(found))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{output.parent}: cannot be made: {error}") from error
    figures.save(figure, output)
    return found


def choose_classes(data: datasets.Dataset, asked: str | None) -> list[int]:
    """The labels to show: the first ten, or those asked for by name or label, in that order."""
    names = data.class_names
    if asked is None:
        return list(range(min(data.classes, MOST_CLASSES)))
    legal = {str(label): label for label in range(data.classes)}
    legal |= {name: label for label, name in enumerate(names)}
    words = [word.strip() for word in asked.split(",") if word.strip()]
    unknown = [word for word in words if word not in legal]
    if unknown or not 1 <= len(words) <= MOST_CLASSES:
        found = f"unknown are {', '.join(unknown)}" if unknown else f"{len(words)} given"
        raise StudyError(
            f"--classes {asked}: {found}; allowed are 1 to {MOST_CLASSES} of "
            f"{', '.join(names[:20])}{', ...' if len(names) > 20 else ''}, between commas"
        )
    return list(dict.fromkeys(legal[word] for word in words))


def assemble(
    study: spec.Study,
    data: datasets.Dataset,
    classes: Sequence[int],
    home: Path,
    device: torch.device,
    keeper: teacher.Keeper | None = None,
) -> Gallery:
    """The pictures, from the materials under `home`; only teacher and maps are built if missing."""
    devices.use_threads(data.image_shape)
    store = vault.Vault(home / "vault")
    master = teacher.obtain(study.teacher, data, store, device, keeper)
    bank = overlay_bank.obtain(study.overlays, data, master.network, master.digest, store, device)
    reader = datasets.reader_of(data, device)
    choices = [_choose(data, label, master.network, reader) for label in classes]
    rows = torch.tensor([choice.row for choice in choices], device=device)
    images = reader.unit(rows, torch.full_like(rows, data.views.identity))[0]
    chosen = rows.cpu().numpy()
    groups = (data.fit_rows, data.validation_rows)
    shown = {
        control: controls.to_unit(
            controls.apply(bank.maps, control, groups, study.data.seed)[chosen]
        )
        for control in get_args(spec.Control)
    }
    strength = study.trial.overlay_strength
    return Gallery(
        study=study.name,
        rows=chosen,
        names=tuple(data.class_names[label] for label in classes),
        probabilities=tuple(choice.probability for choice in choices),
        known=tuple(choice.known for choice in choices),
        images=images.cpu().numpy(),
        maps=shown["none"],
        overlays={
            control: _lay(images, torch.from_numpy(layer).to(device), strength).cpu().numpy()
            for control, layer in shown.items()
        },
        control=study.overlays.control,
        teacher_accuracy=master.accuracy,
        steps=study.overlays.steps,
        fidelity=bank.fidelity,
        strength=strength,
    )


@dataclass(frozen=True)
class _Choice:
    row: int
    probability: float
    known: bool


def _choose(
    data: datasets.Dataset, label: int, network: nn.Module, reader: augment.Reader
) -> _Choice:
    """The first fit row of a class that the teacher knows, or the first where it knows none."""
    candidates = data.fit_rows[data.labels[data.fit_rows] == label]
    choices: list[_Choice] = []
    for start in range(0, len(candidates), _CHUNK):
        rows = torch.from_numpy(candidates[start : start + _CHUNK]).to(reader.device)
        logits = evaluation.predict(network, reader.unaugmented(rows))
        shares, known = logits.softmax(1)[:, label].tolist(), (logits.argmax(1) == label).tolist()
        choices += map(_Choice, rows.tolist(), shares, known)
        if any(known):
            break
    return next((choice for choice in choices if choice.known), choices[0])


def _lay(images: Tensor, maps: Tensor, strength: float) -> Tensor:
    """What a trial reads when it draws the overlay, at exponent 1."""
    chance = torch.zeros(2, len(images), device=images.device)
    return augment.overlay(
        images, maps, chance, probability=1.0, strength=strength, exponent_max=1.0
    )


def _title(found: Gallery) -> str:
    return f"{found.study}: what the teacher looks at, and what trials see"


def _subtitle(found: Gallery) -> str:
    return (
        f"teacher {found.teacher_accuracy:.1%} on validation · Integrated Gradients, "
        f"{found.steps} steps, fidelity {found.fidelity:.3f} · overlay strength "
        f"{found.strength:g}, exponent 1"
    )


def _columns(found: Gallery) -> list[tuple[str, str]]:
    return [
        (name, f"p = {share:.3f}" if known else f"p = {share:.3f}, wrong")
        for name, share, known in zip(found.names, found.probabilities, found.known, strict=True)
    ]


def _strips(found: Gallery) -> list[figures.Strip]:
    controls = [
        figures.Strip(
            _ROW_NAMES[control],
            found.overlays[control],
            "trials see this" if control == found.control else _ROW_NOTES[control],
            marked=control == found.control,
        )
        for control in _ROW_NAMES
    ]
    return [
        figures.Strip("original", found.images, "a fit row"),
        figures.Strip("map", found.maps, "Integrated Gradients"),
        *controls,
    ]
