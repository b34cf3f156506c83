"""Law 9: the teacher learns the fit rows alone; killed it goes on; another's file is checked."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from igkd_search import datasets, fitting, materials, memory, spec, teacher
from igkd_search.errors import MaterialError, StudyError
from igkd_search.vault import Vault, file_digest
from tests import tiny

CPU = torch.device("cpu")
chance_level = teacher.chance_level


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """No teacher here is at chance: two epochs teach little, and these tests ask what they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "chance_level", lambda labels: (0.0, -1.0))
        yield


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


# --- chance


@pytest.mark.parametrize(
    ("labels", "chance", "bound"),
    [
        ([0, 1] * 50, 0.5, 0.6),  # sd = sqrt(0.25 / 100)
        ([0] * 90 + [1] * 10, 0.9, 0.96),
        ([0, 1, 2, 3] * 3, 0.25, 0.5),
        ([5] * 7, 1.0, 1.0),
        ([0, 1], 0.5, 1.2071),
    ],
)
def test_chance_is_the_most_frequent_class_and_two_standard_errors(
    labels: list[int], chance: float, bound: float
) -> None:
    assert chance_level(np.array(labels)) == pytest.approx((chance, bound), abs=1e-4)


def test_a_teacher_at_chance_level_is_refused_and_one_just_better_is_not(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracy = trained[0].accuracy
    monkeypatch.setattr(teacher, "chance_level", lambda labels: (0.25, accuracy))
    with pytest.raises(MaterialError) as caught:
        teacher.obtain(options(), data, trained[1], CPU)
    said = str(caught.value)
    assert f"the teacher reaches {accuracy:.1%} on {tiny.VALIDATION} validation images" in said
    assert f"gives 25.0%: it must exceed {accuracy:.1%} to be better than chance" in said
    for remedy in ("teacher.epochs", "teacher.learning_rate", "data.validation"):
        assert remedy in said
    monkeypatch.setattr(teacher, "chance_level", lambda labels: (0.25, accuracy - 1e-6))
    teacher.obtain(options(), data, trained[1], CPU)


def test_too_few_validation_images_are_said_to_be_too_few(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher, "chance_level", chance_level)
    few = replace(data, validation_rows=data.validation_rows[:2], fingerprint="few")
    with pytest.raises(MaterialError, match=r"on so few no accuracy .* data\.validation"):
        teacher.obtain(options(), few, trained[1], CPU)


def test_the_tiny_teacher_is_better_than_chance(
    shared: materials.Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = shared.data.labels[shared.data.validation_rows]
    assert shared.teacher.accuracy > chance_level(labels)[1]


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


@pytest.mark.parametrize("name", ["mine.pt", "mine.pth", "mine.bin"])
def test_a_state_dict_is_converted_once_into_the_vault(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], tmp_path: Path, name: str
) -> None:
    torch.save(weights(trained[0]), tmp_path / name)
    store = Vault(tmp_path / "vault")
    asked = options(checkpoint=str(tmp_path / name), checkpoint_sha256=file_digest(tmp_path / name))
    found = teacher.obtain(asked, data, store, CPU)
    assert found.weights.name == "teacher.safetensors"
    assert found.weights.is_relative_to(store.root)
    assert same(weights(found), weights(trained[0]))
    assert (found.accuracy, found.digest) == (trained[0].accuracy, file_digest(found.weights))
    made = found.weights.stat().st_mtime_ns
    assert teacher.obtain(asked, data, store, CPU).weights.stat().st_mtime_ns == made


def test_half_precision_is_converted_and_said(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in weights(trained[0]).items()
    }
    torch.save(half, tmp_path / "half.pt")
    (tmp_path / "half.safetensors").write_bytes(save(half))
    for name in ("half.pt", "half.safetensors"):
        path = tmp_path / name
        found = teacher.obtain(options(checkpoint=str(path)), data, Vault(tmp_path / "v"), CPU)
        assert f"{path}: holds float16; converted to float32" in caplog.text
        state = found.network.state_dict()
        assert {str(value.dtype) for value in state.values()} == {"torch.float32", "torch.int64"}
        assert same(state, {k: v.float() if v.dtype == torch.half else v for k, v in half.items()})


def test_a_misfit_of_a_state_dict_names_the_users_file(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], tmp_path: Path
) -> None:
    found = weights(trained[0])
    del found["features.0.1.weight"]
    torch.save(found, tmp_path / "mine.pt")
    with pytest.raises(MaterialError) as caught:
        asked = options(checkpoint=str(tmp_path / "mine.pt"))
        teacher.obtain(asked, data, Vault(tmp_path / "vault"), CPU)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.pt'}: features.0.1.weight is absent in")


