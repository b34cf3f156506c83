"""What a final training has shown: result.json, of models that have read the test set once each."""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igkd_search import (
    ablation,
    arms,
    attribution,
    datasets,
    deployment,
    evaluation,
    faithfulness,
    held_out,
    latency,
    runs,
    sources,
    spec,
    stages,
    timings,
    vault,
)
from igkd_search.arms import Arm
from igkd_search.errors import StorageError
from igkd_search.workshop import Workshop

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
EXPLAINED = 64
"""Test images whose attributions are compared, evenly spaced."""


def settle(workshop: Workshop, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Deploy the shipped student, have every model read the test set, and tell all of it.

    `earlier` is the history of the folder so far. The keys are those of docs/final.md.
    """
    plan, shared = workshop.plan, workshop.shared
    deployed = _deployed(workshop)
    teacher, small = _teacher(workshop), _quantised(workshop)
    exact = _exact(workshop)
    witness = _Witness(workshop)
    students = {key: _student(workshop, run, witness) for key, run in workshop.all_runs.items()}
    reader = workshop.use(plan.shipped)[0].stock.reader
    test = held_out.read(
        [teacher, *students.values(), exact, small],
        plan.exported.data,
        shared.data,
        reader,
        workshop.folder,
        workshop.home,
    )
    answers = {key: each.answers() for key, each in students.items()}
    told = {str(each): _arm(workshop, each, answers) for each in plan.arms}
    every = [*answers.values(), teacher.answers(), exact.answers(), small.answers()]
    for kind, candidate in (("onnx", exact), ("int8", small)):
        deployed[kind]["accuracy"] = candidate.answers()["accuracy"]
    shipped = str(plan.shipped)
    return {
        "schema_version": SCHEMA_VERSION,
        "asked": plan.asked,
        "configuration": plan.exported.model_dump(mode="json"),
        "fingerprints": dict(shared.fingerprints),
        "test": {
            "images": test["images"],
            "reads": max(each["reads"] for each in every),
            "duplicates": test["duplicates"],
        },
        "classes": list(shared.data.class_names),
        "image_shape": list(shared.data.image_shape),
        "rows": len(shared.data.labels),
        "teacher": {
            "accuracy": teacher.answers()["accuracy"],
            "folder": _relative(workshop, teacher.folder),
            **shared.latency["teacher"].as_dict(),
        },
        "student": {
            "arm": shipped,
            **{name: told[shipped][name] for name in ("accuracy", "seeds", "trial")},
            "shipped": told[shipped]["seeds"][0],
            **_student_figures(workshop),
        },
        "arms": told,
        "ablation": _ablation(workshop, told, test["images"]),
        "tuning": _tuning(workshop),
        "deployment": deployed,
        "latency": _latency(workshop),
        "faithfulness": answers[plan.shipped, 0]["faithfulness"],
        "machine": latency.machine(),
        "history": [*earlier, _asked_now(workshop)],
    }


def _asked_now(workshop: Workshop) -> dict[str, Any]:
    return {
        "arms": list(map(str, workshop.plan.arms)),
        "seeds": workshop.plan.seeds,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


# --- the models


def _student(workshop: Workshop, run: runs.Run, witness: "_Witness") -> held_out.Candidate:
    found = _Loaded(workshop, run)

    def explain(part: held_out.Part) -> Mapping[str, Any]:
        return {"faithfulness": witness.compare(found.student, part)}

    return held_out.Candidate(
        run.folder, lambda images, _: evaluation.predict(found.student, images), explain
    )


class _Witness:
    """The teacher's maps of some test images, drawn once for all students."""

    def __init__(self, workshop: Workshop) -> None:
        self._teacher = workshop.shared.teacher.network
        self._reader = workshop.use(workshop.plan.shipped)[0].stock.reader
        self._options = workshop.plan.exported.overlays
        self._maps: Tensor | None = None

    def compare(self, student: nn.Module, part: held_out.Part) -> dict[str, Any]:
        """How far a student looks where the teacher looks, on a sample of the test part."""
        rows = datasets.sample_rows(len(part.labels), EXPLAINED)
        shown, truth = part.images(rows), part.labels[torch.from_numpy(rows).to(part.labels.device)]
        options = self._options
        settings: dict[str, Any] = {
            name: getattr(options, name) for name in ("steps", "rule", "reduction")
        }
        mean, sd = self._reader.mean, self._reader.sd
        if self._maps is None:
            baselines = attribution.BASELINES[options.baseline](shown, mean, sd)
            self._maps = faithfulness.maps_of(self._teacher, shown, truth, baselines, settings)
        return faithfulness.measure(
            student,
            self._teacher,
            shown,
            truth,
            mean=mean,
            sd=sd,
            seed=0,
            baseline=options.baseline,
            theirs=self._maps,
            **settings,
        )


class _Loaded:
    """A finished student, read from its file when it is first asked."""

    def __init__(self, workshop: Workshop, run: runs.Run) -> None:
        self._workshop, self._run = workshop, run

    @cached_property
    def student(self) -> nn.Module:
        return runs.load(self._run, self._workshop.bench_of(self._run))


def _teacher(workshop: Workshop) -> held_out.Candidate:
    network = workshop.shared.teacher.network
    digest = workshop.shared.fingerprints["teacher"][:8]
    folder = workshop.folder / "runs" / f"teacher-{digest}"
    with StorageError.when_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return held_out.Candidate(folder, lambda images, _: evaluation.predict(network, images))


def _exact(workshop: Workshop) -> held_out.Candidate:
    return _file(workshop, "onnx", deployment.FP32)


def _quantised(workshop: Workshop) -> held_out.Candidate:
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


def _deployed(workshop: Workshop) -> dict[str, dict[str, Any]]:
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


def _latency(workshop: Workshop) -> dict[str, Any]:
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
        rows = datasets.sample_rows(len(data.images), deployment.CALIBRATION_IMAGES)
        about = data.images[rows], data.mean, data.sd
        found = timings.measure(networks, *about, engines=engines, files={"student": files})
        vault.write_whole(path, json.dumps(found).encode())
    timed: dict[str, Any] = json.loads(path.read_bytes())
    return timed


# --- what is told of them


def _arm(
    workshop: Workshop, arm: Arm, answers: Mapping[tuple[Arm, int], Mapping[str, Any]]
) -> dict[str, Any]:
    exported = workshop.decided[arm]
    own = [answers[arm, index] for index in range(workshop.plan.seeds)]
    return {
        "accuracy": spread([each["accuracy"] for each in own]),
        "seeds": [
            {
                "seed": workshop.all_runs[arm, index].seed,
                "accuracy": each["accuracy"],
                "reads": each["reads"],
                "folder": _relative(workshop, workshop.all_runs[arm, index].folder),
            }
            for index, each in enumerate(own)
        ],
        "trial": exported.trial.model_dump(mode="json"),
        "control": exported.overlays.control,
        "targets": exported.materials.targets,
        "faithfulness": _faithful([each["faithfulness"] for each in own]),
    }


def _faithful(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each seed's student has shown on average over images, with the spread over seeds."""
    places = {
        "rank_correlation": ("agreement", "own_image", "rank_correlation"),
        "another_image": ("agreement", "another_image", "rank_correlation"),
        "top_overlap": ("agreement", "own_image", "top_overlap"),
        "deletion_gain": ("deletion", "student", "gain"),
        "insertion_gain": ("insertion", "student", "gain"),
    }
    values = {name: [_at(each, *keys) for each in found] for name, keys in places.items()}
    return {
        name: None if None in own else spread([each for each in own if each is not None])
        for name, own in values.items()
    }


def _at(found: Mapping[str, Any], *keys: str) -> float | None:
    """The mean of a figure; None where its maps had no order."""
    value: Any = found
    for key in keys:
        value = value and value[key]
    return None if value is None else float(value["mean"])


def _relative(workshop: Workshop, folder: Path) -> str:
    return folder.relative_to(workshop.folder).as_posix()


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation (None of one value) and count."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}


def _ablation(
    workshop: Workshop, told: Mapping[str, Mapping[str, Any]], images: int
) -> dict[str, Any] | None:
    if len(told) == 1:
        return None
    accuracies = {name: [each["accuracy"] for each in arm["seeds"]] for name, arm in told.items()}
    winner = str(arms.of(workshop.plan.exported))
    found = ablation.summarise(accuracies, images=images, tuned=workshop.plan.tune, winner=winner)
    found["words"]["limits"] += _exceptions(workshop)
    return found


def _exceptions(workshop: Workshop) -> list[str]:
    """What is not as the names of arms would have it, a sentence each."""
    said = []
    kept = [str(arm) for arm, found in workshop.tuned.items() if not found["parameters"]]
    if kept:
        said.append(
            f"Nothing that was searched is a parameter of {' and '.join(kept)}: the settings there "
            "are the winner's."
        )
    for arm, exported in workshop.decided.items():
        if arms.of(exported) != arm:
            said.append(f"The search of {arm} chose what is {arms.of(exported)}, and nothing else.")
    if workshop.plan.exported.trial.initialisation == "teacher":
        said.append(
            "Every arm, the baseline too, begins with the teacher's first blocks "
            "(trial.initialisation)."
        )
    return said


def _tuning(workshop: Workshop) -> dict[str, Any] | None:
    if workshop.plan.tune is None:
        return None
    found = {str(arm): each for arm, each in workshop.tuned.items()}
    epochs = workshop.plan.exported.trial.epochs
    return {"trials": workshop.plan.tune, "epochs": epochs, "arms": found}


def _student_figures(workshop: Workshop) -> dict[str, Any]:
    exported, table = workshop.plan.exported, workshop.shared.latency
    name = spec.Architecture.of(exported.trial, exported.teacher.architecture).name
    compression = table["teacher"].parameters / table[name].parameters
    return {"architecture": name, "compression": compression, **table[name].as_dict()}
