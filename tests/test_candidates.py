"""Models before the test part: each answers from a folder of its own; what is shipped is made once.

Whole final trainings are in test_final.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from igkd_search import candidates, deployment, faithfulness, held_out, runs, spec, timings
from igkd_search.arms import Arm
from igkd_search.workshop import Plan, Workshop
from tests import tiny


@pytest.fixture(scope="module")
def shop(study: spec.Study, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One trained student of one epoch."""
    folder = tmp_path_factory.mktemp("candidates")
    exported = tiny.exported(study)
    trial = exported.trial.model_copy(update={"epochs": 1})
    plan = Plan(exported.model_copy(update={"trial": trial}), (Arm("none", "none"),))
    found = Workshop(plan, folder, home, torch.device("cpu"))
    runs.train_all([found.first], found.bench_of)
    return found


def part_of(shop: Workshop) -> held_out.Part:
    data = shop.shared.data
    reader = shop.bench_of(shop.first).stock.reader
    return held_out.Part(np.array(data.images), torch.from_numpy(data.labels), reader)


def test_every_model_has_a_folder_of_its_own(shop: Workshop) -> None:
    witness = candidates.Witness(shop)
    student = candidates.student(shop, shop.first, witness)
    others = [make(shop) for make in (candidates.teacher, candidates.exact, candidates.quantised)]
    folders = {each.folder for each in (student, *others)}
    assert len(folders) == 4 and all(folder.is_dir() for folder in folders)
    assert student.folder == shop.first.folder


def test_the_student_is_asked_where_it_looks_and_the_teacher_once_for_all(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    draw_maps, part = faithfulness.draw_maps, part_of(shop)

    def noted(model: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        drawn.append(model)
        return draw_maps(model, *arguments, **options)

    monkeypatch.setattr(faithfulness, "draw_maps", noted)
    witness = candidates.Witness(shop)
    student = candidates.student(shop, shop.first, witness)
    first, again = (student.more(part)["faithfulness"] for _ in range(2))
    assert first == again and first["images"] == candidates.EXPLAINED
    of_teacher = [model is shop.shared.teacher.network for model in drawn]
    assert of_teacher == [True, False, False], "each time the student's alone is drawn anew"


def test_what_is_shipped_is_exported_and_timed_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def write(student: Any, *about: Any, origin: Any) -> dict[str, Any]:
        made.append("files")
        for name in (deployment.FP32, deployment.INT8):
            (about[-1] / name).write_bytes(b"")
        return {"onnx": dict(origin), "int8": {}}

    def measure(networks: Any, *about: Any, **options: Any) -> dict[str, Any]:
        made.append("times")
        assert set(networks) == {"teacher", "student"} and "compiled" not in options["engines"]
        return {"rows": [], "skipped": []}

    monkeypatch.setattr(deployment, "write", write)
    monkeypatch.setattr(timings, "measure", measure)
    files = [candidates.deployed(shop) for _ in range(2)]
    times = [candidates.timed(shop) for _ in range(2)]
    assert made == ["files", "times"]
    assert files[0] == files[1] and times[0] == times[1]
    assert files[0]["onnx"] == {"study": "tiny", "arm": "kd+ig"}
    assert [each["engine"] for each in times[0]["skipped"]] == ["compiled"]