@pytest.mark.parametrize("content", [b"", b"half a file", b"\x80\x04pickle"])
def test_a_file_that_is_no_safetensors_is_named(
    data: datasets.Dataset, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    with pytest.raises(MaterialError, match=r"mine\.safetensors: not a readable safetensors file"):
        teacher.obtain(options(checkpoint=str(path)), data, Vault(tmp_path / "vault"), CPU)


# --- one teacher for all hosts


@dataclass
class Shelf:
    """A keeper in memory, whose study may have begun."""

    kept: dict[str, bytes] = field(default_factory=dict)
    first: bytes | None = None

    def begun(self) -> bytes | None:
        return self.first

    def fetch(self, recipe: str) -> bytes | None:
        return self.kept.get(recipe)

    def keep(self, recipe: str, weights: bytes) -> bytes:
        return self.kept.setdefault(recipe, weights)


def test_what_one_host_trained_is_not_trained_by_another(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "fit", refuse)
    shelf = Shelf()
    teacher.obtain(options(), data, trained[1], CPU, shelf)
    assert list(shelf.kept.values()) == [trained[0].weights.read_bytes()]
    for _ in range(2):
        found = teacher.obtain(options(), data, Vault(tmp_path), CPU, shelf)
        assert (found.digest, found.accuracy) == (trained[0].digest, trained[0].accuracy)
        assert found.weights.is_relative_to(tmp_path)
        monkeypatch.setattr(shelf, "fetch", refuse)  # the second time it is in the vault
    with pytest.raises(AssertionError, match="trained again"):
        teacher.obtain(options(seed=9), data, Vault(tmp_path), CPU, Shelf())


def test_of_two_hosts_that_trained_at_once_the_first_to_keep_is_obeyed(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], tmp_path: Path
) -> None:
    other = teacher.obtain(options(seed=5), data, Vault(tmp_path / "other"), CPU)
    shelf, late = Shelf(), Vault(tmp_path / "late")
    teacher.obtain(options(), data, late, CPU)
    teacher.obtain(options(), data, late, CPU, shelf)  # its recipe
    (recipe,) = shelf.kept
    shelf.kept[recipe] = other.weights.read_bytes()
    found = teacher.obtain(options(), data, late, CPU, shelf)
    assert (found.digest, found.accuracy) == (other.digest, other.accuracy)
    assert same(found.network.state_dict(), weights(other))


def test_a_teacher_that_fails_is_not_kept(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault]
) -> None:
    shelf = Shelf()
    with pytest.raises(MaterialError):
        teacher.obtain(options(minimum_accuracy=1.0), data, trained[1], CPU, shelf)
    assert shelf.kept == {}


def test_a_checkpoint_that_is_not_on_this_host_comes_from_the_keeper(
    data: datasets.Dataset, trained: tuple[teacher.Teacher, Vault], file: Path, tmp_path: Path
) -> None:
    asked, shelf = options(checkpoint=str(file)), Shelf()
    assert teacher.obtain(asked, data, Vault(tmp_path / "one"), CPU, shelf).weights == file
    assert list(shelf.kept.values()) == [file.read_bytes()]
    file.unlink()
    for attempt in (
        lambda: teacher.check(asked, shelf),
        lambda: teacher.obtain(asked, data, Vault(tmp_path / "two"), CPU, shelf),
    ):
        with pytest.raises(StudyError, match="no such file"):
            attempt()
    begun = Shelf(first=trained[0].weights.read_bytes())
    teacher.check(asked, begun)
    found = teacher.obtain(asked, data, Vault(tmp_path / "two"), CPU, begun)
    assert (found.digest, found.accuracy) == (trained[0].digest, trained[0].accuracy)
    assert begun.kept == {}


def test_an_own_architecture_is_trained_by_its_name_and_origin(
    data: datasets.Dataset, tmp_path: Path, own: Callable[..., None]
) -> None:
    asked = spec.Teacher(epochs=1, batch_size=12)
    own(mine="tests.own_networks:blocks")
    mine = asked.model_copy(update={"architecture": "mine"})
    one = teacher.obtain(mine, data, Vault(tmp_path), CPU)
    assert one.network(torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).shape == (1, tiny.CLASSES)
    assert teacher.obtain(mine, data, Vault(tmp_path), CPU).weights == one.weights
    own(mine="tests.own_networks:whole")
    assert teacher.obtain(mine, data, Vault(tmp_path), CPU).weights != one.weights


def test_a_teacher_whose_images_stream_is_the_same_teacher(
    data: datasets.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "igkd_search")
    asked = options(cutout=3, alternating_flip=True, label_smoothing=0.1)
    resident = teacher.obtain(asked, data, Vault(tmp_path / "resident"), CPU)
    assert "stream" not in caplog.text
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    streamed = teacher.obtain(asked, data, Vault(tmp_path / "streamed"), CPU)
    assert "images do not fit into cpu: they stream" in caplog.text
    assert same(weights(streamed), weights(resident))
    assert streamed.accuracy == resident.accuracy
    one, other = (
        json.loads((found.weights.parent / "records.json").read_text())
        for found in (resident, streamed)
    )
    for record in (*one, *other):
        del record["seconds"], record["images_per_s"]
    assert one == other and len(one) == 2


@pytest.mark.parametrize(
    "change", [{"cutout": 3}, {"alternating_flip": True}, {"label_smoothing": 0.1}]
)
def test_each_field_of_a_teachers_recipe_is_another_teacher(
    data: datasets.Dataset,
    trained: tuple[teacher.Teacher, Vault],
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    found = teacher.obtain(options(**change), data, trained[1], CPU)
    assert found.weights != trained[0].weights
    assert not same(weights(found), weights(trained[0]))
