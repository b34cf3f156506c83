"""A teacher's file is read whatever wrapped it, refused by name of what is wrong, and never run."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from igkd_search import models, spec, weight_files
from igkd_search.errors import MaterialError, StudyError
from igkd_search.vault import Vault, file_digest
from tests import tiny


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The state dict of a tiny teacher."""
    torch.manual_seed(0)
    found = models.build_teacher("mobilenet_v2", tiny.CLASSES, tiny.WIDTH).state_dict()
    return {key: value.clone() for key, value in found.items()}


def network() -> nn.Module:
    torch.manual_seed(1)
    return models.build_teacher("mobilenet_v2", tiny.CLASSES, tiny.WIDTH)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


# --- what is read

WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"epoch": 90, "best": 0.9, "state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": [0.1]}},
    "model": lambda state: {"model": OrderedDict(state), "args": None},
    "DataParallel": prefixed,
    "both": lambda state: {"state_dict": prefixed(state)},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_is_found_in_its_wrapping(
    state: dict[str, Tensor], tmp_path: Path, wrap: Callable[[Any], Any], old: bool
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not old)
    assert same(weight_files.read(path), state)
    found = network()
    weight_files.load(found, path)
    assert same(found.state_dict(), state)


def test_a_name_that_only_begins_like_the_prefix_is_kept(tmp_path: Path) -> None:
    torch.save({"module.a": torch.zeros(2), "head": torch.ones(1)}, tmp_path / "mine.pt")
    assert set(weight_files.read(tmp_path / "mine.pt")) == {"module.a", "head"}


def test_a_converted_file_is_made_once_and_a_safetensors_file_is_itself(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    store = Vault(tmp_path / "vault")
    shared = {**state, "extra": state["classifier.1.bias"], "double": torch.zeros(2).double()}
    torch.save(shared, tmp_path / "mine.pt")
    found = weight_files.as_safetensors(tmp_path / "mine.pt", store)
    again = load_file(found)
    assert same({key: again[key] for key in state}, state)
    assert again["double"].dtype == torch.float32
    assert weight_files.as_safetensors(tmp_path / "mine.pt", Vault(store.root)) == found
    save_file(state, tmp_path / "mine.safetensors")
    assert weight_files.as_safetensors(tmp_path / "mine.safetensors", store) == (
        tmp_path / "mine.safetensors"
    )


# --- what is refused


class Trap:
    """Unpickled, it would leave a file: proof that code ran."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"state_dict": {"a": trap}}])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Any], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(Trap()), "mine.pt")
    Path("bare.bin").write_bytes(pickle.dumps(wrap(Trap()), protocol=2))
    for name in ("mine.pt", "bare.bin"):
        with pytest.raises(MaterialError) as caught:
            weight_files.read(Path(name))
        said = str(caught.value)
        assert said.startswith(f"{name}: holds code or other objects beside tensors")
        assert "torch.save(model.state_dict()" in said and "safetensors" in said
    assert not Path("ran").exists()


def test_a_whole_network_in_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "mine.pt")
    with pytest.raises(MaterialError, match="holds code or other objects"):
        weight_files.read(tmp_path / "mine.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "holds list; wanted is a state dict"),
        (torch.zeros(1), "holds Tensor; wanted"),
        ({}, "holds nothing; wanted"),
        ({"epoch": 3, "weights": {}}, "its entry 'epoch' is int; wanted"),
        ({"state_dict": {"model": {"a": torch.zeros(1)}}}, "its entry 'model' is dict; wanted"),
        ({3: torch.zeros(1)}, "its entry 3 is Tensor; wanted"),
    ],
)
def test_what_is_no_state_dict_is_said(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(MaterialError) as caught:
        weight_files.read(tmp_path / "mine.pt")
    assert f"mine.pt: {said}" in str(caught.value)
    assert "plain or under one of state_dict, model_state_dict, model" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04 no archive", b"\x80\x02"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(content)
    with pytest.raises(MaterialError, match=r"mine\.pt: (not a readable state dict|holds code)"):
        weight_files.read(path)


@pytest.mark.parametrize("name", ["mine.ckpt", "mine.onnx", "mine"])
def test_another_kind_of_file_is_refused_with_the_kinds_there_are(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    suffix = path.suffix or "nothing"
    with pytest.raises(MaterialError) as caught:
        weight_files.check(spec.Teacher(checkpoint=str(path)))
    assert f"its name ends in '{suffix}'; allowed are .safetensors, .pt, .pth, .bin" in str(
        caught.value
    )


def test_a_file_is_checked_by_name_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    with pytest.raises(StudyError, match=r"teacher\.checkpoint: .*mine\.pt: no such file"):
        weight_files.check(spec.Teacher(checkpoint=str(path)))
    path.write_bytes(b"weights")
    assert weight_files.check(spec.Teacher(checkpoint=str(path))) == path
    right, wrong = file_digest(path), "0" * 64
    assert weight_files.check(spec.Teacher(checkpoint=str(path), checkpoint_sha256=right)) == path
    with pytest.raises(MaterialError, match=f"its sha256 is {right}, not {wrong}"):
        weight_files.check(spec.Teacher(checkpoint=str(path), checkpoint_sha256=wrong))


# --- keys


def transpose(found: dict[str, Tensor]) -> list[str]:
    found["classifier.1.weight"] = found["classifier.1.weight"].T.contiguous()
    return [r"classifier.1.weight", "(1280, 3)", "(3, 1280)"]


def lose(found: dict[str, Tensor]) -> list[str]:
    del found["features.0.1.weight"], found["classifier.1.bias"]
    return ["features.0.1.weight", "absent in the file", "(8,)"]


def lose_a_number(found: dict[str, Tensor]) -> list[str]:
    del found["features.0.1.num_batches_tracked"]
    return ["features.0.1.num_batches_tracked", "absent in the file", "() int64 in the arch"]


def add(found: dict[str, Tensor]) -> list[str]:
    found["classifier.2.bias"] = torch.zeros(7)
    return ["classifier.2.bias", "(7,) in the file", "absent in the architecture"]


def quantise(found: dict[str, Tensor]) -> list[str]:
    found["classifier.1.bias"] = found["classifier.1.bias"].to(torch.int8)
    return ["classifier.1.bias", "(3,) int8 in the file", "(3,) in the architecture"]


@pytest.mark.parametrize("change", [transpose, lose, lose_a_number, add, quantise])
@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pt"])
def test_the_first_key_that_does_not_fit_is_named(
    state: dict[str, Tensor],
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], list[str]],
    name: str,
) -> None:
    found, path = dict(state), tmp_path / name
    expected = change(found)
    save_file(found, path) if path.suffix == ".safetensors" else torch.save(found, path)
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MaterialError) as caught:
        weight_files.load(model, path)
    for words in [str(path), *expected]:
        assert words in str(caught.value)
    assert same(model.state_dict(), before)


def test_weights_of_another_architecture_are_refused_at_their_first_key(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(MaterialError, match=r"conv1\.weight is absent in the file, but \(64, 3"):
        weight_files.load(models.build_teacher("resnet18", 3), tmp_path / "mine.safetensors")
