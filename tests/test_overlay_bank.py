"""Laws 1 and 5: row i of the bank is the map of image i, Captum's own, and its quality is known."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from igkd_search import attribution, augment, datasets, overlay_bank, spec
from igkd_search.errors import MaterialError
from igkd_search.vault import Vault
from tests import tiny
from tests.made import CPU, OPTIONS, Made


def obtain(made: Made, store: Vault, **changes: Any) -> overlay_bank.OverlayBank:
    options = OPTIONS.model_copy(update=changes)
    return overlay_bank.obtain(options, made.data, made.network, "n", store, CPU)


def test_row_i_of_the_maps_is_image_i(made: Made) -> None:
    assert made.maps.shape == (tiny.TRAIN, tiny.SIZE, tiny.SIZE)
    assert made.maps.dtype == np.uint8
    data = made.data
    mean, sd = data.mean[:, None, None], data.sd[:, None, None]
    images = torch.from_numpy((data.images.astype(np.float32) / 255 - mean) / sd)
    # untouched Captum, image by image
    method = IntegratedGradients(made.network)
    for row in range(tiny.TRAIN):
        attributions = method.attribute(
            images[row : row + 1], target=int(data.labels[row]), n_steps=OPTIONS.steps
        )
        expected = attributions.abs().sum(1)[0]
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        difference = np.abs(made.maps[row] / 255 - expected.numpy())
        assert difference.max() < 0.01, row


def test_a_map_moves_with_its_image_in_every_view(made: Made) -> None:
    # the map of a view is that view of the map: what lies under each pixel stays under it
    data, shift = made.data, made.data.views.shift
    marked = replace(data, images=np.repeat(np.array(made.maps)[:, None], 3, axis=1))
    reader = datasets.reader_of(marked, CPU, made.maps)
    rows = torch.arange(tiny.TRAIN)
    for view in range(data.views.count):
        images, maps = reader.unit(rows, torch.full_like(rows, view))
        assert torch.equal(images[:, 0], maps)
    assert shift == 1 and data.views.flip


# --- quality


def test_the_bank_says_how_good_it_is(made: Made) -> None:
    found = obtain(made, made.store)
    (told,) = made.store.root.rglob(f"{found.digest[:16]}/quality.json")
    quality = json.loads(told.read_text())
    assert quality["fidelity"] == found.fidelity
    assert quality["completeness_gap"] == found.completeness_gap
    assert quality["steps"] == OPTIONS.steps
    assert (quality["reference_steps"], quality["reference_images"]) == (256, 8)
    assert quality["gap_images"] == 64
    assert -1 <= quality["lowest_fidelity"] <= found.fidelity <= 1


def test_more_steps_are_more_faithful(made: Made) -> None:
    few, many = obtain(made, made.store), obtain(made, made.store, steps=256)
    assert few.fidelity < many.fidelity and many.fidelity > 0.99
    assert 0 <= many.completeness_gap < few.completeness_gap


def test_the_fidelity_is_the_correlation_with_untouched_captum(made: Made) -> None:
    rows = datasets.sample_rows(tiny.TRAIN, 8)
    images = datasets.reader_of(made.data, CPU).unaugmented(torch.from_numpy(rows))
    values = IntegratedGradients(made.network).attribute(
        images, target=torch.from_numpy(made.data.labels[rows]), n_steps=256
    )
    expected = [
        np.corrcoef(values[i].detach().abs().sum(0).ravel(), made.maps[row].ravel())[0, 1]
        for i, row in enumerate(rows)
    ]
    assert obtain(made, made.store).fidelity == pytest.approx(np.mean(expected), abs=1e-4)


def test_maps_below_the_wanted_fidelity_are_warned_of_each_time(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        found = obtain(made, made.store, steps=1)
        assert found.fidelity < 0.99
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "raise overlays.steps (1)" in caplog.text
    caplog.clear()
    assert obtain(made, made.store, steps=256).fidelity >= 0.99
    assert not caplog.records


def test_verified_maps_may_be_constant_but_not_others() -> None:
    rows = np.array([7])
    flat, spot = np.zeros((1, 4, 4), np.uint8), np.eye(4, dtype=np.uint8)[None]
    overlay_bank.verify(flat, flat, rows)
    overlay_bank.verify(spot * 200, spot * 199, rows)
    for stored, live in ((spot, flat), (flat, spot), (spot, spot[:, ::-1])):
        with pytest.raises(MaterialError, match=r"needed 0\.99"):
            overlay_bank.verify(stored, live, rows)


# --- settings


@pytest.mark.parametrize("baseline", get_args(spec.Baseline))
def test_each_baseline_is_captums_with_that_baseline(made: Made, baseline: str) -> None:
    maps = obtain(made, made.store, baseline=baseline).maps
    reader = datasets.reader_of(made.data, CPU)
    images = reader.unaugmented(torch.arange(10))
    begins = {
        "mean": torch.zeros_like(images),
        "black": augment.normalise(torch.zeros_like(images), reader.mean, reader.sd),
        "blur": attribution.BASELINES["blur"](images, reader.mean, reader.sd),
    }
    values = IntegratedGradients(made.network).attribute(
        images,
        begins[baseline],
        target=torch.from_numpy(made.data.labels[:10]),
        n_steps=OPTIONS.steps,
    )
    expected = attribution.to_maps(values.detach()).numpy()
    assert np.abs(maps[:10] / 255 - expected).max() < 0.01


def test_settings_give_banks_of_their_own(made: Made) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"steps": 3},
        {"rule": "riemann_left"},
        {"baseline": "black"},
        {"baseline": "blur"},
        {"reduction": "max"},
        {"reduction": "norm"},
        {"dtype": "fp16"},
    ]
    found = [obtain(made, made.store, **change) for change in changes]
    assert len({bank.digest for bank in found}) == len(changes)
    assert len({np.array(bank.maps).tobytes() for bank in found}) == len(changes)
    assert obtain(made, made.store, control="dim").digest == found[0].digest


def test_fp16_maps_are_the_uint8_maps_before_they_were_rounded(made: Made) -> None:
    fine = obtain(made, made.store, dtype="fp16").maps
    assert fine.dtype == np.float16 and fine.min() >= 0 and fine.max() <= 1
    np.testing.assert_allclose(fine.astype(np.float32) * 255, made.maps, atol=0.5 + 0.13)


# --- memory


def test_a_batch_too_large_for_memory_is_halved_and_the_bank_is_the_same(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attribute, sizes = attribution.attribute, list[int]()

    def small(*arguments: Any, internal_batch_size: int, **options: Any) -> Any:
        sizes.append(internal_batch_size)
        if internal_batch_size > 8:
            raise torch.OutOfMemoryError("too large")
        return attribute(*arguments, internal_batch_size=internal_batch_size, **options)

    monkeypatch.setattr(attribution, "attribute", small)
    found = obtain(made, Vault(tmp_path)).maps
    assert sizes[0] > 8 and min(sizes) > 4 and sizes == sorted(sizes, reverse=True)
    assert "halved" in caplog.text
    assert np.abs(found.astype(int) - made.maps).max() <= 1


def test_one_image_too_large_for_memory_is_said(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **options: Any) -> Tensor:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(attribution, "attribute", never)
    with pytest.raises(MaterialError, match="one image"):
        obtain(made, Vault(tmp_path))
