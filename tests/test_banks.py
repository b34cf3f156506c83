"""Laws 1 and 2: row i of a bank is image i, in every view; a permuted bank reaches no trial."""

import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from numpy.typing import NDArray
from torch import nn

from igkd_search import augment, banks, datasets, materials, shards, spec
from igkd_search.errors import MaterialError
from igkd_search.vault import Vault
from tests import tiny

CPU = torch.device("cpu")
Bank = Callable[[Vault], NDArray[Any]]
OPTIONS = spec.Overlays(steps=2)


@dataclass(frozen=True)
class Made:
    """A few images, a teacher of them and both banks."""

    data: datasets.Dataset
    network: nn.Module
    store: Vault
    logits: NDArray[np.float16]
    maps: NDArray[np.uint8]


@pytest.fixture(scope="module")
def made(shared: materials.Materials, tmp_path_factory: pytest.TempPathFactory) -> Made:
    store = Vault(tmp_path_factory.mktemp("vault"))
    network = shared.teacher.network
    logits, _ = banks.logits(shared.data, network, "n", store, CPU)
    maps, _, _ = banks.overlay_maps(OPTIONS, shared.data, network, "n", store, CPU)
    return Made(shared.data, network, store, logits, maps)


def naive_view(image: NDArray[Any], dy: int, dx: int, flipped: bool, shift: int) -> NDArray[Any]:
    """Pad, crop and mirror one image (C, H, W), pixel by pixel."""
    channels, height, width = image.shape
    view = np.zeros_like(image)
    for c, y, x in itertools.product(range(channels), range(height), range(width)):
        from_y = y + dy - shift
        from_x = (width - 1 - x if flipped else x) + dx - shift
        if 0 <= from_y < height and 0 <= from_x < width:
            view[c, y, x] = image[c, from_y, from_x]
    return view


def naive_logits(made: Made, pixels: NDArray[Any]) -> NDArray[Any]:
    """What the teacher says of one image uint8 (C, H, W), normalised here by hand."""
    mean, sd = made.data.mean[:, None, None], made.data.sd[:, None, None]
    image = torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / sd)
    with torch.no_grad():
        logits: NDArray[Any] = made.network(image[None])[0].numpy()
    return logits


# --- laws 1 and 2


def test_row_i_is_image_i(made: Made) -> None:
    identity = made.data.views.identity
    assert len(made.logits) == tiny.TRAIN  # every row of the training part: fit and validation
    assert made.logits.dtype == np.float16
    live = [naive_logits(made, image) for image in made.data.images]
    assert [row.argmax() for row in made.logits[:, identity]] == [row.argmax() for row in live]
    assert len({row.argmax() for row in live}) > 1


def test_every_view_is_what_a_live_teacher_says_of_it(made: Made) -> None:
    shift, flip = made.data.views.shift, made.data.views.flip
    assert (shift, flip) == (1, True)
    order = itertools.product(range(3), range(3), (False, True))
    kinds = [(dy, dx, flipped, made.data.views.index(dy, dx, flipped)) for dy, dx, flipped in order]
    assert sorted(view for *_, view in kinds) == list(range(made.logits.shape[1]))
    for row, (dy, dx, flipped, view) in itertools.product((0, 7, 40, tiny.TRAIN - 1), kinds):
        pixels = naive_view(made.data.images[row], dy, dx, flipped, shift)
        np.testing.assert_allclose(
            made.logits[row, view], naive_logits(made, pixels), rtol=2e-3, atol=2e-3
        )


def test_views_of_one_image_differ(made: Made) -> None:
    spread = made.logits.astype(np.float32).std(axis=1).max(axis=1)
    assert (spread > 0.01).all()


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


def logits_bank(made: Made) -> Bank:
    return lambda store: banks.logits(made.data, made.network, "n", store, CPU)[0]


def maps_bank(made: Made) -> Bank:
    return lambda store: banks.overlay_maps(OPTIONS, made.data, made.network, "n", store, CPU)[0]


BANKS = pytest.mark.parametrize(
    ("bank", "kind", "name"),
    [(logits_bank, "targets", "logits"), (maps_bank, "overlays", "maps")],
    ids=["logits", "maps"],
)


