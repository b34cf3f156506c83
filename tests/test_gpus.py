"""Which GPUs a name means: under what the environment leaves, and as the driver lists them."""

import subprocess

import pytest

from igkd_search import gpus
from igkd_search.errors import StudyError

WHOLE = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaaaaaa-0000-0000-0000-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbbbbbb-0000-0000-0000-000000000000)
"""
SLICED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaaaaaa-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-11111111-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  1: (UUID: MIG-22222222-0000-0000-0000-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbbbbbb-0000-0000-0000-000000000000)
"""
FIRST, SECOND = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "ab")
SLICES = tuple(f"MIG-{digit * 8}-0000-0000-0000-000000000000" for digit in "12")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("0", ("0",)),
        ("3, 01", ("3", "1")),
        (f"{FIRST},2", (FIRST, "2")),
        ("GPU-aaaaaaaa", ("GPU-aaaaaaaa",)),
        (SLICES[0], (SLICES[0],)),
        ("MIG-GPU-aaaaaaaa-0000/7/0", ("MIG-GPU-aaaaaaaa-0000/7/0",)),
    ],
)
def test_names_are_taken_as_they_are(asked: str, expected: tuple[str, ...]) -> None:
    assert gpus.named(asked, {}) == expected


def test_all_are_those_that_the_driver_lists_slices_in_place_of_the_gpu_they_are_of() -> None:
    assert gpus.named("all", {}, lambda: WHOLE) == (FIRST, SECOND)
    assert gpus.named("all", {}, lambda: SLICED) == (*SLICES, SECOND)


def test_what_is_visible_is_what_there_is() -> None:
    visible = {gpus.VISIBLE: f"4,{FIRST}"}
    assert gpus.named("all", visible) == ("4", FIRST)
    assert gpus.named("1,0", visible) == (FIRST, "4")
    with pytest.raises(StudyError, match=r"no GPU 4, since CUDA_VISIBLE_DEVICES = 4,GPU-a.* 2, co"):
        gpus.named("4", visible)
    with pytest.raises(StudyError, match=r"--gpus all: there is none here"):
        gpus.named("all", {gpus.VISIBLE: ""})


@pytest.mark.parametrize("asked", ["cuda:0", "0;1", "-1", "GPU-", "0,one", "1.5", "all,0"])
def test_what_is_no_name_is_refused_with_those_that_are(asked: str) -> None:
    with pytest.raises(
        StudyError, match=r"--gpus .*: '.*' is no GPU; allowed: indexes \(0,1\), UU"
    ):
        gpus.named(asked, {})


def test_nothing_and_twice_the_same_are_refused() -> None:
    with pytest.raises(StudyError, match=r"--gpus ' , ': names no GPU; allowed"):
        gpus.named(" , ", {})
    with pytest.raises(StudyError, match=r"0 is named twice; .* --workers-per-gpu"):
        gpus.named("0,1,00", {})
    with pytest.raises(StudyError, match="named twice"):
        gpus.named(f"0,{FIRST}", {gpus.VISIBLE: FIRST})


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        subprocess.CalledProcessError(9, "nvidia-smi", "No devices were found\n"),
    ],
)
def test_without_a_driver_all_is_refused(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(StudyError, match=r"--gpus all: nvidia-smi does not say .*\(.*No .*; name"):
        gpus.named("all", {})


def test_a_process_sees_one_gpu_in_the_order_of_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    told = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpus.environment_of("1") == told
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert gpus.environment_of("1")["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
