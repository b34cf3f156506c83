"""Law 9: the teacher learns the fit rows alone; killed it goes on; another's file is checked."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from igkd_search import datasets, fitting, materials, models, spec, teacher
from igkd_search.errors import MaterialError, StudyError
from igkd_search.vault import Vault, file_digest
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(arrays: Path) -> datasets.Dataset:
    return datasets.load(tiny.study(arrays).data, arrays)


def options(**changes: Any) -> spec.Teacher:
    plain = {"width": tiny.WIDTH, "epochs": 2, "batch_size": 12, "learning_rate": 0.03, "seed": 4}
    return spec.Teacher.model_validate({**plain, **changes})


def weights(found: teacher.Teacher) -> dict[str, Tensor]:
    return load_file(found.weights)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def trained(
    data: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[teacher.Teacher, Vault]:
    """An uninterrupted teacher of two epochs, and where it lies."""
    store = Vault(tmp_path_factory.mktemp("vault"))
    return teacher.obtain(options(), data, store, CPU), store


def refuse(*arguments: object, **options: object) -> Iterator[fitting.EpochRecord]:
    raise AssertionError("trained again")


# --- law 9


@pytest.mark.parametrize("poisoned", ["images", "labels"])
def test_validation_rows_do_not_reach_the_weights(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], tmp_path: Path, poisoned: str
) -> None:
    images, labels = data.images.copy(), data.labels.copy()
    if poisoned == "images":
        images[data.validation_rows] = 255 - images[data.validation_rows]
    else:
        labels[data.validation_rows] = (labels[data.validation_rows] + 1) % tiny.CLASSES
    # another fingerprint, or the vault of a real run would give the old teacher
    other = replace(data, images=images, labels=labels, fingerprint="poisoned")
    found = teacher.obtain(options(), other, Vault(tmp_path), CPU)
    assert same(weights(found), weights(trained[0]))


def test_fit_rows_do_reach_the_weights(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], tmp_path: Path
) -> None:
    images = data.images.copy()
    images[data.fit_rows[0]] = 255 - images[data.fit_rows[0]]
    other = replace(data, images=images, fingerprint="changed")
    found = teacher.obtain(options(), other, Vault(tmp_path), CPU)
    assert not same(weights(found), weights(trained[0]))


def test_the_stated_accuracy_is_that_of_the_validation_rows(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault]
) -> None:
    found, rows = trained[0], data.validation_rows
    unit = torch.from_numpy(data.images[rows]).double() / 255
    mean, sd = (torch.from_numpy(v).double()[:, None, None] for v in (data.mean, data.sd))
    right = [
        int(found.network(((image - mean) / sd).float()[None]).argmax()) == label
        for image, label in zip(unit, data.labels[rows], strict=True)
    ]
    assert found.accuracy == pytest.approx(np.mean(right))
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())


def test_the_tiny_teacher_learns(shared: materials.Materials) -> None:
    assert shared.teacher.accuracy > 0.5


# --- built once


def test_a_teacher_is_trained_once(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, store = trained
    monkeypatch.setattr(fitting, "fit", refuse)
    for shelf in (store, Vault(store.root)):
        again = teacher.obtain(options(), data, shelf, CPU)
        assert (again.weights, again.digest) == (first.weights, first.digest)
        assert again.accuracy == first.accuracy
        assert same(again.network.state_dict(), first.network.state_dict())
    # what is asked of the result is no other teacher
    teacher.obtain(options(minimum_accuracy=0.01), data, store, CPU)


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"epochs": 1}, {"learning_rate": 0.02}, {"label_smoothing": 0.1}]
)
def test_other_options_are_another_teacher(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], change: dict[str, Any]
) -> None:
    first, store = trained
    other = teacher.obtain(options(**change), data, store, CPU)
    assert other.weights != first.weights
    assert other.digest != first.digest == file_digest(first.weights)


def test_the_records_are_kept_and_the_checkpoints_are_not(
    trained: tuple[teacher.Teacher, Vault],
) -> None:
    folder = trained[0].weights.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "records.json",
        "teacher.safetensors",
    ]
    records = json.loads((folder / "records.json").read_text())
    assert [record["epoch"] for record in records] == [1, 2]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_killed_training_goes_on_to_the_same_weights(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
) -> None:
    whole = fitting.fit
    yielded: list[int] = []

    def killed(*arguments: Any, **named: Any) -> Iterator[fitting.EpochRecord]:
        for record in whole(*arguments, **named):
            yield record
            if record.epoch == epochs:
                raise KeyboardInterrupt

    def counted(*arguments: Any, **named: Any) -> Iterator[fitting.EpochRecord]:
        assert named["resume_from"].name == f"epoch-{epochs:04d}.safetensors"
        for record in whole(*arguments, **named):
            yielded.append(record.epoch)
            yield record

    monkeypatch.setattr(fitting, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        teacher.obtain(options(), data, Vault(tmp_path), CPU)
    monkeypatch.setattr(fitting, "fit", counted)
    found = teacher.obtain(options(), data, Vault(tmp_path), CPU)
    assert yielded == [1, 2]
    assert same(weights(found), weights(trained[0]))
    records = json.loads((found.weights.parent / "records.json").read_text())
    assert [record["epoch"] for record in records] == [1, 2]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_diverged_training_leaves_no_checkpoint(data: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match=r"training the teacher: diverged.*learning_rate"):
        teacher.obtain(options(learning_rate=1e9, epochs=4), data, Vault(tmp_path), CPU)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_poor_teacher_says_what_to_change(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault]
) -> None:
    with pytest.raises(MaterialError, match=r"below teacher\.minimum_accuracy = 100\.0%") as caught:
        teacher.obtain(options(minimum_accuracy=1.0), data, trained[1], CPU)
    for remedy in ("teacher.epochs", "teacher.learning_rate", "lower the minimum"):
        assert remedy in str(caught.value)


# --- a teacher from a file


@pytest.fixture
def file(trained: tuple[teacher.Teacher, Vault], tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(trained[0].weights.read_bytes())
    return path


@pytest.mark.parametrize("stated", [True, False])
def test_a_teacher_is_read_from_a_file(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    stated: bool,
) -> None:
    monkeypatch.setattr(fitting, "fit", refuse)
    digest = file_digest(file) if stated else None
    asked = options(checkpoint=str(file), checkpoint_sha256=digest)
    found = teacher.obtain(asked, data, Vault(file.parent / "vault"), CPU)
    assert (found.weights, found.digest) == (file, trained[0].digest)
    assert found.accuracy == trained[0].accuracy
    assert same(found.network.state_dict(), trained[0].network.state_dict())
    assert not (file.parent / "vault").exists()


def test_a_file_of_another_teacher_is_refused(data: datasets.Dataset, file: Path) -> None:
    asked = options(checkpoint=str(file), checkpoint_sha256="0" * 64)
    with pytest.raises(MaterialError, match=f"{file_digest(file)}, not {'0' * 64}"):
        teacher.obtain(asked, data, Vault(file.parent / "vault"), CPU)


def test_a_missing_file_is_a_fault_of_the_study(data: datasets.Dataset, tmp_path: Path) -> None:
    asked = options(checkpoint=str(tmp_path / "absent.safetensors"))
    with pytest.raises(StudyError, match=r"teacher\.checkpoint: .*absent\.safetensors"):
        teacher.obtain(asked, data, Vault(tmp_path), CPU)


def test_a_file_from_elsewhere_is_held_to_the_minimum(data: datasets.Dataset, file: Path) -> None:
    asked = options(checkpoint=str(file), minimum_accuracy=1.0)
    with pytest.raises(MaterialError, match="minimum_accuracy"):
        teacher.obtain(asked, data, Vault(file.parent / "vault"), CPU)


def transpose(found: dict[str, Tensor]) -> list[str]:
    found["classifier.1.weight"] = found["classifier.1.weight"].T.contiguous()
    return [r"classifier.1.weight", "(1280, 3)", "(3, 1280)"]


def lose(found: dict[str, Tensor]) -> list[str]:
    del found["features.0.1.weight"], found["classifier.1.bias"]
    return ["features.0.1.weight", "absent in the file", "(8,)"]


def add(found: dict[str, Tensor]) -> list[str]:
    found["classifier.2.bias"] = torch.zeros(7)
    return ["classifier.2.bias", "(7,) in the file", "absent in the architecture"]


@pytest.mark.parametrize("change", [transpose, lose, add])
def test_the_first_key_that_does_not_fit_is_named(
    file: Path, change: Callable[[dict[str, Tensor]], list[str]]
) -> None:
    found = load_file(file)
    expected = change(found)
    save_file(found, file)
    network = models.build_teacher("mobilenet_v2", tiny.CLASSES, tiny.WIDTH)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(MaterialError) as caught:
        teacher.load_weights(network, file)
    for words in [str(file), *expected]:
        assert words in str(caught.value)
    assert same(network.state_dict(), before)


@pytest.mark.parametrize("content", [b"", b"half a file", b"\x80\x04pickle"])
def test_a_file_that_is_no_safetensors_is_named(
    data: datasets.Dataset, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    with pytest.raises(MaterialError, match=r"mine\.safetensors: not a readable safetensors file"):
        teacher.obtain(options(checkpoint=str(path)), data, Vault(tmp_path / "vault"), CPU)
