"""The models of a final training before the test part: students, teacher, and the shipped files.

Each is a candidate of `held_out` with a folder of its own. What is shipped is exported, quantised
and timed once and kept beside its run.
"""

import json
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igkd_search import (
    datasets,
    deployment,
    evaluation,
    faithfulness,
    held_out,
    runs,
    sources,
    stages,
    timings,
    vault,
)
from igkd_search.errors import StorageError
from igkd_search.workshop import Workshop

EXPLAINED = 64
"""Test images whose attributions are compared, evenly spaced."""
NOT_COMPILED = "it takes minutes; igkd latency BEST.TOML measures it"


def student(workshop: Workshop, run: runs.Run, witness: "Witness") -> held_out.Candidate:
    """The student of a finished run, which is also asked where it looks."""
    found = _Loaded(workshop, run)

    def explain(part: held_out.Part) -> Mapping[str, Any]:
        return {"faithfulness": witness.compare(found.student, part)}

    return held_out.Candidate(
        run.folder, lambda images, _: evaluation.predict(found.student, images), explain
    )


class Witness:
    """The teacher's maps of some test images, drawn once for all students."""

    def __init__(self, workshop: Workshop) -> None:
        self._teacher = workshop.shared.teacher.network
        options = workshop.plan.exported.overlays
        reader = workshop.use(workshop.plan.shipped)[0].stock.reader
        self._settings: dict[str, Any] = {
            **{name: getattr(options, name) for name in ("steps", "baseline", "rule", "reduction")},
            "mean": reader.mean,
            "sd": reader.sd,
        }
        self._maps: Tensor | None = None

    def compare(self, student: nn.Module, part: held_out.Part) -> dict[str, Any]:
        """How far a student looks where the teacher looks, on a sample of the test part."""
        rows = datasets.sample_rows(len(part.labels), EXPLAINED)
        places = torch.from_numpy(rows).to(part.labels.device)
        shown, settings = (part.images(rows), part.labels[places]), self._settings
        if self._maps is None:
            self._maps = faithfulness.draw_maps(self._teacher, *shown, **settings)
        return faithfulness.measure(
            student, self._teacher, *shown, seed=0, theirs=self._maps, **settings
        )


class _Loaded:
    """A finished student, read from its file when it is first asked."""

    def __init__(self, workshop: Workshop, run: runs.Run) -> None:
        self._workshop, self._run = workshop, run

    @cached_property
    def student(self) -> nn.Module:
        return runs.load(self._run, self._workshop.bench_of(self._run))


def teacher(workshop: Workshop) -> held_out.Candidate:
    """The teacher of the materials."""
    network = workshop.shared.teacher.network
    digest = workshop.shared.fingerprints["teacher"][:8]
    folder = workshop.folder / "runs" / f"teacher-{digest}"
    with StorageError.when_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return held_out.Candidate(folder, lambda images, _: evaluation.predict(network, images))


def exact(workshop: Workshop) -> held_out.Candidate:
    """The shipped student as ONNX Runtime computes it."""
    return _file(workshop, "onnx", deployment.FP32)


def quantised(workshop: Workshop) -> held_out.Candidate:
    """The shipped student in int8."""
    return _file(workshop, "int8", deployment.INT8)


def _file(workshop: Workshop, kind: str, name: str) -> held_out.Candidate:
    """A deployed file of the first seed, which keeps answers of its own beside it."""
    folder = workshop.first.folder / kind
    with StorageError.when_writing(folder):
        folder.mkdir(exist_ok=True)
    answer = partial(_ask_file, workshop.first.folder / name)
    return held_out.Candidate(folder, answer)


def _ask_file(path: Path, images: Tensor, pixels: sources.Pixels) -> Tensor:
    return torch.from_numpy(deployment.predict(path, pixels)).to(images.device)


def deployed(workshop: Workshop) -> dict[str, dict[str, Any]]:
    """The first seed's student as files, written once, and what they are."""
    run, shared = workshop.first, workshop.shared
    path = run.folder / "deployment.json"
    if not path.exists():
        study = workshop.plan.exported.provenance.study
        origin = {"study": study, "arm": str(workshop.plan.shipped)}
        with stages.stage("files", note="exporting to ONNX and quantising"):
            student, data = runs.load(run, workshop.bench_of(run)), shared.data
            written = deployment.write(
                student,
                data.mean,
                data.sd,
                data.images,
                data.class_names,
                run.folder,
                origin=origin,
            )
        vault.write_whole(path, json.dumps(written).encode())
    found: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
    return found


def timed(workshop: Workshop) -> dict[str, Any]:
    """Teacher and shipped student side by side, measured once a student, when nothing trains.

    Without compiling, which takes minutes: `igkd latency` adds that.
    """
    run, shared = workshop.first, workshop.shared
    path = run.folder / "latency.json"
    if not path.exists():
        networks = {
            "teacher": shared.teacher.network,
            "student": runs.load(run, workshop.bench_of(run)),
        }
        files = {"onnx": run.folder / deployment.FP32, "int8": run.folder / deployment.INT8}
        data, engines = shared.data, [name for name in timings.ENGINES if name != "compiled"]
        about = data.images, data.mean, data.sd
        found = timings.measure(networks, *about, engines=engines, files={"student": files})
        missing = {"engine": "compiled", "reason": NOT_COMPILED}
        found = found | {"skipped": [*found["skipped"], missing]}
        vault.write_whole(path, json.dumps(found).encode())
    told: dict[str, Any] = json.loads(path.read_bytes())
    return told
