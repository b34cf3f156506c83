"""A trained student as the files that somebody ships: ONNX in fp32 and in int8, pixels in.

Both take uint8 pixels and carry normalisation, class names and where they come from, so that a
program needs nothing else to classify. Neither is written unless the graph agrees with PyTorch on
real images; `example.py` beside them shows the whole use.
"""

import importlib.resources
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igkd_search import __version__, augment, datasets, onnx_export, sources, vault
from igkd_search.errors import MaterialError, reason_of

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader

log = logging.getLogger(__name__)

INPUT = "pixels"
FP32, INT8, EXAMPLE = "student.onnx", "student.int8.onnx", "example.py"
CALIBRATION_IMAGES = 512
_PARITY_IMAGES = 64
_BATCH, _BATCH_VALUES = 128, 1_200_000  # images, and pixel values: large images take much memory
_AGREEMENT = 0.95  # less of int8 with fp32 is warned of


class Deployed(nn.Module):
    """A student behind its normalisation: pixels uint8 (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, student: nn.Module, mean: Any, sd: Any) -> None:
        super().__init__()
        self.student = student
        self.mean: Tensor
        self.sd: Tensor
        for name, values in (("mean", mean), ("sd", sd)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).cpu().clone())

    def forward(self, pixels: Tensor) -> Tensor:
        unit = pixels.to(torch.float32) / 255
        logits: Tensor = self.student(augment.normalise(unit, self.mean, self.sd))
        return logits


def write(
    student: nn.Module,
    mean: Any,
    sd: Any,
    pixels: sources.Pixels,
    class_names: Sequence[str],
    folder: Path,
    *,
    origin: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write student.onnx and student.int8.onnx into a folder; return what they are, by kind.

    `mean` and `sd` (3,) are those of the training rows in [0, 1]; `pixels`, uint8 (N, 3, H, W), are
    training rows, of which up to 512 check the parity and calibrate int8; `origin` goes into the
    files' metadata. MaterialError, with nothing written, where PyTorch answers otherwise.
    """
    chosen = sample(pixels)
    try:
        model, parity = exported(student, mean, sd, chosen)
        _describe(model, class_names, chosen.shape[1:], origin or {})
        exact, small = model.SerializeToString(), quantise(model, chosen)
    except MaterialError as error:
        raise MaterialError(f"{folder / FP32}: {error}") from error
    agreement = _agreement(exact, small, chosen)
    vault.write_whole(folder / FP32, exact)
    vault.write_whole(folder / INT8, small)
    found = {"file": FP32, "bytes": len(exact), "opset": opset_of(model), "parity": parity}
    smaller = {"file": INT8, "bytes": len(small), "calibration_images": len(chosen)}
    return {"onnx": found, "int8": {**smaller, "agreement": agreement}}


def sample(pixels: sources.Pixels) -> sources.Pixels:
    """A copy of up to 512 images (N, 3, H, W), evenly spaced."""
    return np.ascontiguousarray(pixels[datasets.sample_rows(len(pixels), CALIBRATION_IMAGES)])


def exported(
    network: nn.Module, mean: Any, sd: Any, pixels: sources.Pixels
) -> tuple[onnx.ModelProto, float]:
    """A network as ONNX on pixels, and how far it is from PyTorch on some of them (N, 3, H, W).

    MaterialError above 1e-4, or where it cannot be exported.
    """
    resting = onnx_export.resting_copy(Deployed(network, mean, sd))
    images = torch.from_numpy(pixels)
    model = onnx_export.convert(resting, images[:1].repeat(2, 1, 1, 1), INPUT)
    # one image alone and several: the batch is dynamic
    batches = [images[:1], *torch.split(images[:_PARITY_IMAGES], _batch_of(pixels))]
    session = onnx_export.opened(model.SerializeToString())
    return model, onnx_export.parity_on(resting, session, batches)


