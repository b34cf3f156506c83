"""What a backward keeps is counted; what memory refuses is halved, and nothing else is."""

import gc
import logging
import mmap
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from igkd_search import memory

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def network() -> nn.Sequential:
    """Keeps its input (3 x 4 x 4) for the convolution and a mask or output (2 x 4 x 4) for ReLU."""
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))


def test_what_a_backward_keeps_is_counted_by_hand() -> None:
    # the image for the convolution; the ReLU's output, which the linear layer reads, only once
    assert memory.backward_bytes(network(), torch.zeros(1, 3, 4, 4)) == (3 + 2) * 4 * 4 * 4


def test_counting_leaves_nothing_behind() -> None:
    seen = list[weakref.ref[torch.Tensor]]()
    model = network()
    model[1].register_forward_hook(lambda module, given, output: seen.append(weakref.ref(output)))
    memory.backward_bytes(model, torch.zeros(1, 3, 4, 4))
    gc.collect()
    assert [found() for found in seen] == [None]


def test_more_images_keep_more() -> None:
    model = network().requires_grad_(False)
    one, two = (memory.backward_bytes(model, torch.zeros(n, 3, 4, 4)) for n in (1, 2))
    assert two == 2 * one


@pytest.mark.parametrize(
    ("free", "expected"), [(10**9, 50), (320 * 2 * 50, 50), (320 * 2 * 20, 20), (0, 1)]
)
def test_a_batch_is_the_fastest_that_fits_into_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, expected: int
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    model = network().requires_grad_(False)
    assert memory.fitting_batch(model, torch.zeros(1, 3, 4, 4), fastest=50) == expected


@pytest.mark.parametrize(("size", "expected"), [(0, True), (50, True), (51, False)])
def test_what_is_kept_leaves_half_of_what_is_free_to_the_work(
    monkeypatch: pytest.MonkeyPatch, size: int, expected: bool
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100)
    assert memory.holds(CPU, size) is expected


def test_there_is_free_memory_on_the_cpu() -> None:
    assert memory.free_bytes(CPU) > 10**6


def test_a_batch_is_halved_for_good_until_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    asked = list[int]()

    def work(size: int) -> str:
        asked.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    batch = memory.Batch(20)
    assert batch.attempt(work) == batch.attempt(work) == "done"
    assert asked == [20, 10, 5, 2, 2]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "20 images" in caplog.text


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("memory format"), OSError(28, "")])
def test_what_is_not_about_memory_is_raised_at_once(error: Exception) -> None:
    asked = list[int]()

    def work(size: int) -> None:
        asked.append(size)
        raise error

    with pytest.raises(type(error)):
        memory.Batch(8).attempt(work)
    assert asked == [8]


def test_what_one_image_cannot_have_is_raised() -> None:
    def work(size: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        memory.Batch(8).attempt(work)


def test_the_allocator_of_the_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.is_out_of_memory(caught.value)
    for text in ("unsupported memory format option", "could not create a primitive descriptor"):
        assert not memory.is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "could not create a primitive",  # oneDNN, seen under a limit of address space
    ],
)
def test_allocators_without_a_class_of_their_own_are_recognised(text: str) -> None:
    assert memory.is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("tried to allocate 20 GiB"), "tried to allocate 20 GiB"),
        (MemoryError(), "no memory is left"),
        (RuntimeError("could not create a primitive"), "a convolution found no memory (could not "),
    ],
)
def test_what_was_asked_is_said_in_words(error: BaseException, said: str) -> None:
    assert memory.what_was_asked(error).startswith(said)


GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, sys, torch
from igkd_search import memory
print(memory.keep_freed())
torch.zeros(2**28, dtype=torch.uint8)  # leaves a gap in which those below have room
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    torch.zeros(2**26, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not GLIBC, reason="other C libraries are left as they are")
@pytest.mark.parametrize(
    ("decided", "kept"),
    [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False), ({"GLIBC_TUNABLES": ""}, False)],
)
def test_freed_memory_is_used_again_unless_the_user_decides(
    decided: dict[str, str], kept: bool
) -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    said = subprocess.run(
        command, env=plain | decided, capture_output=True, text=True, check=True, cwd=ROOT
    )
    done, faults = said.stdout.split()
    assert done == str(kept)
    pages = 2 * 2**26 // mmap.PAGESIZE
    assert int(faults) < pages / 10 if kept else int(faults) > pages / 2


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed()


@pytest.mark.skipif(not GLIBC, reason="other C libraries are left as they are")
def test_what_was_freed_is_returned_to_the_system() -> None:
    lines = (
        "import psutil, torch",
        "from igkd_search import memory",
        "assert memory.keep_freed()",
        "held = [torch.ones(2**20) for _ in range(64)]",
        "full = psutil.Process().memory_info().rss",
        "del held",
        "memory.trim()",
        "assert full - psutil.Process().memory_info().rss > 128 * 2**20",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
