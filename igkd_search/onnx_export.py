"""A model to one ONNX file with dynamic batch, written only if it agrees with PyTorch.

An edge device runs this file, so latency is measured on it and the final student is delivered as
it. Exporting takes 10-35 s for a MobileNetV2: callers make it once an architecture and keep it.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import torch
from torch import nn

from igkd_search import vault
from igkd_search.errors import MaterialError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
"""What torch's exporter writes unasked, and ONNX Runtime reads from 1.17 on (January 2024).

Raise `materials._LATENCY_VERSION` with it: times are taken on these files.
"""
INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-4
_EXPORTERS = (
    *("torch.onnx", "torch.export", "torch.fx", "torch.utils", "torch._dynamo", "torch._inductor"),
    *("onnxscript", "onnx_ir", "onnxruntime"),
)


def export(model: nn.Module, image_shape: tuple[int, int, int], path: Path) -> float:
    """Write `model` to `path` (weights inside) and return its largest difference from PyTorch.

    `image_shape` is (C, H, W). The file takes "image", float32 (N, C, H, W) with any N, and gives
    "logits", float32 (N, K). The model itself, its mode and its device are left as they are. Raises
    MaterialError, with nothing written, where the exporter refuses or the parity does not hold.
    """
    copied = resting_copy(model)
    try:
        # Two images: a batch of one would be taken for a constant.
        data = convert(copied, torch.zeros(2, *image_shape), INPUT).SerializeToString()
    except MaterialError as error:
        raise MaterialError(f"{path}: {error}") from error
    difference = parity(copied, opened(data), image_shape)
    vault.write_whole(path, data)
    return difference


def convert(resting: nn.Module, example: torch.Tensor, name: str) -> "ModelProto":
    """Return a resting model as ONNX, with dynamic batch; `example` are two inputs (2, C, H, W).

    `name` is its input's, OUTPUT its output's. Raises MaterialError where the exporter refuses.
    """
    try:
        with quiet():
            program = torch.onnx.export(
                resting,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[name],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        # Its own text is a page of advice to exporter authors; the cause's first line says why.
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
        raise MaterialError(f"the model cannot be exported to ONNX ({reason})") from error
    assert program is not None
    found: ModelProto = program.model_proto
    return found


def parity(
    model: nn.Module, exported: onnxruntime.InferenceSession, image_shape: tuple[int, int, int]
) -> float:
    """Return the largest |ONNX - PyTorch| / max(1, largest |logit|) on random batches of 1 and 8.

    `model` rests on the CPU. Raises MaterialError above 1e-4 or where a logit is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    batches = (torch.randn(batch, *image_shape, generator=generator) for batch in (1, 8))
    return parity_on(model, exported, batches)


def parity_on(
    model: nn.Module, exported: onnxruntime.InferenceSession, batches: Iterable[torch.Tensor]
) -> float:
    """The same on these batches of the model's input, (N, C, H, W) each."""
    (given,) = exported.get_inputs()
    worst = 0.0
    for images in batches:
        with torch.inference_mode():
            expected = model(images)
        found = torch.from_numpy(exported.run([OUTPUT], {given.name: images.numpy()})[0])
        scale = max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max()) / scale
        if not difference <= TOLERANCE:
            raise MaterialError(
                f"the ONNX model differs from PyTorch by {difference:.2g} on a batch of "
                f"{len(images)}; at most {TOLERANCE:g} is allowed, so nothing measured on it would "
                "hold"
            )
        worst = max(worst, difference)
    return worst


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session of `path` on the CPU with `threads` threads.

    Raises MaterialError where the file is missing or broken.
    """
    try:
        return opened(path.read_bytes(), threads)
    except OSError as error:
        raise MaterialError(f"{path}: cannot be read ({error.strerror})") from error
    except MaterialError as error:
        raise MaterialError(f"{path}: {error}") from error


def opened(data: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """The same of a file's content."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin after a run would slow whatever is timed next; within a run they may.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors: its warnings about absent GPUs go past every logger
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes share no base below Exception
        raise MaterialError(f"is no ONNX model that ONNX Runtime accepts ({error})") from error


def resting_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` as it is deployed: on the CPU, in eval mode, contiguous."""
    copied: nn.Module = copy.deepcopy(model).cpu().eval()
    # Training may have left it channels_last: the figure must not depend on that.
    return copied.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what exporters and compilers print, warn and log; their errors are raised."""
    loggers = [logging.getLogger(name) for name in _EXPORTERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with _quiet_root(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _quiet_root() -> Iterator[None]:
    """Hold back what is logged by no logger's name, as ONNX Runtime's quantiser does."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def nothing(record: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)  # without any, the first such line would set up a log on the terminal
    root.addFilter(nothing)  # only of what is logged there, not of what comes from other loggers
    try:
        yield
    finally:
        root.removeFilter(nothing)
        root.removeHandler(handler)
