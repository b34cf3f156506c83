"""Teacher and student side by side: four engines, batches, threads; what they weigh and occupy.

Every model is what would be shipped: uint8 pixels in, normalisation inside. All engines and both
models of one batch size and thread count are timed in turn (`latency.interleave`), so that a drift
of the machine meets all of them alike and their ratio holds. docs/latency.md says how to read it.
"""

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from igkd_search import (
    activations,
    compiling,
    deployment,
    devices,
    latency,
    latency_table,
    models,
    onnx_export,
    optimizers,
    sources,
    stages,
)
from igkd_search.errors import MaterialError, reason_of

log = logging.getLogger(__name__)

Engine = Literal["pytorch", "compiled", "onnxruntime", "onnxruntime-int8"]
ENGINES: tuple[Engine, ...] = ("pytorch", "compiled", "onnxruntime", "onnxruntime-int8")
BATCHES = (1, 64)
_ROUNDS, _ROUNDS_OF_BATCHES = 30, 10  # of one image, and of several, which take seconds a round
_PAUSE = 0.005  # seconds; a thread pool spins a little before it sleeps, on cores of the next


@dataclass(frozen=True)
class _Subject:
    """One network as every engine runs it."""

    resting: nn.Module
    onnx: bytes | None
    int8: bytes | None


@dataclass(frozen=True)
class _Cell:
    """What is timed in turn."""

    threads: int
    batch: int
    images: Tensor
    rounds: int


def measure(
    networks: Mapping[str, nn.Module],
    pixels: sources.Pixels,
    mean: Any,
    sd: Any,
    *,
    calibration: str = "training rows",
    engines: Sequence[Engine] = ENGINES,
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] | None = None,
    rounds: int | None = None,
    files: Mapping[str, Mapping[str, Path]] | None = None,
) -> dict[str, Any]:
    """Time "teacher" and "student", which take normalised images; plain JSON, docs/latency.md.

    `pixels`, uint8 (N, 3, H, W), of which 512 calibrate int8, are called `calibration` in what
    is returned; `mean` and `sd` (3,) normalise. `threads` are by default 1 and all cores. `files`
    names ONNX files on pixels that are there already: network -> "onnx", "int8" -> path. An engine
    that cannot run them is left out, with the reason.
    """
    assert set(networks) == {"teacher", "student"}, networks.keys()
    shape, pixels = pixels.shape[1:], deployment.sample(pixels)
    skipped: dict[str, str] = {}
    chance = torch.Generator().manual_seed(0)  # the caller's is left alone
    cells = [
        _Cell(
            count,
            batch,
            torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, generator=chance),
            rounds or (_ROUNDS if batch == 1 else _ROUNDS_OF_BATCHES),
        )
        for count in dict.fromkeys(threads or (1, devices.cores()))
        for batch in dict.fromkeys(batches)
    ]
    total = sum(cell.rounds for cell in cells)
    with stages.stage("timings", total, "rounds", note="exporting to ONNX") as stage:
        subjects = {
            name: _subject(
                network, (mean, sd), pixels, engines, (files or {}).get(name, {}), skipped
            )
            for name, network in networks.items()
        }
        busy = latency.warn_if_busy()
        rows = [row for cell in cells for row in _timed(subjects, cell, engines, skipped, stage)]
    return {
        "machine": machine() | latency.busyness(busy),
        "models": {
            name: _figures(network, subjects[name], shape) for name, network in networks.items()
        },
        "calibration": calibration,
        "rows": rows,
        "skipped": [{"engine": engine, "reason": reason} for engine, reason in skipped.items()],
    }


