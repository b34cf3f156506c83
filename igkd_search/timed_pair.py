"""What a configuration is timed as: its teacher and its student, fresh, and images for int8.

Times do not depend on weights, so none are read: neither a teacher's file nor a finished training
is needed. Training rows calibrate int8 where the data are at hand, else noise does, which costs
int8 accuracy but no time.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from igkd_search import (
    datasets,
    models,
    spec,
    timings,
)
from igkd_search.errors import DataError
from igkd_search.timed_subject import Subject

log = logging.getLogger(__name__)

_IMAGES = 256  # that calibrate
_SIDES = {"digits": 8, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32, "svhn": 32}


def measure(subject: Subject, home: Path, **options: Any) -> dict[str, Any]:
    """What `timings.measure` finds, with these options of it, and which student it was.

    DataError when the data are missing and nothing else says how large their images are.
    """
    pixels, mean, sd, classes, calibration = _images(subject, home)
    found = timings.measure(
        _networks(subject, classes, (pixels.shape[1], pixels.shape[2], pixels.shape[3])),
        pixels,
        mean,
        sd,
        calibration=calibration,
        **options,
    )
    named = {"study": subject.study, "trial": subject.number}
    return {**named, "architecture": subject.architecture.name, **found}


def _networks(
    subject: Subject, classes: int, shape: tuple[int, int, int]
) -> Mapping[str, nn.Module]:
    teacher, side = subject.run.teacher, max(shape[1:])
    models.check_removed_blocks(subject.architecture)
    return {
        "teacher": models.build_teacher(teacher.architecture, classes, teacher.width, side),
        "student": models.build_student(subject.architecture, classes, shape),
    }


def _images(
    subject: Subject, home: Path
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], int, str]:
    """Images uint8 (N, 3, H, W), mean and sd (3,), the number of classes, and what images."""
    try:
        data = datasets.load(subject.run.data, home)
    except DataError as error:
        shape, classes = _known_shape(subject), subject.classes
        if shape is None or classes is None:
            raise
        log.warning("int8 is calibrated on noise, which costs it no time: %s", error)
        noise = np.random.default_rng(0).integers(0, 256, (_IMAGES, *shape)).astype(np.uint8)
        return noise, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), classes, "noise"
    rows = data.fit_rows[datasets.sample_rows(len(data.fit_rows), _IMAGES)]
    return (
        np.ascontiguousarray(data.images[rows]),
        data.mean,
        data.sd,
        data.classes,
        "training rows",
    )


def _known_shape(subject: Subject) -> tuple[int, int, int] | None:
    data = subject.run.data
    if subject.shape is not None:
        return subject.shape
    side = (data.image_size or spec.IMAGE_SIZE) if data.source == "folder" else None
    side = side or _SIDES.get(data.source)
    return None if side is None else (3, side, side)
