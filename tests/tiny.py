"""Tiny builders: images that a tiny teacher learns, a study of them, an exported file.

A teacher of width 0.1 on 8x8 images takes a step in milliseconds, so whole materials and trainings
fit into a test. The fixtures of conftest.py build each of them once a session.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from numpy.typing import NDArray

from igkd_search import spec, study_file

CLASSES, SIZE = 3, 8
TRAIN, VALIDATION, TEST = 75, 15, 24
WIDTH, REMOVED_BLOCKS = 0.1, 15
STUDENT = f"mobilenet_v2-{REMOVED_BLOCKS}-x{WIDTH:g}"
"""The name of the tiny student in the latency table."""

_PLAIN: dict[str, dict[str, Any]] = {
    "data": {"source": "arrays", "validation": VALIDATION, "shift": 1, "flip": True},
    "teacher": {
        "width": WIDTH,
        "epochs": 15,
        "batch_size": 12,
        "learning_rate": 0.03,
        "ema_decay": 0.8,
    },
    "overlays": {"steps": 2},
    "trial": {
        "removed_blocks": REMOVED_BLOCKS,
        "width": WIDTH,
        "epochs": 2,
        "batch_size": 12,
        "learning_rate": 0.1,
        "overlay_probability": 0.5,
        "ema_decay": 0.9,
    },
    "search": {
        "trials": 10,
        "sampler": "random",
        "pruner": "none",
        "space": {
            "temperature": {"low": 1.0, "high": 10.0, "log": True},
            "kd_weight": {"low": 0.0, "high": 1.0},
        },
    },
}


def images(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise with one bright channel, that of the class: uint8 (count, 3, 8, 8), labels (count,).

    Each image also has a bright spot of its own, so that no two are alike to a network.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = generator.integers(0, 120, (count, 3, SIZE, SIZE))
    rows = np.arange(count)
    pixels[rows, labels] += 90
    spots = generator.integers(0, SIZE, (2, count))
    pixels[rows, :, spots[0], spots[1]] = generator.integers(0, 256, (count, 3))
    return pixels.astype(np.uint8), labels.astype(np.int64)


def write_arrays(folder: Path, train: int = TRAIN, test: int = TEST) -> Path:
    """Write the four files of the `arrays` source into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", train, 1), ("test", test, 2)):
        pixels, labels = images(count, seed)
        np.save(folder / f"{part}_images.npy", pixels)
        np.save(folder / f"{part}_labels.npy", labels)
    return folder


def plain_study(arrays: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a study file on these arrays; `sections` replace single keys of its tables."""
    plain: dict[str, Any] = {
        name: {**table, **sections.get(name, {})} for name, table in _PLAIN.items()
    }
    plain["data"]["path"] = str(arrays)
    others = {name: table for name, table in sections.items() if name not in plain}
    return {"name": "tiny", **plain, **others}


def study(arrays: Path, **sections: Mapping[str, Any]) -> spec.Study:
    """A study on these arrays, such as `study(arrays, trial={"epochs": 3})`."""
    return study_file.check(spec.Study, plain_study(arrays, **sections), "tiny")


def write_study(path: Path, arrays: Path, **sections: Mapping[str, Any]) -> Path:
    """Write the study file of `plain_study` to `path`, and return it."""
    path.write_text(tomlkit.dumps(plain_study(arrays, **sections)))
    return path


def exported(run: spec.Run, seed: int = 7, **provenance: Any) -> spec.Exported:
    """What `igkd export` would write for the trial that `run` states."""
    stated = {
        "study": "tiny",
        "trial": 3,
        "slot": 3,
        "seed": seed,
        "validation_accuracy": 0.9,
        "exported": "2025-01-01T00:00:00+00:00",
        "fingerprints": {},
        "versions": {},
        "latency": {},
    }
    return spec.Exported(
        schema_version=1,
        data=run.data,
        teacher=run.teacher,
        overlays=run.overlays,
        materials=run.materials.model_copy(update={"targets": "bank"}),
        trial=run.trial,
        provenance=spec.Provenance.model_validate({**stated, **provenance}),
    )


def copy_entries(home: Path, fresh: Path, *kinds: str) -> Path:
    """Start a home folder with these kinds of vault entries of another, or all, and return it.

    Tests that build materials anew need not export ONNX files again, which takes seconds.
    """
    (fresh / "vault").mkdir(parents=True, exist_ok=True)
    for kind in kinds or ("teacher", "overlays", "targets", "latency", "onnx"):
        shutil.copytree(home / "vault" / kind, fresh / "vault" / kind)
    return fresh
