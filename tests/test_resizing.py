"""A network that resizes its images is torch's antialiased resize and what follows, everywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime import quantization
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import models, onnx_export, resizing
from igkd_search.spec import Architecture

SIZES = [((32, 32), (16, 16)), ((32, 32), (20, 20)), ((28, 20), (12, 9)), ((9, 9), (4, 4))]


def drawn(size: tuple[int, int], batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_two_products_are_the_antialiased_resize(
    size: tuple[int, int], new_size: tuple[int, int]
) -> None:
    images = drawn(size)
    theirs = functional.interpolate(images, new_size, mode="bilinear", antialias=True)
    found = resizing.Resize(size, new_size)(images)
    torch.testing.assert_close(found, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_one_colour_stays(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    plain = torch.full((1, 3, *size), 0.7)
    found = resizing.Resize(size, new_size)(plain)
    torch.testing.assert_close(found, torch.full((1, 3, *new_size), 0.7))


def test_stripes_that_are_too_fine_become_grey() -> None:
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 32, 32)
    seen = resizing.Resize((32, 32), (16, 16))(stripes)[..., 1:-1]  # at the edges half is missing
    torch.testing.assert_close(seen, torch.full((1, 3, 16, 14), 0.5))


def test_it_has_no_weights_and_gradients_pass() -> None:
    resize = resizing.Resize((8, 8), (4, 4))
    assert not resize.state_dict() and not list(resize.parameters())
    images = drawn((8, 8)).requires_grad_()
    resize(images).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad.sum(), torch.tensor(3.0 * 3 * 16))


@pytest.mark.parametrize(
    ("size", "side", "found"),
    [
        ((32, 32), 16, (16, 16)),
        ((32, 16), 8, (8, 4)),
        ((20, 28), 14, (10, 14)),
        ((64, 1), 4, (4, 1)),
    ],
)
def test_images_keep_their_proportions(
    size: tuple[int, int], side: int, found: tuple[int, int]
) -> None:
    assert resizing.reduced(*size, side) == found


class Fed(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The calibration images, once."""

    def __init__(self, images: Tensor) -> None:
        self.left = iter([{onnx_export.INPUT: images.numpy()}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A student of 8x8 images that sees 6x6, and its ONNX file."""
    torch.manual_seed(0)
    student = models.build_student(Architecture("mobilenet_v2", 17, 0.5, 6), 4, (3, 8, 8)).eval()
    assert isinstance(student, models.Student)
    # logits that differ from image to image
    nn.init.normal_(student.classifier.weight, 0, 1)
    path = tmp_path_factory.mktemp("resized") / "model.onnx"
    assert onnx_export.export(student, (3, 8, 8), path) < 1e-5
    return student, path


def test_the_resize_is_in_the_onnx_file(exported: tuple[nn.Module, Path]) -> None:
    student, path = exported
    images = drawn((8, 8), 5)
    found = onnx_export.session(path).run(None, {onnx_export.INPUT: images.numpy()})[0]
    with torch.inference_mode():
        expected = student(images).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_resize_bears_eight_bits(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    student, path = exported
    images, quantised = drawn((8, 8), 64), tmp_path / "int8.onnx"
    # weights of seven bits: on some CPUs products of eight overflow
    options = {"per_channel": True, "reduce_range": True}
    quantization.quantize_static(path, quantised, Fed(images), **options)
    session = onnxruntime.InferenceSession(quantised, providers=["CPUExecutionProvider"])
    found = session.run(None, {onnx_export.INPUT: images.numpy()})[0]
    with torch.inference_mode():
        expected = student(images).numpy()
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < difference < 0.1
