"""Laws of the timings: all engines in turn, on pixels, and what cannot run is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igkd_search import deployment, devices, latency, sources, timings
from igkd_search.errors import MaterialError
from tests import tiny

MEAN, SD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)


class Net(nn.Module):
    """Two layers, quickly exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3 * tiny.SIZE**2, width), nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        logits: Tensor = self.second(self.first(images.flatten(1)))
        return logits


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"teacher": Net(64), "student": Net(8)}


@pytest.fixture(scope="module")
def files(
    networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Path]]:
    """Files for both, as `igkd train` writes the student's."""
    folder = tmp_path_factory.mktemp("files")
    deployment.write(networks["student"], MEAN, SD, tiny.images(6, 1)[0], "abc", folder)
    # which of the two it is does not matter here, and an export takes seconds
    both = {"onnx": folder / "student.onnx", "int8": folder / "student.int8.onnx"}
    return {"teacher": both, "student": both}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "warn_if_busy", lambda: 0.25)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of torch at each compilation; nothing is compiled."""
    seen: list[int] = []

    def compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked = options.pop("options")  # what inductor's cache tells the kernels of a count by
        assert asked == {"cpp.threads": torch.get_num_threads()}
        assert set(asked) <= set(torch._inductor.list_options())
        assert options == {"dynamic": False, "fullgraph": True}
        seen.append(torch.get_num_threads())
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return seen


def measure(
    networks: dict[str, nn.Module], files: dict[str, dict[str, Path]], **options: Any
) -> dict[str, Any]:
    pixels, _ = tiny.images(6, 1)
    return timings.measure(networks, pixels, MEAN, SD, files=files, rounds=2, **options)


def test_every_engine_batch_and_thread_count_has_a_row(
    networks: dict[str, nn.Module], files: dict[str, dict[str, Path]], compiles: list[int]
) -> None:
    before, chance = torch.get_num_threads(), torch.get_rng_state()
    found = measure(networks, files, batches=(1, 3), threads=(1, 2))
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), chance)
    assert [(row["threads"], row["batch"], row["engine"]) for row in found["rows"]] == [
        (threads, batch, engine)
        for threads in (1, 2)
        for batch in (1, 3)
        for engine in timings.ENGINES
    ]
    for row in found["rows"]:
        medians = row["teacher"]["median_ms"], row["student"]["median_ms"]
        assert row["ratio"] == medians[0] / medians[1] > 0
        assert row["teacher"]["n"] == row["student"]["n"] == 2
    # a compiled model is of its batch and its threads
    assert compiles == [1] * 4 + [2] * 4
    assert found["skipped"] == []
    assert found["calibration"] == "training rows"
    assert found["machine"]["cores_used_by_others"] == 0.25
    assert found["machine"]["quiet"] == (latency.bearable() >= 0.25)
    assert "threads" not in found["machine"] and found["machine"]["cpu"]


def test_what_both_weigh_is_counted(
    networks: dict[str, nn.Module], files: dict[str, dict[str, Path]]
) -> None:
    found = measure(networks, files, engines=["pytorch"], batches=(1,), threads=(1,))
    teacher, student = found["models"]["teacher"], found["models"]["student"]
    assert teacher["parameters"] == 192 * 64 + 64 + 64 * 3 + 3
    assert teacher["macs"] == 192 * 64 + 64 * 3
    assert teacher["activation_bytes"] == 4 * (64 + 3) and student["activation_bytes"] == 4 * 11
    assert teacher["files"] == {
        kind: path.stat().st_size for kind, path in files["teacher"].items()
    }


def test_all_are_timed_in_turn_teacher_before_student(
    networks: dict[str, nn.Module],
    files: dict[str, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[tuple[int, int, float]] = []

    def interleave(
        calls: list[Callable[[], object]], rounds: int, advance: Callable[[], None], pause: float
    ) -> list[list[float]]:
        for call in calls:
            call()
        advance()
        timed.append((len(calls), rounds, pause))
        return [[1.0 + position] * 2 for position in range(len(calls))]

    monkeypatch.setattr(latency, "interleave", interleave)
    pixels, _ = tiny.images(6, 1)
    engines: list[timings.Engine] = ["pytorch", "onnxruntime"]
    found = timings.measure(
        networks, pixels, MEAN, SD, files=files, engines=engines, batches=(1, 4), threads=(1,)
    )
    # both engines at once; a pause, so that no thread of the one before still spins
    assert timed == [(4, 30, timings._PAUSE), (4, 10, timings._PAUSE)]
    medians = [(row["teacher"]["median_ms"], row["student"]["median_ms"]) for row in found["rows"]]
    assert medians == [(1.0, 2.0), (3.0, 4.0)] * 2


def test_without_a_compiler_the_rest_is_timed_and_the_reason_said_once(
    networks: dict[str, nn.Module],
    files: dict[str, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand a page of advice")

    monkeypatch.setattr(torch, "compile", fail)
    found = measure(networks, files, engines=["pytorch", "compiled"], batches=(1, 2), threads=(1,))
    assert [row["engine"] for row in found["rows"]] == ["pytorch", "pytorch"]
    assert found["skipped"] == [
        {"engine": "compiled", "reason": "RuntimeError: No working C++ compiler found"}
    ]


class Branching(nn.Module):
    """A net whose path depends on its values, which no exporter can trace."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat if images.sum() > 0 else -flat


def test_what_cannot_be_exported_is_timed_in_pytorch(
    networks: dict[str, nn.Module], files: dict[str, dict[str, Path]]
) -> None:
    class Weighted(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    both = {"teacher": Weighted(), "student": networks["student"]}
    found = measure(
        both,
        {"student": files["student"]},
        engines=["pytorch", "onnxruntime", "onnxruntime-int8"],
        batches=(1,),
        threads=(1,),
    )
    assert [row["engine"] for row in found["rows"]] == ["pytorch"]
    skipped = {each["engine"]: each["reason"] for each in found["skipped"]}
    assert set(skipped) == {"onnxruntime", "onnxruntime-int8"}
    assert "cannot be exported" in skipped["onnxruntime"]
    assert found["models"]["teacher"]["files"] == {}


def test_few_images_calibrate_however_many_are_given(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fail(network: nn.Module, mean: Any, sd: Any, pixels: sources.Pixels) -> None:
        assert pixels.flags.writeable  # rows may come from a file that is mapped to be read only
        seen.append(len(pixels))
        raise MaterialError("no")

    monkeypatch.setattr(deployment, "exported", fail)
    many = np.zeros((2000, 3, tiny.SIZE, tiny.SIZE), np.uint8)
    many.flags.writeable = False
    only: list[timings.Engine] = ["onnxruntime-int8"]
    found = timings.measure(networks, many, MEAN, SD, engines=only, batches=(1,), threads=(1,))
    assert seen == [512, 512] and found["rows"] == []
    assert found["skipped"] == [{"engine": "onnxruntime-int8", "reason": "no"}]


def test_the_networks_keep_their_mode(
    networks: dict[str, nn.Module], files: dict[str, dict[str, Path]]
) -> None:
    networks["student"].train()
    measure(networks, files, engines=["pytorch"], batches=(1,), threads=(1,))
    assert networks["student"].training


def test_cores_are_those_this_process_may_use(
    networks: dict[str, nn.Module],
    files: dict[str, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 3)  # as a container's quota has it
    assert timings.machine()["usable_cores"] == 3
    found = measure(networks, files, engines=["pytorch"], batches=(1,))
    assert [row["threads"] for row in found["rows"]] == [1, 3]
