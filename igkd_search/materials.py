"""What all trials of a study share: data, teacher, soft targets, overlay maps, latency table.

Everything is built once, addressed by its inputs, and proven to be about the right images: after a
build, and when a bank is first opened, rows are compared with the live teacher, so a permuted bank
never reaches a trial. A killed build goes on where it stopped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from igkd_search import (
    architectures,
    augment,
    controls,
    datasets,
    devices,
    latency,
    logits_bank,
    memory,
    models,
    onnx_export,
    overlay_bank,
    spec,
    stages,
    teacher,
    vault,
)
from igkd_search.errors import StudyError

_LATENCY_VERSION = 2  # raise when times are taken otherwise


@dataclass(frozen=True)
class Latency:
    """One architecture's figures: what it costs and how long one image takes (Timing)."""

    parameters: int
    macs: int
    timing: latency.Timing

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"parameters": self.parameters, "macs": self.macs, **self.timing.as_dict()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Latency":
        """What `as_dict` was made of."""
        timing = {engine: row[engine] for engine in ("pytorch", "onnxruntime")}
        return cls(row["parameters"], row["macs"], latency.Timing.from_dict(timing))


@dataclass(frozen=True)
class Materials:
    """What a trial reads. Row i of `targets` and of `maps` is image i of `data`.

    targets fp16 (N, V, classes), or None when the teacher answers live; maps (N, H, W), what the
    overlay shows after its control; latency maps an architecture's name, or "teacher", to figures.
    """

    data: datasets.Dataset
    teacher: teacher.Teacher
    targets: NDArray[np.float16] | None
    chosen_views: NDArray[np.int64] | None
    """The view indexes (N, V) that training is restricted to, or None: all."""
    taught_by: NDArray[np.int64] | None
    """The row (N,) whose targets each row learns from, as a control, or None: its own."""
    maps: augment.Maps
    latency: Mapping[str, Latency]
    fingerprints: Mapping[str, str]
    completeness_gap: float
    """What the steps leave out of the attributions, as a share; see OverlayBank."""
    map_fidelity: float
    """How the maps correlate with those of a 256-step path; see OverlayBank."""
    threads: int
    """torch's CPU threads, on which a record depends in its last bits (law 6)."""
    busy: Mapping[str, Any] = field(default_factory=dict)
    """How many cores other processes used while latency was measured, and whether that is few."""
    entries: tuple[str, ...] = ()
    """The vault's entries all this came from, "kind/digest": what must not be pruned."""

    def facts(self) -> dict[str, Any]:
        """What a study remembers of its materials, as plain JSON."""
        return {
            "teacher_accuracy": self.teacher.accuracy,
            "latency": {name: row.as_dict() for name, row in self.latency.items()},
            "machine": latency.machine() | dict(self.busy),
            "fingerprints": dict(self.fingerprints),
            "targets": self._targets(),
            "completeness_gap": self.completeness_gap,
            "map_fidelity": self.map_fidelity,
            "threads": self.threads,
            "rows": {
                "fit": len(self.data.fit_rows),
                "validation": len(self.data.validation_rows),
                "classes": self.data.classes,
                "shift": self.data.views.shift,
                "flip": self.data.views.flip,
                "image_shape": list(self.data.image_shape),
            },
            # a finished study is shown without its data
            "class_names": list(self.data.class_names),
        }

    def _targets(self) -> str:
        if self.targets is None:
            return "live"
        return "bank" if self.taught_by is None else "shuffled"


def students(study: spec.Run) -> list[spec.Architecture]:
    """Every student the space can ask for, in order."""
    return study.students()


def check(study: spec.Run, keeper: teacher.Keeper | None = None) -> None:
    """What can be known before anything is written: students have blocks, files are there."""
    teacher.check(study.teacher, keeper)
    for architecture in students(study):
        models.check_removed_blocks(architecture)
        if max(study.ends_of("attention_weight")) > 0:
            models.check_blocks(architecture)
        if "teacher" in study.ends_of("initialisation"):
            models.check_prefix(architecture)


def check_images(study: spec.Run, data: datasets.Dataset) -> None:
    """StudyError unless the teacher and every student can take images of this size."""
    options, shape = study.teacher, data.image_shape
    _check_cutouts(study, shape)
    models.check_teacher_images(options.architecture, data.classes, options.width, shape)
    for architecture in students(study):
        models.check_student_images(architecture, data.classes, shape)


