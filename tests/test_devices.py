"""Which device computes, on how many threads, and what is asked of its hardware."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from igkd_search import devices
from igkd_search.errors import StudyError

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Three threads during a test, and afterwards as many as there were."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_device_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGKD_DEVICE", "cpu")
    assert devices.choose() == CPU
    monkeypatch.setenv("IGKD_DEVICE", "abacus")
    assert devices.choose("cpu") == CPU  # what is asked in the call goes before
    monkeypatch.delenv("IGKD_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose() == torch.device("cuda")


@pytest.mark.parametrize("mps", [True, False])
def test_without_a_gpu_of_nvidia_it_is_that_of_apple_or_the_cpu(
    monkeypatch: pytest.MonkeyPatch, mps: bool
) -> None:
    monkeypatch.delenv("IGKD_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.choose() == torch.device("mps" if mps else "cpu")


def test_a_device_that_is_none_is_refused_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IGKD_DEVICE", "abacus")
    with pytest.raises(
        StudyError, match=r"IGKD_DEVICE = abacus: .*allowed: cuda, cuda:N, mps, cpu"
    ):
        devices.choose()
    for name in ("slide-rule", "meta", "cpu:3", "cuda:", "CUDA"):
        with pytest.raises(StudyError, match=rf"--device = {name}: .*allowed: cuda, cuda:N"):
            devices.choose(name)


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_computes_in_bf16_where_its_hardware_does(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def is_supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    assert devices.has_bf16(torch.device("cuda", 1)) == supported
    assert asked == [False]
    assert not devices.has_bf16(CPU)
    assert not devices.has_bf16(torch.device("mps"))


def test_a_placed_model_is_channels_last() -> None:
    placed = devices.place(nn.Sequential(nn.Conv2d(3, 6, 3)), CPU)
    assert placed.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(
    ("side", "workers", "asked", "expected"),
    [
        (8, 1, None, 1),
        (16, 1, None, 1),
        (17, 1, None, 6),
        (32, 2, None, 3),
        (32, 4, None, 1),
        (32, 99, None, 1),
        (8, 1, "3", 3),
        (32, 2, "3", 3),
    ],
)
def test_cores_are_shared_and_small_images_take_one_thread_unless_told(
    side: int, workers: int, asked: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert devices.use_threads((3, side, side), workers) == expected == torch.get_num_threads()
    # who starts several workers tells each of them so
    monkeypatch.setenv("IGKD_WORKERS", str(workers))
    assert devices.use_threads((3, side, side)) == expected == torch.get_num_threads()


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("told", ["0", "-1", "two", ""])
def test_a_number_of_workers_that_is_none_is_refused(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("IGKD_WORKERS", told)
    with pytest.raises(StudyError, match=f"IGKD_WORKERS = {told}: must be how many workers"):
        devices.use_threads((3, 32, 32))


def test_cores_are_those_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert devices.cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert devices.cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),  # a core and a half keep two threads busy
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 8),
        ({}, 8),
    ],
)
def test_a_container_s_quota_counts(
    files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert devices.cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), True),
        (OSError(5, "Input/output error"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_is_the_machines_fault(error: Exception, failed: bool) -> None:
    assert devices.has_failed(error) is failed
