"""`igkd init` without its command: what is asked, what own data say, and what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from igkd_search import study_draft, study_file
from igkd_search.errors import DataError, StudyError


def drafted(source: str = "digits", name: str = "mine", **answers: Any) -> study_draft.Draft:
    nothing = dict.fromkeys(("path", "teacher", "removed_blocks", "trials", "epochs"))
    given = {**nothing, "sampler": "tpe", "pruner": "hyperband", **answers}
    return study_draft.draft(name, source=source, **given)


def test_own_arrays_are_counted(arrays: Path) -> None:
    found = drafted("arrays", path=arrays)
    assert found.found == {"classes": "3", "training images": "75"}
    assert f'path = "{arrays}"' in found.text and "chance is 0.33" in found.text


def test_a_path_that_no_study_file_can_hold_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/im\xffg"))
    folder.mkdir()
    with pytest.raises(DataError, match="a study file is UTF-8"):
        drafted("folder", path=folder)


def test_own_images_are_counted_and_measured(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.new("RGB", (40 + number, 50)).save(tmp_path / label / f"{number}.png")
    found = drafted("folder", path=tmp_path)
    assert found.found == {"classes": "2", "training images": "16", "image size": "32"}
    assert "image_size = 32" in found.text


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"source": "digit"}, "did you mean 'digits'"),
        ({"source": "arrays"}, "--source arrays: needs --path FOLDER"),
        ({"source": "digits", "path": Path("x")}, "--source digits: takes no --path"),
        ({"source": "folder", "path": Path("nowhere")}, "--path nowhere: no such folder"),
        ({"sampler": "tp"}, "search.sampler: unknown value 'tp'; did you mean 'tpe'?"),
        ({"teacher": "resnet19", "removed_blocks": 1}, "resnet19"),
        ({"removed_blocks": 40}, "removed_blocks = 40"),
    ],
)
def test_what_does_not_go_together_is_refused(answers: dict[str, Any], said: str) -> None:
    with pytest.raises((StudyError, DataError)) as caught:
        drafted(**answers)
    assert said in str(caught.value)


def test_another_teacher_gives_up_as_many_blocks_as_it_can() -> None:
    assert "removed_blocks = 5" in drafted(teacher="resnet18").text
    assert "removed_blocks = 0" in drafted(teacher="swin_t").text


@pytest.mark.parametrize("name", ["../x", "", "a b", "-x", "x" * 81])
def test_a_name_is_checked_as_in_a_study_file(name: str) -> None:
    with pytest.raises(StudyError, match="NAME: name = "):
        study_draft.check_name(name)


def test_questions_read_answers_and_know_what_suits(tmp_path: Path) -> None:
    asked = {question.key: question for question in study_draft.questions()}
    assert list(asked) == ["source", "path", "teacher", "removed_blocks", "trials", "epochs"]
    answers: dict[str, Any] = {"source": asked["source"].read("cifar10")}
    assert not asked["path"].applies(answers)
    assert asked["trials"].default(answers) == "100" and asked["epochs"].default(answers) == "20"
    assert asked["epochs"].default({"source": "fashion_mnist"}) == "100"
    assert asked["path"].applies({"source": "folder"})
    assert asked["path"].read(str(tmp_path)) == tmp_path
    for key, answer in [
        *(("source", "cifar"), ("path", f"{tmp_path}/x"), ("teacher", "mobilenet")),
        *(("removed_blocks", "-1"), ("trials", "0"), ("epochs", "many")),
    ]:
        with pytest.raises(StudyError):
            asked[key].read(answer)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    study_draft.write(tmp_path / "mine.toml", drafted())
    assert study_file.read_study(tmp_path / "mine.toml").name == "mine"
