"""Laws of the program beside a student: it sees what Pillow and training see, without them."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from igkd_search import decoding, deployment, example

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def guess(kind: int, left: int, up: int, corner: int) -> int:
    """The PNG standard's prediction of a byte, in its own words."""
    if kind == 4:
        p = left + up - corner
        nearest = min(abs(p - left), abs(p - up), abs(p - corner))
        return next(value for value in (left, up, corner) if abs(p - value) == nearest)
    return (0, left, up, (left + up) // 2)[kind]


def filtered(rows: NDArray[np.uint8], step: int) -> bytes:
    """Rows (H, bytes), each behind another filter, the five in turn."""
    written = bytearray()
    for y, row in enumerate(rows.astype(int)):
        above = rows[y - 1].astype(int) if y else np.zeros_like(row)
        written.append(y % 5)
        for x, value in enumerate(row):
            left, corner = (row[x - step], above[x - step]) if x >= step else (0, 0)
            written.append((value - guess(y % 5, left, above[x], corner)) % 256)
    return bytes(written)


def png(
    path: Path, samples: NDArray[np.int64], bits: int, kind: int, *more: bytes, interlaced: int = 0
) -> Path:
    """Write values (H, W, channels) as a PNG of that colour type, with all filters in use."""
    height, width, channels = samples.shape
    flat = samples.reshape(height, -1)
    if bits == 16:
        rows = np.ascontiguousarray(flat.astype(">u2")).view(np.uint8)
    elif bits == 8:
        rows = flat.astype(np.uint8)
    else:
        each = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(each.reshape(height, -1).astype(np.uint8), axis=1)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    data = zlib.compress(filtered(rows.reshape(height, -1), max(1, channels * bits // 8)))
    # pixels may come in several parts
    parts = [chunk(b"IDAT", data[:20]), chunk(b"IDAT", data[20:]), chunk(b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + b"".join(parts)
    path.write_bytes(content)
    return path


def values(kind: int, bits: int, height: int = 12, width: int = 12) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 2**bits, (height, width, CHANNELS[kind]))


def palette(bits: int) -> bytes:
    colours = np.random.default_rng(1).integers(0, 256, 3 * 2**bits).astype(np.uint8)
    return chunk(b"PLTE", colours.tobytes())


KINDS = [
    *((GREY, bits) for bits in (1, 2, 4, 8, 16)),
    *((PALETTE, bits) for bits in (1, 2, 4, 8)),
    *((kind, bits) for kind in (RGB, GREY_ALPHA, RGBA) for bits in (8, 16)),
]


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_a_png_of_every_kind_gives_the_pixels_of_training(
    tmp_path: Path, kind: int, bits: int
) -> None:
    more = [palette(bits)] if kind == PALETTE else []
    path = png(tmp_path / "a.png", values(kind, bits), bits, kind, *more)
    np.testing.assert_array_equal(example.read(path, 12), decoding.decode(path, 12))


TRANSPARENT = [
    (GREY, 1, b"\x00\x01"),
    *((GREY, 2, bytes([0, value])) for value in (0, 1, 85)),
    *((GREY, 4, bytes([0, value])) for value in (0, 3, 51)),
    (GREY, 8, b"\x00\x40"),
    (GREY, 16, b"\x00\x40"),
    (RGB, 8, b"\x00\x01\x00\x02\x00\x03"),
    (RGB, 16, b"\x01\x01\x02\x02\x03\x03"),
    (PALETTE, 2, b"\x00\x80"),
    (PALETTE, 8, bytes(range(0, 256, 3))),
]


@pytest.mark.parametrize(("kind", "bits", "named"), TRANSPARENT)
def test_transparency_is_white_as_in_training(
    tmp_path: Path, kind: int, bits: int, named: bytes
) -> None:
    samples = values(kind, bits)
    if kind in (GREY, RGB):
        samples[3:6] = np.frombuffer(named, ">u2") & (2**bits - 1)
    more = [palette(bits)] if kind == PALETTE else []
    path = png(tmp_path / "a.png", samples, bits, kind, *more, chunk(b"tRNS", named))
    found = example.read(path, 12)
    np.testing.assert_array_equal(found, decoding.decode(path, 12))
    if kind == RGB:
        assert (found[:, 3:6] == 255).all()


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(12, 12, 12), (9, 8, 8), (30, 47, 8), (64, 64, 32), (5, 7, 32), (1, 1, 8), (33, 32, 32)],
)
def test_other_sizes_are_resized_as_in_training(
    tmp_path: Path, height: int, width: int, side: int
) -> None:
    path = png(tmp_path / "a.png", values(RGB, 8, height, width), 8, RGB)
    found = example.fitted(example.read(path, side), side, side)
    difference = found.astype(int) - decoding.decode(path, side)
    assert found.shape == (3, side, side)
    assert np.abs(difference).max() <= 1  # Pillow rounds its weights to 22 bits
    assert (difference != 0).mean() < 0.01


def test_a_model_that_is_not_square_gets_its_proportions() -> None:
    pixels = np.zeros((3, 10, 40), np.uint8)
    pixels[:, :, 10:30] = 200
    found = example.fitted(pixels, 5, 10)
    assert found.shape == (3, 5, 10)
    assert (found[:, :, 1:-1] == 200).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp", "a.gif"])
def test_other_formats_are_read_by_pillow(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(values(RGB, 8, 90, 70).astype(np.uint8)).save(path)
    found = example.fitted(example.read(path, 16), 16, 16)
    assert np.abs(found.astype(int) - decoding.decode(path, 16)).max() <= 1


def test_an_interlaced_png_is_read_by_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one pixel has one pass, so its bytes are the same
    path = png(tmp_path / "a.png", values(GREY, 8, 1, 1), 8, GREY, interlaced=1)
    np.testing.assert_array_equal(example.read(path, 1), decoding.decode(path, 1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(example.ImageError, match=r"without interlacing .* pip install pillow"):
        example.read(path, 1)


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (5, 4, 3)])
def test_arrays_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    found = example.read(tmp_path / "a.npy", 8)
    assert found.shape == (3, 5, 4)
    assert found[1, 2, 3] == (array[2, 3] if len(shape) == 2 else found[1, 2, 3])


def broken(content: bytes, what: str) -> bytes:
    """A sound PNG (grey, 8 bits) with one thing wrong."""
    if what == "end":
        return content[:60]
    if what == "checksum":
        return content[:50] + bytes([content[50] ^ 1]) + content[51:]
    start, head = content[:8], content[16:29]
    if what == "no pixels":
        return start + chunk(b"IHDR", head) + chunk(b"IEND", b"")
    pixels = {"rows": zlib.compress(b"\0" * 20), "filter": zlib.compress(b"\7" * 156)}
    data = pixels.get(what, b"nonsense")
    if what == "kind":
        head = head[:8] + b"\x03" + head[9:]
    if what == "palette":
        head, data = head[:9] + b"\x03" + head[10:], zlib.compress((b"\0" + b"\5" * 12) * 12)
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("end", "ends early|checksum"),
        ("checksum", "checksum does not match"),
        ("no pixels", "holds no pixels"),
        ("rows", "rows are missing"),
        ("filter", "unknown row filter"),
        ("zlib", "damaged PNG"),
        ("kind", "no PNG of a known kind: 12x12, colour type 0, 3 bits"),
        ("palette", "colours are missing"),
    ],
)
def test_a_damaged_png_is_one_line_of_error(tmp_path: Path, what: str, says: str) -> None:
    path = png(tmp_path / "a.png", values(GREY, 8), 8, GREY)
    path.write_bytes(broken(path.read_bytes(), what))
    with pytest.raises(example.ImageError, match=says) as caught:
        example.read(path, 12)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def zipped() -> bytes:
    content = io.BytesIO()
    np.savez(content, np.zeros((4, 4), np.uint8))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"text", "not an array"),
        ("a.npy", b"", "not an array"),
        ("a.npy", zipped(), "not an array"),  # as numpy.savez has it
        ("a.npy", b"\x93NUMPY\x01\x00\x04\x00{[(\n", "not an array"),
        ("a.npy", b"\x93NUMPY\x01\x00\x40\x00" + b"9" * 64, "not an array"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be decoded"),
        ("a.gif", b"text", "cannot be decoded"),
        ("gone.png", None, "No such file"),
    ],
)
def test_other_files_are_one_line_of_error(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(example.ImageError, match=says) as caught:
        example.read(tmp_path / name, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70000)])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str, value: float) -> None:
    Image.new(mode, (4, 4), value).save(tmp_path / "a.tiff")
    with pytest.raises(example.ImageError, match="more than 16 bits"):
        example.read(tmp_path / "a.tiff", 4)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((2, 3, 4, 4), np.uint8)])