def machine() -> dict[str, Any]:
    """What the figures are valid for: processor, cores, system, versions."""
    found = latency.machine()
    del found["threads"]
    return found | {
        "usable_cores": devices.cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


# --- the networks


def _subject(
    network: nn.Module,
    normalisation: tuple[Any, Any],
    pixels: sources.Pixels,
    engines: Sequence[Engine],
    files: Mapping[str, Path],
    skipped: dict[str, str],
) -> _Subject:
    resting = onnx_export.resting_copy(deployment.Deployed(network, *normalisation))
    exact, small = (
        files[kind].read_bytes() if kind in files else None for kind in ("onnx", "int8")
    )
    wanted = {"onnxruntime": exact, "onnxruntime-int8": small}
    if any(engine in engines and content is None for engine, content in wanted.items()):
        try:
            model, _ = deployment.exported(network, *normalisation, pixels)
            exact = model.SerializeToString()
            if "onnxruntime-int8" in engines:
                small = deployment.quantise(model, pixels)
        except MaterialError as error:
            lost = ("onnxruntime-int8",) if exact else ("onnxruntime", "onnxruntime-int8")
            skipped.update({engine: str(error) for engine in lost if engine in engines})
    return _Subject(resting, exact, small)


def _figures(network: nn.Module, subject: _Subject, shape: tuple[int, int, int]) -> dict[str, Any]:
    resting = onnx_export.resting_copy(network)
    files = {"onnx": subject.onnx, "int8": subject.int8}
    return {
        "parameters": models.count_parameters(network),
        "macs": models.count_macs(resting, shape),
        "activation_bytes": activations.peak_bytes(resting, shape),
        "files": {kind: len(content) for kind, content in files.items() if content is not None},
    }


# --- the times


def _timed(
    subjects: Mapping[str, _Subject],
    cell: _Cell,
    engines: Sequence[Engine],
    skipped: dict[str, str],
    stage: stages.Stage,
) -> list[dict[str, Any]]:
    """A row for each engine that runs."""
    what = f"batch {cell.batch}, {cell.threads} thread{'s' if cell.threads > 1 else ''}"
    with latency.using_threads(cell.threads), torch.inference_mode():
        calls: dict[Engine, list[Callable[[], object]]] = {}
        for engine in engines:
            if engine in skipped:
                continue
            stage.advance(0, f"{what}: preparing {latency_table.TITLES[engine]}")
            try:
                calls[engine] = [_CALLS[engine](each, cell) for each in subjects.values()]
            except Exception as error:  # whatever a compiler or an engine raises
                log.debug("%s cannot be timed", engine, exc_info=True)
                skipped[engine] = _why(error)
        stage.advance(0, f"{what}: timing")
        times = latency.interleave(
            [call for both in calls.values() for call in both],
            cell.rounds,
            stage.advance,
            pause=_PAUSE,
        )
    stats = [latency.summarise(row) for row in times]
    names = list(subjects)
    found = []
    for position, engine in enumerate(calls):
        both = dict(zip(names, stats[2 * position : 2 * position + 2], strict=True))
        ratio = both["teacher"].median_ms / both["student"].median_ms
        shown = {name: each.as_dict() for name, each in both.items()}
        found.append(
            {
                "engine": engine,
                "batch": cell.batch,
                "threads": cell.threads,
                **shown,
                "ratio": ratio,
            }
        )
    return found


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error)}"


def _eager(subject: _Subject, cell: _Cell) -> Callable[[], object]:
    return lambda: subject.resting(cell.images)


def _compiled(subject: _Subject, cell: _Cell) -> Callable[[], object]:
    """Compiled for this batch and these threads; it compiles here, which takes a minute."""
    optimizers.import_what_torch_delays()

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = subject.resting(images)
        return logits

    # Kernels are of a thread count. Before torch 2.15 inductor's cache knows it from this option
    # only, and gives those of one thread to every other.
    compiled = torch.compile(
        compiling.own_code(forward),
        dynamic=False,
        fullgraph=True,
        options={"cpp.threads": cell.threads},
    )
    with onnx_export.quiet():
        compiled(cell.images)
    return lambda: compiled(cell.images)


def _onnxruntime(subject: _Subject, cell: _Cell) -> Callable[[], object]:
    assert subject.onnx is not None
    return _session_call(subject.onnx, cell)


def _int8(subject: _Subject, cell: _Cell) -> Callable[[], object]:
    assert subject.int8 is not None
    return _session_call(subject.int8, cell)


def _session_call(content: bytes, cell: _Cell) -> Callable[[], object]:
    session = onnx_export.opened(content, cell.threads)
    outputs, inputs = [onnx_export.OUTPUT], {deployment.INPUT: cell.images.numpy()}
    return lambda: session.run(outputs, inputs)


_CALLS: dict[Engine, Callable[[_Subject, _Cell], Callable[[], object]]] = {
    "pytorch": _eager,
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
    "onnxruntime-int8": _int8,
}