def _check_cutouts(study: spec.Run, shape: tuple[int, int, int]) -> None:
    side = min(shape[1:])
    asked = {"teacher": study.teacher.cutout, "trial": int(max(study.ends_of("cutout")))}
    for section, cutout in asked.items():
        if cutout >= side:
            raise StudyError(
                f"{section}.cutout = {cutout} blanks whole images of {shape[1]}x{shape[2]} pixels; "
                f"allowed are 0 to {side - 1}"
            )


def teach(
    study: spec.Run,
    home: Path,
    device: torch.device,
    data: datasets.Dataset | None = None,
    keeper: teacher.Keeper | None = None,
) -> teacher.Teacher:
    """Train or find the teacher alone, as `prepare` does, which goes on from there."""
    data, store, _ = _begin(study, home, device, data, keeper)
    return teacher.obtain(study.teacher, data, store, device, keeper)


def _begin(
    study: spec.Run,
    home: Path,
    device: torch.device,
    data: datasets.Dataset | None,
    keeper: teacher.Keeper | None,
) -> tuple[datasets.Dataset, vault.Vault, int]:
    """Data, vault and CPU threads, once all is known to be right that can be before training."""
    check(study, keeper)
    data = data if data is not None else datasets.load(study.data, home)
    check_images(study, data)
    threads = devices.use_threads(data.image_shape)
    if device.type == "cpu":
        memory.keep_freed()
    return data, vault.Vault(home / "vault"), threads


def prepare(
    study: spec.Run,
    home: Path,
    device: torch.device,
    data: datasets.Dataset | None = None,
    keeper: teacher.Keeper | None = None,
    measured: Mapping[str, Latency] | None = None,
    judge: Callable[[Mapping[str, Latency]], object] | None = None,
) -> Materials:
    """Build or find everything that the trials of a study share, under `home`.

    `keeper` holds the teacher for all hosts, `measured` the latency figures that stand already. A
    `judge` of these figures has them measured first, before hours go into teacher and banks.
    StudyError, DataError or MaterialError say what is wrong; finished parts are kept.
    """
    data, store, threads = _begin(study, home, device, data, keeper)
    timed, table = _timed(study, data), None
    if judge is not None:
        table = _latency_table(timed, data.image_shape, store, measured or {})
        judge(table[0])
    master = teacher.obtain(study.teacher, data, store, device, keeper)
    overlays = overlay_bank.obtain(
        study.overlays, data, master.network, master.digest, store, device
    )
    bank, chosen = None, logits_bank.chosen_views(study, data)
    if logits_bank.use_bank(study, data):
        bank = logits_bank.obtain(data, master.network, master.digest, store, device, chosen)
    else:
        stages.settle("targets", "live teacher")
    figures, busy = table or _latency_table(timed, data.image_shape, store, measured or {})
    groups = (data.fit_rows, data.validation_rows)
    shuffled = study.materials.targets == "shuffled"
    # not the seed of the maps: where both are another image's, they are so independently
    taught_seed = spec.trial_seed(study.data.seed, 0, "shuffled targets")
    return Materials(
        data=data,
        teacher=master,
        targets=None if bank is None else bank.logits,
        chosen_views=chosen,
        taught_by=controls.other_rows(groups, taught_seed) if shuffled else None,
        maps=controls.apply(overlays.maps, study.overlays.control, groups, study.data.seed),
        latency=figures,
        busy=busy,
        fingerprints={
            "data": data.fingerprint,
            "teacher": master.digest,
            "targets": "live" if bank is None else bank.digest,
            "overlays": overlays.digest,
        },
        completeness_gap=overlays.completeness_gap,
        map_fidelity=overlays.fidelity,
        threads=threads,
        entries=tuple(sorted({*data.entries, *store.opened, *_lying_there(timed, store)})),
    )


@dataclass(frozen=True)
class _Timed:
    """A network whose latency counts: what it is, as plain JSON, and how it is built."""

    described: Mapping[str, Any]
    build: Callable[[], nn.Module]