def _describe(
    model: onnx.ModelProto, class_names: Sequence[str], shape: tuple[int, ...], origin: Any
) -> None:
    """Put into a model what a program must know to use it, and where it comes from."""
    described = {
        "class_names": json.dumps(list(class_names)),
        "image_shape": json.dumps(list(shape)),
        "opset": str(opset_of(model)),
        "igkd_search": __version__,
        "origin": json.dumps(dict(origin)),
    }
    onnx.helper.set_model_props(model, described)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model is written in."""
    return next(int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx"))


def quantise(model: onnx.ModelProto, pixels: sources.Pixels, **settings: Any) -> bytes:
    """A model on pixels as int8 with QDQ nodes, its ranges taken from `pixels` (N, 3, H, W).

    `settings` replace those of `quantize_static`, for comparisons. MaterialError when ONNX Runtime
    cannot quantise it.
    """
    with tempfile.TemporaryDirectory() as scratch, onnx_export.quiet():
        exact, prepared, written = (Path(scratch, f"{name}.onnx") for name in "abc")
        onnx.save(model, exact)  # given the model itself, it would move the weights out of it
        try:
            from onnxruntime.quantization import quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process

            quant_pre_process(exact, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, written, _reader(pixels), **{**_settings(), **settings})
        except Exception as error:  # its classes share no base below Exception
            reason = f"{type(error).__name__}: {reason_of(error)}"
            raise MaterialError(f"the model cannot be quantised to int8 ({reason})") from error
        found = onnx.load(written)
    _tidy(found, model)
    data: bytes = found.SerializeToString()
    return data


def _settings() -> dict[str, Any]:
    """How weights and activations become int8; docs/latency.md has what the alternatives give.

    Weights of 7 bits (`reduce_range`), since CPUs without VNNI add two products in 16 bits, which
    8-bit weights overflow without a word. Signed weights with unsigned activations have the fastest
    kernels there. A range for each channel, since those of depthwise convolutions differ widely.
    """
    from onnxruntime.quantization import QuantFormat, QuantType

    return {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "reduce_range": True,
    }


def _tidy(found: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give a quantised model the other's metadata, and only the operator sets that it uses."""
    del found.metadata_props[:]
    onnx.helper.set_model_props(found, {each.key: each.value for each in model.metadata_props})
    used = {node.domain for node in found.graph.node} | {""}
    kept = [each for each in found.opset_import if each.domain in used]
    del found.opset_import[:]
    found.opset_import.extend(kept)


def _reader(pixels: sources.Pixels) -> "CalibrationDataReader":
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(_batches(pixels))

        def get_next(self) -> dict[str, sources.Pixels] | None:
            found = next(self._left, None)
            return None if found is None else {INPUT: found}

    return Batches()


def _batches(pixels: sources.Pixels) -> Iterator[sources.Pixels]:
    some = _batch_of(pixels)
    for start in range(0, len(pixels), some):
        yield pixels[start : start + some]


def _batch_of(pixels: sources.Pixels) -> int:
    return max(1, min(_BATCH, _BATCH_VALUES // math.prod(pixels.shape[1:])))


def _agreement(exact: bytes, small: bytes, pixels: sources.Pixels) -> float:
    """On how large a share of the images both models name the same class."""
    named = [_answers(onnx_export.opened(each), pixels).argmax(axis=1) for each in (exact, small)]
    found = float((named[0] == named[1]).mean())
    if found < _AGREEMENT:
        log.warning(
            "%s names another class than %s on %.1f%% of %d training images; look at its accuracy "
            "before it is shipped",
            INT8,
            FP32,
            100 * (1 - found),
            len(pixels),
        )
    return found


def predict(path: Path, pixels: sources.Pixels) -> NDArray[np.float32]:
    """The logits (N, classes) of a written file for uint8 pixels (N, 3, H, W), on torch's threads.

    MaterialError when the file is missing, broken or made for images of another shape.
    """
    session = onnx_export.session(path, torch.get_num_threads())
    (given,) = session.get_inputs()
    wanted = tuple(given.shape[1:])
    if tuple(pixels.shape[1:]) != wanted or pixels.dtype != np.uint8:
        raise MaterialError(
            f"{path}: takes uint8 pixels (N, {', '.join(map(str, wanted))}), found "
            f"{pixels.dtype} {tuple(pixels.shape)}"
        )
    return _answers(session, pixels)


def _answers(session: onnxruntime.InferenceSession, pixels: sources.Pixels) -> NDArray[np.float32]:
    return np.concatenate(
        [session.run([onnx_export.OUTPUT], {INPUT: each})[0] for each in _batches(pixels)]
    )


def write_example(folder: Path) -> Path:
    """Copy the program that shows the use of these files beside them, and return its path."""
    source = importlib.resources.files("igkd_search").joinpath(EXAMPLE)
    vault.write_whole(folder / EXAMPLE, source.read_bytes())
    return folder / EXAMPLE
