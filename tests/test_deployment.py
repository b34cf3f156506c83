"""Laws of what is shipped: pixels in, the logits that PyTorch gives, or no file at all."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import igkd_search
from igkd_search import augment, deployment, models, onnx_export, spec
from igkd_search.errors import MaterialError, StorageError
from tests import tiny

MEAN, SD = np.array([0.3, 0.4, 0.5], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
NAMES = ("red", "green", "blue")
ORIGIN = {"study": "tiny", "seed": "7"}


def expected(student: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What training and evaluation compute for these pixels."""
    unit = torch.from_numpy(pixels).float().div_(255)
    with torch.inference_mode():
        logits: torch.Tensor = student.eval()(
            augment.normalise(unit, torch.from_numpy(MEAN), torch.from_numpy(SD))
        )
    return logits.numpy()


@pytest.fixture(scope="module")
def student() -> nn.Module:
    """A student that has learnt the tiny images."""
    torch.manual_seed(0)
    shape = spec.Architecture("mobilenet_v2", tiny.REMOVED_BLOCKS, tiny.WIDTH)
    found = models.build_student(shape, tiny.CLASSES, (3, tiny.SIZE, tiny.SIZE))
    pixels, labels = tiny.images(tiny.TRAIN, 1)
    images = torch.from_numpy(pixels).float() / 255
    images = augment.normalise(images, torch.from_numpy(MEAN), torch.from_numpy(SD))
    optimizer = torch.optim.Adam(found.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(found(images), torch.from_numpy(labels))
        torch.autograd.backward(loss)
        optimizer.step()
    return found


@pytest.fixture(scope="module")
def written(
    student: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of its files, and what `write` says of them; the export takes seconds."""
    folder = tmp_path_factory.mktemp("final")
    pixels, _ = tiny.images(tiny.TRAIN, 1)
    found = deployment.write(student, MEAN, SD, pixels, NAMES, folder, origin=ORIGIN)
    return folder, found


@pytest.mark.parametrize("count", [1, 5, tiny.TEST])
def test_pixels_go_in_and_the_logits_of_pytorch_come_out(
    student: nn.Module, written: tuple[Path, dict[str, Any]], count: int
) -> None:
    pixels, _ = tiny.images(count, 2)
    found = deployment.predict(written[0] / "student.onnx", pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(student, pixels), rtol=0, atol=1e-4)


def test_the_file_says_what_it_takes_and_needs_nothing_else(
    written: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = written
    for name in ("student.onnx", "student.int8.onnx"):
        model = onnx.load(folder / name, load_external_data=False)
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        (pixels,), (logits,) = model.graph.input, model.graph.output
        assert (pixels.name, logits.name) == ("pixels", "logits")
        assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        batch, *rest = pixels.type.tensor_type.shape.dim
        assert batch.dim_param and [each.dim_value for each in rest] == [3, 8, 8]
        properties = {each.key: each.value for each in model.metadata_props}
        assert json.loads(properties["class_names"]) == list(NAMES)
        assert json.loads(properties["image_shape"]) == [3, 8, 8]
        assert json.loads(properties["origin"]) == ORIGIN
        assert properties["igkd_search"] == igkd_search.__version__
        assert properties["opset"] == str(onnx_export.OPSET)
        # other operator sets may be unknown where it is run
        assert [(each.domain, each.version) for each in model.opset_import] == [
            ("", onnx_export.OPSET)
        ]
    assert {path.name for path in folder.iterdir()} == {"student.onnx", "student.int8.onnx"}
    assert found["onnx"]["parity"] <= onnx_export.TOLERANCE
    assert found["onnx"]["opset"] == onnx_export.OPSET
    assert found["int8"]["calibration_images"] == tiny.TRAIN
    for kind in found.values():
        assert kind["bytes"] == (folder / kind["file"]).stat().st_size


def test_int8_is_as_accurate_on_what_was_learnt(
    student: nn.Module, written: tuple[Path, dict[str, Any]]
) -> None:
    folder, found = written
    pixels, labels = tiny.images(tiny.TRAIN, 1)
    accuracies = {
        name: (deployment.predict(folder / name, pixels).argmax(axis=1) == labels).mean()
        for name in ("student.onnx", "student.int8.onnx")
    }
    assert accuracies["student.onnx"] > 0.9
    assert accuracies["student.int8.onnx"] > accuracies["student.onnx"] - 0.05
    assert found["int8"]["agreement"] > 0.95


def test_int8_weights_have_seven_bits_and_a_range_for_each_channel(
    written: tuple[Path, dict[str, Any]],
) -> None:
    graph = onnx.load(written[0] / "student.int8.onnx").graph
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    weights = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim == 4]
    assert len(weights) > 3
    for array in weights:
        assert np.abs(array.astype(int)).max() <= 64
        # each channel uses its range
        assert (np.abs(array.astype(int)).max(axis=(1, 2, 3)) >= 63).all()
    assert "Conv" in {node.op_type for node in graph.node}


class Unfaithful(nn.Module):
    """A net that does one thing under export and another when run."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)[:, :3]
        return logits * 1.001 if torch.compiler.is_exporting() else logits


def test_a_graph_that_answers_otherwise_is_refused_and_replaces_nothing(tmp_path: Path) -> None:
    pixels, _ = tiny.images(6, 1)
    (tmp_path / "student.onnx").write_bytes(b"before")
    with pytest.raises(MaterialError, match=r"student\.onnx: the ONNX model differs"):
        deployment.write(Unfaithful(), MEAN, SD, pixels, NAMES, tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


class Plain(nn.Module):
    """A net that is quickly exported."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(3 * tiny.SIZE**2, tiny.CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.answer(images.flatten(1))
        return logits


def test_what_cannot_be_quantised_is_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime import quantization

    def fail(*arguments: object, **options: object) -> None:
        logging.warning("Please consider to run pre-processing")
        raise ValueError("no such operator\nand a page of advice")

    monkeypatch.setattr(quantization, "quantize_static", fail)
    with pytest.raises(MaterialError, match=r"int8 \(ValueError: no such operator\)$"):
        deployment.write(Plain(), MEAN, SD, tiny.images(6, 1)[0], NAMES, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named_and_the_quantiser_is_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StorageError, match="No such file"):
        deployment.write(Plain(), MEAN, SD, tiny.images(6, 1)[0], NAMES, tmp_path / "gone")
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]
    assert capfd.readouterr() == ("", "")


def test_an_int8_that_answers_otherwise_is_warned_of(
    student: nn.Module,
    written: tuple[Path, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    exact = (written[0] / "student.onnx").read_bytes()
    pixels, _ = tiny.images(tiny.TRAIN, 1)
    other = onnx.load_from_string(exact)
    for each in other.graph.initializer:
        if each.name.endswith("classifier.bias"):
            each.CopyFrom(onnx.numpy_helper.from_array(np.array([99, 0, 0], np.float32), each.name))
    found = deployment._agreement(exact, other.SerializeToString(), pixels)
    assert found < 0.7
    assert "look at its accuracy" in caplog.text


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 3, 9, 9), np.uint8), np.zeros((2, 3, 8, 8), np.float32)]
)
def test_other_pixels_are_refused(written: tuple[Path, dict[str, Any]], pixels: Any) -> None:
    with pytest.raises(MaterialError, match=r"takes uint8 pixels \(N, 3, 8, 8\), found"):
        deployment.predict(written[0] / "student.onnx", pixels)


def test_large_images_go_in_small_batches() -> None:
    assert deployment._batch_of(np.zeros((1, 3, 32, 32), np.uint8)) == 128
    assert deployment._batch_of(np.zeros((1, 3, 224, 224), np.uint8)) == 7
    assert deployment._batch_of(np.zeros((1, 3, 2000, 2000), np.uint8)) == 1