def roll(rows: NDArray[Any]) -> NDArray[Any]:
    return np.roll(rows, 1, axis=0)


def shuffle(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[np.random.default_rng(3).permutation(len(rows))]


@BANKS
@pytest.mark.parametrize("permute", [roll, shuffle])
def test_a_permuted_bank_fails_the_build_and_nothing_is_kept(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
    permute: Callable[[NDArray[Any]], NDArray[Any]],
) -> None:
    fill = shards.fill

    def permuted(folder: Path, name: str, *arguments: Any) -> None:
        fill(folder, name, *arguments)
        path = folder / f"{name}.npy"
        np.save(path, permute(np.load(path)))

    monkeypatch.setattr(shards, "fill", permuted)
    with pytest.raises(MaterialError, match="it is not about these images"):
        bank(made)(Vault(tmp_path))
    assert [path.suffix for path in (tmp_path / kind).iterdir()] == [".lock"]


def test_views_in_another_order_fail_the_build(made: Made) -> None:
    with pytest.raises(MaterialError, match="disagrees with the live teacher"):
        banks.verify_logits(made.logits[:, ::-1], made.network, banks.reader_of(made.data, CPU))


@BANKS
def test_a_bank_permuted_after_it_was_built_is_found_when_it_is_opened(
    made: Made,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    # permuted before it was sealed, as an older version with a fault would: checksums hold
    fill, folder = shards.fill, tmp_path / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(banks, "verify_logits", lambda *arguments: None)
        patch.setattr(banks, "verify_maps", lambda *arguments: None)

        def permuted(folder: Path, name: str, *arguments: Any) -> None:
            fill(folder, name, *arguments)
            np.save(folder / f"{name}.npy", roll(np.load(folder / f"{name}.npy")))

        patch.setattr(shards, "fill", permuted)
        wrong = bank(made)(Vault(folder))
    expected = getattr(made, name)
    assert not np.array_equal(wrong, expected)
    np.testing.assert_array_equal(bank(made)(Vault(folder)), expected)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "it is not about these images" in caplog.text


@BANKS
def test_a_damaged_bank_is_built_again_with_a_warning(
    made: Made,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    bank(made)(Vault(tmp_path))
    (path,) = tmp_path.rglob(f"{name}.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(bank(made)(Vault(tmp_path)), getattr(made, name))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{name}.npy does not match its checksum" in caplog.text


@BANKS
def test_a_killed_build_goes_on_at_its_last_shard(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    # shards of 10 images, of which two are finished when the process dies
    pixels = 10 * banks.pixels_of(made.data)
    monkeypatch.setattr(banks, "_FORWARD_PIXELS", {"cpu": pixels * made.data.views.count})
    monkeypatch.setattr(banks, "_GRADIENT_PIXELS", {"cpu": pixels * OPTIONS.steps})
    expected = bank(made)(Vault(tmp_path / "whole"))
    fill, computed, deaths = shards.fill, list[int](), list[str]()

    def watched(
        folder: Path, name: str, shape: Any, dtype: Any, rows: int, compute: Any, advance: Any
    ) -> None:
        def noted(start: int, stop: int) -> NDArray[Any]:
            computed.extend(range(start, stop))
            found: NDArray[Any] = compute(start, stop)
            return found

        def killing(rows: int) -> None:
            advance(rows)
            if len(computed) == 20 and not deaths:
                deaths.append("killed")
                raise KeyboardInterrupt

        fill(folder, name, shape, dtype, rows, noted, killing)

    monkeypatch.setattr(shards, "fill", watched)
    with pytest.raises(KeyboardInterrupt):
        bank(made)(Vault(tmp_path / "killed"))
    assert computed == list(range(20))
    found = bank(made)(Vault(tmp_path / "killed"))
    assert computed == list(range(tiny.TRAIN))
    np.testing.assert_array_equal(found, expected)


@BANKS
def test_a_bank_is_computed_once(
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(shards, "fill", refuse)
    np.testing.assert_array_equal(bank(made)(Vault(made.store.root)), getattr(made, name))


def test_another_teacher_data_or_rule_is_another_bank(made: Made) -> None:
    data, network, store = made.data, made.network, made.store
    other = replace(data, fingerprint="other")
    found = {
        banks.logits(data, network, "n", store, CPU)[1],
        banks.logits(data, network, "m", store, CPU)[1],
        banks.logits(other, network, "n", store, CPU)[1],
        *(
            banks.overlay_maps(options, given, network, digest, store, CPU)[2]
            for options, given, digest in [
                (OPTIONS, data, "n"),
                (OPTIONS, other, "n"),
                (OPTIONS, data, "m"),
                (spec.Overlays(steps=3), data, "n"),
                (spec.Overlays(steps=2, rule="riemann_left"), data, "n"),
            ]
        ),
    }
    assert len(found) == 8


def test_a_bank_without_flip_has_half_the_views(made: Made) -> None:
    data = replace(made.data, views=augment.Views(shift=1, flip=False))
    found, _ = banks.logits(data, made.network, "n", made.store, CPU)
    assert found.shape == (tiny.TRAIN, 9, tiny.CLASSES)
    np.testing.assert_allclose(found, made.logits[:, ::2], rtol=2e-3, atol=2e-3)


def test_the_gap_is_the_median_share_that_the_steps_leave_out(made: Made) -> None:
    data = made.data
    _, gap, digest = banks.overlay_maps(OPTIONS, data, made.network, "n", made.store, CPU)
    _, finer, _ = banks.overlay_maps(
        spec.Overlays(steps=20), data, made.network, "n", made.store, CPU
    )
    assert 0 <= finer < gap
    (told,) = made.store.root.rglob(f"{digest[:16]}/completeness.json")
    assert json.loads(told.read_text()) == {
        "completeness_gap": gap,
        "images": 64,
        "steps": OPTIONS.steps,
    }


def test_verified_maps_may_be_constant_but_not_others() -> None:
    flat, spot = np.zeros((1, 4, 4), np.uint8), np.eye(4, dtype=np.uint8)[None]
    banks.verify_maps(flat, flat)
    banks.verify_maps(spot * 200, spot * 199)
    for stored, live in ((spot, flat), (flat, spot), (spot, spot[:, ::-1])):
        with pytest.raises(MaterialError, match=r"needed 0\.99"):
            banks.verify_maps(stored, live)


def test_the_live_teacher_answers_about_the_view_that_is_asked(made: Made) -> None:
    reader = banks.reader_of(made.data, CPU)
    rows, views = torch.tensor([3, 70, 3]), torch.tensor([0, 5, 17])
    found = banks.live_logits(made.network, reader, rows, views).numpy()
    np.testing.assert_allclose(found, made.logits[rows, views], rtol=2e-3, atol=2e-3)


# --- what the overlay really is


def distinct_maps(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4)).astype(np.uint8)


def test_the_names_of_controls_are_all_served() -> None:
    maps = distinct_maps(6)
    results = {c: banks.apply_control(maps, c, 0).tobytes() for c in get_args(spec.Control)}
    assert len(set(results.values())) == len(results) == 4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 20])
def test_shuffled_gives_each_image_the_map_of_another(count: int, seed: int) -> None:
    maps = distinct_maps(count)
    found = banks.apply_control(maps, "shuffled", seed)
    assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in maps)
    assert not any(np.array_equal(a, b) for a, b in zip(found, maps, strict=True))


def test_random_scatters_the_values_of_each_map() -> None:
    maps = distinct_maps(20)
    found = banks.apply_control(maps, "random", 0)
    for ours, theirs in zip(found, maps, strict=True):
        assert not np.array_equal(ours, theirs)
        np.testing.assert_array_equal(np.sort(ours.ravel()), np.sort(theirs.ravel()))


def test_dim_shows_nothing_and_none_the_map_itself() -> None:
    maps = distinct_maps(20)
    assert not banks.apply_control(maps, "dim", 0).any()
    np.testing.assert_array_equal(banks.apply_control(maps, "none", 0), maps)


@pytest.mark.parametrize("control", ["shuffled", "random"])
def test_a_control_is_the_same_for_the_same_seed(control: spec.Control) -> None:
    maps = distinct_maps(20)
    first, again, other = (banks.apply_control(maps, control, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(maps, distinct_maps(20))  # left as they were
