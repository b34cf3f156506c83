"""Laws 1, 2, 3 and 5 on every source: what is looked up is about the very image and view.

Each source is read from files in its real format, moved by two pixels and mirrored, whatever is
legal for it, and both banks are made by a small network with kinks and norms. What they must hold
is worked out here by other means: numpy's padding and slicing, and untouched Captum.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from igkd_search import attribution, augment, datasets, logits_bank, overlay_bank, spec
from igkd_search.vault import Vault
from tests import releases, tiny

CPU = torch.device("cpu")
SHIFT = 2
OPTIONS = spec.Overlays(steps=6)


@dataclass(frozen=True)
class Sourced:
    """One source with both of its banks."""

    data: datasets.Dataset
    network: nn.Module
    logits: NDArray[np.float16]
    maps: NDArray[np.uint8]


def write_folder(folder: Path) -> Path:
    """Three classes of ten noisy photographs, each of a size of its own, some of them grey."""
    generator = np.random.default_rng(5)
    for name, i in itertools.product(("ant", "bee", "cat"), range(10)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        shape = (9 + i, 14, 3) if i % 2 else (9 + i, 14)
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def options_of(source: str, folder: Path) -> spec.Data:
    """Data of this source, its files written into `folder`."""
    plain: dict[str, object] = {"source": source, "shift": SHIFT, "flip": True}
    if source == "arrays":
        plain |= {"path": str(tiny.write_arrays(folder))}
    elif source == "folder":
        plain |= {"path": str(write_folder(folder / "photographs")), "image_size": 8}
    elif source == "digits":
        plain |= {"limit": 60, "validation": 20}
    else:
        releases.WRITERS[source](folder / "data")
    return spec.Data.model_validate(plain)


def network_for(data: datasets.Dataset) -> nn.Module:
    """An untrained network whose logits depend on where things are."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(54, data.classes),
    )
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    norm.running_mean.uniform_(-0.3, 0.3)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=sorted(datasets.SOURCES))
def sourced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sourced]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        releases.shrink(patch)
        releases.trust(patch)
        data = datasets.load(options_of(request.param, folder), folder)
    network, store = network_for(data), Vault(folder / "vault")
    logits = logits_bank.obtain(data, network, "n", store, CPU).logits
    maps = overlay_bank.obtain(OPTIONS, data, network, "n", store, CPU).maps
    assert maps.dtype == np.uint8
    yield Sourced(data, network, logits, maps)  # type: ignore[arg-type]


def view_of(pixels: NDArray[np.uint8], dy: int, dx: int, flipped: bool) -> NDArray[np.uint8]:
    """The crop at (dy, dx) of pixels (..., H, W) padded by SHIFT with zeros, mirrored or not."""
    height, width = pixels.shape[-2:]
    margins = [(0, 0)] * (pixels.ndim - 2) + [(SHIFT, SHIFT)] * 2
    crop = np.pad(pixels, margins)[..., dy : dy + height, dx : dx + width]
    return crop[..., ::-1] if flipped else crop


def seen_by_network(data: datasets.Dataset, pixels: NDArray[np.uint8]) -> Tensor:
    """One image uint8 (C, H, W) as a batch of one, normalised by the fit rows' statistics."""
    fit = data.images[data.fit_rows].astype(np.float64) / 255
    mean, sd = fit.mean((0, 2, 3)), fit.std((0, 2, 3))
    image = (pixels / 255 - mean[:, None, None]) / sd[:, None, None]
    return torch.from_numpy(image.astype(np.float32))[None]


VIEWS = {
    "dy": st.integers(0, 2 * SHIFT),
    "dx": st.integers(0, 2 * SHIFT),
    "flipped": st.booleans(),
    "place": st.floats(0, 1, exclude_max=True),
}
"""`place` in [0, 1) chooses a row, however many there are."""


