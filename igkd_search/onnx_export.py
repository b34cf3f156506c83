"""A model to one ONNX file with dynamic batch, written only if it agrees with PyTorch.

An edge device runs this file, so latency is measured on it and the final student is delivered as
it. Exporting takes 10-35 s for a MobileNetV2: callers make it once an architecture and keep it.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from igkd_search import vault
from igkd_search.errors import MaterialError

INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-4
_EXPORTERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def export(model: nn.Module, image_shape: tuple[int, int, int], path: Path) -> float:
    """Write `model` to `path` (weights inside) and return its largest difference from PyTorch.

    `image_shape` is (C, H, W). The file takes "image", float32 (N, C, H, W) with any N, and gives
    "logits", float32 (N, K). The model itself, its mode and its device are left as they are. Raises
    MaterialError, with nothing written, where the exporter refuses or the parity does not hold.
    """
    copied = resting_copy(model)
    try:
        with _quiet():
            program = torch.onnx.export(
                copied,
                # Two images: a batch of one would be taken for a constant.
                (torch.zeros(2, *image_shape),),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        # Its own text is a page of advice to exporter authors; the cause's first line says why.
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
        raise MaterialError(f"{path}: the model cannot be exported to ONNX ({reason})") from error
    assert program is not None
    data = program.model_proto.SerializeToString()
    difference = parity(copied, _session(data, threads=1), image_shape)
    vault.write_whole(path, data)
    return difference


def parity(
    model: nn.Module, exported: onnxruntime.InferenceSession, image_shape: tuple[int, int, int]
) -> float:
    """Return the largest |ONNX - PyTorch| / max(1, largest |logit|) on random batches of 1 and 8.

    `model` rests on the CPU. Raises MaterialError above 1e-4 or where a logit is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in (1, 8):
        images = torch.randn(batch, *image_shape, generator=generator)
        with torch.inference_mode():
            expected = model(images)
        found = torch.from_numpy(exported.run([OUTPUT], {INPUT: images.numpy()})[0])
        scale = max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max()) / scale
        if not difference <= TOLERANCE:
            raise MaterialError(
                f"the ONNX model differs from PyTorch by {difference:.2g} on a batch of {batch}; "
                f"at most {TOLERANCE:g} is allowed, so nothing measured on it would hold"
            )
        worst = max(worst, difference)
    return worst


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session of `path` on the CPU with `threads` threads.

    Raises MaterialError where the file is missing or broken.
    """
    try:
        return _session(path.read_bytes(), threads)
    except OSError as error:
        raise MaterialError(f"{path}: cannot be read ({error.strerror})") from error
    except MaterialError as error:
        raise MaterialError(f"{path}: {error}") from error


def resting_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` as it is deployed: on the CPU, in eval mode, contiguous."""
    copied: nn.Module = copy.deepcopy(model).cpu().eval()
    # Training may have left it channels_last: the figure must not depend on that.
    return copied.to(memory_format=torch.contiguous_format)


def _session(data: bytes, threads: int) -> onnxruntime.InferenceSession:
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter prints, warns and logs; its errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in _EXPORTERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