def _timed(study: spec.Run, data: datasets.Dataset) -> dict[str, _Timed]:
    """The teacher and every student of the space, by name."""
    options, shape = study.teacher, data.image_shape

    def described(
        network: str, width: float, removed_blocks: int | None, resolution: int | None = None
    ) -> dict[str, Any]:
        return {
            "network": network,
            "origin": architectures.origin(network),
            "width": width,
            "removed_blocks": removed_blocks,
            # left out where it is none, as in entries that were kept before there was one
            **({} if resolution is None else {"resolution": resolution}),
            "classes": data.classes,
            "image_shape": list(data.image_shape),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }

    teachers = partial(
        models.build_teacher, options.architecture, data.classes, options.width, max(shape[1:])
    )
    found = {"teacher": _Timed(described(options.architecture, options.width, None), teachers)}
    for each in students(study):
        found[each.name] = _Timed(
            described(each.network, each.width, each.removed_blocks, each.resolution),
            partial(models.build_student, each, data.classes, shape),
        )
    return found


def _lying_there(timed: Mapping[str, _Timed], store: vault.Vault) -> set[str]:
    """The latency and ONNX entries of these networks: used, though not opened when found."""
    wanted = [("onnx", dict(each.described)) for each in timed.values()]
    places = [store.folder(*each) for each in [("latency", _latency_inputs(timed)), *wanted]]
    return {f"{place.parent.name}/{place.name}" for place in places if place.is_dir()}


def _latency_inputs(timed: Mapping[str, _Timed]) -> dict[str, Any]:
    return {
        "networks": {name: dict(each.described) for name, each in timed.items()},
        "machine": latency.machine(),
        "version": _LATENCY_VERSION,
    }


def _latency_table(
    timed: Mapping[str, _Timed],
    shape: tuple[int, int, int],
    store: vault.Vault,
    measured: Mapping[str, Latency],
) -> tuple[dict[str, Latency], dict[str, Any]]:
    """Figures of every network, those that the study began with, else found or measured here.

    And how busy the machine was meanwhile, as far as that is known.
    """
    if set(timed) <= set(measured):
        stages.settle("latency", "kept with the study")
        return {name: measured[name] for name in timed}, {}
    inputs = _latency_inputs(timed)
    if store.contains("latency", inputs):
        stages.settle("latency", "found")

    def build(folder: Path) -> None:
        found, used = _measured(timed, shape, store)
        table = {name: row.as_dict() for name, row in found.items()}
        told = json.dumps(latency.busyness(used)).encode()
        vault.write_whole(folder / "machine.json", told)
        vault.write_whole(folder / "latency.json", json.dumps(table).encode())

    folder = store.entry("latency", inputs, build)
    table = json.loads((folder / "latency.json").read_bytes())
    known = folder / "machine.json"
    busy = json.loads(known.read_bytes()) if known.is_file() else {}
    return {name: Latency.from_dict(row) for name, row in table.items()} | {
        name: row for name, row in measured.items() if name in timed
    }, busy


def _measured(
    timed: Mapping[str, _Timed], shape: tuple[int, int, int], store: vault.Vault
) -> tuple[dict[str, Latency], float]:
    """Figures of every network, and how many cores other processes used."""
    memory.trim()  # the exporter adds its own to what teacher and banks have freed and kept
    networks = {name: each.build() for name, each in timed.items()}
    rounds = 30
    with stages.stage("latency", len(networks) + rounds, "steps") as stage:
        files = {}
        for name, network in networks.items():
            stage.advance(0, f"exporting {name}")
            files[name] = _onnx_file(timed[name].described, network, shape, store)
            stage.advance()
        used = latency.warn_if_busy()
        stage.advance(0, "timing")
        timings = latency.measure(networks, files, shape, rounds, stage.advance)
    found = {
        name: Latency(
            models.count_parameters(network), models.count_macs(network, shape), timings[name]
        )
        for name, network in networks.items()
    }
    return found, used


def _onnx_file(
    described: Mapping[str, Any],
    network: nn.Module,
    shape: tuple[int, int, int],
    store: vault.Vault,
) -> Path:
    # the export takes seconds, so it is made once an architecture; times do not depend on weights
    def build(folder: Path) -> None:
        onnx_export.export(network, shape, folder / "model.onnx")

    return store.entry("onnx", dict(described), build) / "model.onnx"