def test_arrays_of_another_kind_are_refused(tmp_path: Path, array: NDArray[Any]) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(example.ImageError, match="wanted is one image, uint8"):
        example.read(tmp_path / "a.npy", 8)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (4, 0, 3), (3, 0)])
def test_arrays_without_pixels_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(example.ImageError, match="no pixels at all"):
        example.read(tmp_path / "a.npy", 8)


def test_the_formats_are_those_of_training(tmp_path: Path) -> None:
    assert example._FORMATS == decoding._FORMATS
    Image.new("L", (4, 4)).save(tmp_path / "a.pcx")  # Pillow reads it, training does not
    with pytest.raises(example.ImageError, match="cannot be decoded"):
        example.read(tmp_path / "a.pcx", 4)


def test_pixels_in_many_parts_are_joined(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", values(GREY, 8), 8, GREY)
    content, empty = path.read_bytes(), chunk(b"IDAT", b"")
    place = content.index(b"IDAT") - 4
    path.write_bytes(content[:place] + empty * 100_000 + content[place:])
    np.testing.assert_array_equal(example.read(path, 12), decoding.decode(path, 12))


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with example.py and a model whose logits are the mean of each channel / 64."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "unit"], ["logits"]),
    ]
    held = [
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array(64, np.float32), "unit"),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "net", [pixels], [logits], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"class_names": '["red", "green", "blue"]'})
    onnx.save(model, tmp_path / "student.onnx")
    onnx.save(model, tmp_path / "student.int8.onnx")
    assert deployment.write_example(tmp_path) == tmp_path / "example.py"
    colours = np.array([0, 128, 64], np.int64) * np.ones((20, 16, 1), np.int64)
    png(tmp_path / "green.png", colours, 8, RGB)
    return tmp_path


