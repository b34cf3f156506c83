"""Laws of the pair: the student that is meant, fresh, with training rows or noise for int8."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit

from igkd_search import (
    database,
    latency_table,
    models,
    spec,
    timed_pair,
    timed_subject,
    timings,
)
from igkd_search.errors import DataError
from tests import measured, tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `timings.measure` is asked; nothing is timed."""
    seen: dict[str, Any] = {}

    def measure(*given: Any, **options: Any) -> dict[str, Any]:
        seen.update(zip(("networks", "pixels", "mean", "sd"), given, strict=True), **options)
        return measured.found()

    monkeypatch.setattr(timings, "measure", measure)
    return seen


def exported(path: Path, run: spec.Run) -> Path:
    plain = tiny.exported(run).model_dump(mode="json", exclude_none=True)
    path.write_text(tomlkit.dumps(plain))
    return path


def test_a_file_is_its_trial(study: spec.Study, tmp_path: Path, asked: dict[str, Any]) -> None:
    subject = timed_subject.of_file(exported(tmp_path / "best.toml", study))
    assert subject is not None and subject.study is None
    found = timed_pair.measure(subject, tmp_path, batches=(1,))
    assert found == {"study": None, "trial": None, "architecture": tiny.STUDENT} | measured.found()
    assert asked["batches"] == (1,)
    assert asked["calibration"] == "training rows"
    assert asked["pixels"].shape == (tiny.TRAIN - tiny.VALIDATION, 3, 8, 8)
    # those of the architectures, whatever weights
    sizes = {name: models.count_parameters(each) for name, each in asked["networks"].items()}
    assert sizes["teacher"] > sizes["student"] > 0


def test_a_study_is_its_winner(searched: Path, tmp_path: Path, asked: dict[str, Any]) -> None:
    base = database.connect(f"sqlite:///{searched / 'igkd.db'}", read_only=True)
    subject = timed_subject.of_winner(base, "tiny")
    base.close()
    assert subject.study == "tiny" and subject.number in (0, 1)
    assert (subject.shape, subject.classes) == ((3, 8, 8), 3)
    assert timed_pair.measure(subject, tmp_path)["architecture"] == tiny.STUDENT


def test_noise_calibrates_where_the_data_are_gone(
    study: spec.Study,
    tmp_path: Path,
    asked: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = study.model_copy(
        update={"data": study.data.model_copy(update={"path": str(tmp_path / "gone")})}
    )
    known = timed_subject.Subject(gone, gone.trial, shape=(3, 12, 10), classes=4)
    timed_pair.measure(known, tmp_path)
    assert asked["calibration"] == "noise"
    assert asked["pixels"].shape[1:] == (3, 12, 10) and asked["pixels"].dtype == np.uint8
    assert "int8 is calibrated on noise" in caplog.text
    # the size of arrays is known from nowhere else
    with pytest.raises(DataError, match="gone"):
        timed_pair.measure(timed_subject.Subject(gone, gone.trial, classes=4), tmp_path)


@pytest.mark.parametrize(
    ("data", "side"), [({"source": "folder", "image_size": 48}, 48), ({"source": "svhn"}, 32)]
)
def test_the_size_of_known_sources_is_known(
    study: spec.Study, data: dict[str, Any], side: int
) -> None:
    other = study.model_copy(update={"data": study.data.model_copy(update=data)})
    assert timed_pair._known_shape(timed_subject.Subject(other, other.trial)) == (3, side, side)


def test_figures_are_kept_with_the_study(searched: Path, tmp_path: Path) -> None:
    shutil.copy(searched / "igkd.db", tmp_path)
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    found = measured.found(study="tiny", trial=1)
    latency_table.keep(base, found["study"], found)
    assert latency_table.kept(base, "tiny") == found
    base.close()
