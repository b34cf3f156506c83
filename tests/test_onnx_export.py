"""Laws of the export: one file, any batch, the same logits as PyTorch, or no file at all."""

import logging
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from igkd_search import onnx_export
from igkd_search.errors import MaterialError, StorageError

SHAPE = (3, 8, 8)


def small_net() -> nn.Sequential:
    """Return a convolutional net in training mode, its BatchNorm statistics far from 0 and 1."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        norm,
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 5),
    )
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.1, 3)
    return net.train()


class Unfaithful(nn.Module):
    """A net that does one thing under export and another when run."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)
        return logits * 1.001 if torch.compiler.is_exporting() else logits


class Branching(nn.Module):
    """A net whose path depends on its values, which no exporter can trace."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Sequential, Path, float]:
    """Return a net, its file and their difference; the export is seconds long, so made once."""
    net, path = small_net(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    return net, path, onnx_export.export(net, SHAPE, path)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_file_gives_the_logits_of_the_resting_model(
    exported: tuple[nn.Sequential, Path, float], batch: int
) -> None:
    net, path, _ = exported
    images = torch.randn(batch, *SHAPE)
    (found,) = onnx_export.session(path).run(["logits"], {"image": images.numpy()})
    with torch.inference_mode():
        expected = onnx_export.resting_copy(net)(images)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


def test_the_file_is_whole_and_named_as_promised(
    exported: tuple[nn.Sequential, Path, float],
) -> None:
    _, path, difference = exported
    assert 0 <= difference <= onnx_export.TOLERANCE
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    graph = onnx.load(path, load_external_data=False).graph
    assert not any(tensor.external_data for tensor in graph.initializer)
    (image,), (logits,) = graph.input, graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_value for size in image.type.tensor_type.shape.dim] == [0, *SHAPE]


def test_the_model_is_left_as_it_was(exported: tuple[nn.Sequential, Path, float]) -> None:
    net = exported[0]
    assert all(module.training for module in net.modules())
    for name, values in small_net().state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], values, rtol=0, atol=0)


def test_an_unfaithful_export_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="differs from PyTorch"):
        onnx_export.export(Unfaithful(), SHAPE, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        onnx_export.export(nn.Flatten(), SHAPE, tmp_path / "gone" / "model.onnx")


def test_logits_that_are_not_numbers_are_refused(
    exported: tuple[nn.Sequential, Path, float],
) -> None:
    net, path, _ = exported
    diverged = onnx_export.resting_copy(net)
    with torch.no_grad():
        next(diverged.parameters()).fill_(torch.nan)
    with pytest.raises(MaterialError, match="nan"):
        onnx_export.parity(diverged, onnx_export.session(path), SHAPE)


def test_a_model_beyond_the_exporter_is_one_line_of_error(tmp_path: Path) -> None:
    with pytest.raises(MaterialError, match="cannot be exported") as caught:
        onnx_export.export(Branching(), SHAPE, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert "data-dependent" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_the_exporter_says_is_held_back_and_its_errors_are_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def chatty(*arguments: object, **options: object) -> None:
        print("[torch.onnx] Obtain model graph")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        logging.getLogger("torch.onnx").warning("opset")
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(torch.onnx, "export", chatty)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        onnx_export.export(nn.Flatten(), SHAPE, tmp_path / "model.onnx")
    assert capsys.readouterr().out == ""
    assert not caplog.records
    assert logging.getLogger("torch.onnx").level != logging.ERROR


@pytest.mark.parametrize("content", [None, b"", b"half a file"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MaterialError, match=r"model\.onnx"):
        onnx_export.session(path)


def test_a_session_has_the_threads_asked_for(exported: tuple[nn.Sequential, Path, float]) -> None:
    options = onnx_export.session(exported[1], threads=2).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_a_resting_copy_is_contiguous_and_in_eval_mode() -> None:
    net = small_net().to(memory_format=torch.channels_last)
    copied = onnx_export.resting_copy(net)
    assert not copied.training
    assert all(parameter.is_contiguous() for parameter in copied.parameters())
    assert net.training
    assert not next(net.parameters()).is_contiguous()