def test_it_runs_alone_and_imports_numpy_and_onnxruntime_only(shipped: Path) -> None:
    # no package, no environment, another folder; Pillow and torch cannot be imported
    bare = "import sys, runpy; sys.modules.update(PIL=None, torch=None, igkd_search=None); "
    program = bare + "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, shipped / "example.py", "green.png"],
        cwd=shipped,
        env={name: each for name, each in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    # softmax of 0, 2, 1
    assert done.stdout.splitlines() == [" 66.52%  green", " 24.47%  blue", "  9.00%  red"]


def test_the_model_may_be_named_from_anywhere(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "__file__", str(shipped / "example.py"))
    image = str(shipped / "green.png")
    example.main([image, "--model", "student.int8.onnx", "--top", "1"])
    assert capsys.readouterr().out == " 66.52%  green\n"
    example.main([image, image, "--top", "1"])
    assert capsys.readouterr().out == f"{image}\n 66.52%  green\n" * 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.png"], "error: gone.png: cannot be read"),
        (["green.png", "--model", "gone.onnx"], r"error: .*gone\.onnx: cannot be read"),
        (["green.png", "--model", "green.png"], "error: green.png: not a student that igkd train"),
    ],
)
def test_errors_are_one_line(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(shipped)
    monkeypatch.setattr(example, "__file__", str(shipped / "example.py"))
    with pytest.raises(SystemExit, match=says) as caught:
        example.main(words)
    assert "\n" not in str(caught.value)