def test_law_1_row_i_of_both_banks_is_image_i(sourced: Sourced) -> None:
    data = sourced.data
    assert len(sourced.logits) == len(sourced.maps) == len(data.images) == len(data.labels)
    for row in range(len(data.images)):
        live = sourced.network(seen_by_network(data, data.images[row]))[0].numpy()
        stored = sourced.logits[row, data.views.identity].astype(np.float32)
        bound = logits_bank.error_bound(live[None])[0]
        assert np.abs(stored - live).max() <= bound
        # two that are closer than fp16 can tell may change places
        assert live.max() - live[stored.argmax()] <= 2 * bound


@given(**VIEWS)
@settings(deadline=None, max_examples=60)
def test_law_2_a_view_moves_image_map_and_logits_together(
    sourced: Sourced, dy: int, dx: int, flipped: bool, place: float
) -> None:
    data, row = sourced.data, int(place * len(sourced.data.images))
    view = data.views.index(dy, dx, flipped)
    image = view_of(data.images[row], dy, dx, flipped)
    live = sourced.network(seen_by_network(data, image))[0].numpy()
    stored = sourced.logits[row, view].astype(np.float32)
    assert np.abs(stored - live).max() <= logits_bank.error_bound(live[None])[0]
    reader = datasets.reader_of(data, CPU, sourced.maps)
    pixels, maps = reader.unit(torch.tensor([row]), torch.tensor([view]))
    np.testing.assert_allclose(pixels[0].numpy(), image / np.float32(255), atol=1e-6)
    moved = view_of(sourced.maps[row], dy, dx, flipped) / np.float32(255)
    np.testing.assert_allclose(maps[0].numpy(), moved, atol=1e-6)


@given(**VIEWS, strength=st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_law_3_crop_and_flip_then_overlay_then_normalisation(
    sourced: Sourced, dy: int, dx: int, flipped: bool, place: float, strength: float
) -> None:
    data, row = sourced.data, int(place * len(sourced.data.images))
    reader = datasets.reader_of(data, CPU, sourced.maps)
    view = torch.tensor([data.views.index(dy, dx, flipped)])
    pixels, maps = reader.unit(torch.tensor([row]), view)
    for probability, exponent_max in ((0.0, 2.0), (1.0, 1.0)):
        laid = augment.overlay(
            pixels,
            maps,
            torch.rand(2, 1, generator=torch.Generator().manual_seed(0)),
            probability=probability,
            strength=strength,
            exponent_max=exponent_max,
        )
        share = probability * strength
        image = view_of(data.images[row], dy, dx, flipped) / 255
        saliency = view_of(sourced.maps[row], dy, dx, flipped) / 255
        np.testing.assert_allclose(
            laid[0].numpy(), (1 - share) * image + share * saliency, atol=1e-5
        )
        if share == 0:
            assert torch.equal(laid, pixels)
        by_hand = (laid[0].numpy() - data.mean[:, None, None]) / data.sd[:, None, None]
        found = augment.normalise(laid, reader.mean, reader.sd)
        np.testing.assert_allclose(found[0].numpy(), by_hand, atol=1e-4)


def test_law_5_maps_are_those_of_untouched_captum_and_sum_within_the_gap(sourced: Sourced) -> None:
    data = sourced.data
    rows = datasets.sample_rows(len(data.images), 12)
    images = torch.cat([seen_by_network(data, data.images[row]) for row in rows])
    labels = torch.from_numpy(data.labels[rows])
    values, gap = IntegratedGradients(sourced.network).attribute(
        images, target=labels, n_steps=OPTIONS.steps, return_convergence_delta=True
    )
    maps = attribution.to_maps(values.detach())
    assert np.abs(sourced.maps[rows] / 255 - maps.numpy()).max() < 0.01
    found = attribution.attribute(sourced.network, images, labels, steps=OPTIONS.steps)
    change = sourced.network(images) - sourced.network(torch.zeros_like(images))
    change = change[torch.arange(len(rows)), labels]
    torch.testing.assert_close(found.values.sum((1, 2, 3)), change + found.gap)
    torch.testing.assert_close(found.gap, gap.float(), rtol=1e-3, atol=1e-5)
