"""Law 2, its pure half: a view moves image and map together. Law 3: what an overlay changes.

The oracle of views is a loop over single pixels; it shares no line with the look-up.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from igkd_search.augment import (
    Maps,
    Reader,
    Views,
    cut_out,
    look_up,
    normalise,
    overlay,
    pack,
    packed_shape,
    send,
    to_unit,
)

Bytes = NDArray[np.uint8]
CPU = torch.device("cpu")

KINDS = st.builds(Views, shift=st.integers(0, 2), flip=st.booleans())
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


def raw(seed: int, *shape: int) -> Bytes:
    """Random bytes; 0 is left out, so that padding can be told from a pixel."""
    return np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)


def pixels(seed: int, *shape: int) -> Tensor:
    """`raw` as a tensor."""
    return torch.from_numpy(raw(seed, *shape))


def naive_view(image: Bytes, shift: int, dy: int, dx: int, flipped: bool) -> Bytes:
    """Crop (C, H, W) at offset (dy, dx) of its padding, then mirror, pixel by pixel."""
    channels, height, width = image.shape
    view = np.zeros_like(image)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if flipped else x
                source_y, source_x = y + dy - shift, column + dx - shift
                if 0 <= source_y < height and 0 <= source_x < width:
                    view[channel, y, x] = image[channel, source_y, source_x]
    return view


def every_view(kinds: Views) -> list[tuple[int, int, bool]]:
    flips = (False, True) if kinds.flip else (False,)
    side = range(2 * kinds.shift + 1)
    return [(dy, dx, flipped) for dy in side for dx in side for flipped in flips]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chance(count: int, seed: int = 0) -> Tensor:
    """What decides over so many overlays or cutouts: (2, count) uniform in [0, 1)."""
    return torch.rand(2, count, generator=seeded(seed))


@given(KINDS, SIZES, st.integers(1, 3), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_look_up_is_the_view_worked_out_pixel_by_pixel(
    kinds: Views, size: tuple[int, int], channels: int, with_maps: bool, seed: int
) -> None:
    images = pixels(seed, 3, channels, *size)
    maps = pixels(seed + 1, 3, *size) if with_maps else None
    packed = pack(images, maps, kinds.shift)
    views = every_view(kinds)
    rows = torch.arange(3).repeat_interleave(len(views))
    indexes = torch.tensor([kinds.index(*view) for view in views]).repeat(3)
    found = look_up(packed, rows, indexes, kinds).permute(0, 3, 1, 2).numpy()
    together = images if maps is None else torch.cat([images, maps[:, None]], 1)
    expected = [
        naive_view(together[row].numpy(), kinds.shift, *view) for row in range(3) for view in views
    ]
    np.testing.assert_array_equal(found, np.stack(expected))


@given(KINDS)
@settings(deadline=None)
def test_view_indexes_count_every_view_once(kinds: Views) -> None:
    views = every_view(kinds)
    assert [kinds.index(*view) for view in views] == list(range(kinds.count))
    assert kinds.count == len(views)


@pytest.mark.parametrize(
    ("shift", "flip", "count"), [(0, False, 1), (1, False, 9), (0, True, 2), (4, True, 162)]
)
def test_the_number_of_views(shift: int, flip: bool, count: int) -> None:
    assert Views(shift, flip).count == count


@given(KINDS, SIZES)
@settings(max_examples=30, deadline=None)
def test_the_identity_view_is_the_image_itself(kinds: Views, size: tuple[int, int]) -> None:
    images = pixels(0, 4, 3, *size)
    rows = torch.tensor([3, 0, 2, 2])
    found = look_up(pack(images, None, kinds.shift), rows, torch.full((4,), kinds.identity), kinds)
    assert torch.equal(found.permute(0, 3, 1, 2), images[rows])


def test_a_view_of_no_such_crop_or_flip_is_a_bug() -> None:
    kinds = Views(1, flip=False)
    for wrong in [(3, 0, False), (0, -1, False), (0, 0, True)]:
        with pytest.raises(AssertionError):
            kinds.index(*wrong)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_padding_is_zero_and_nothing_else_is(shift: int) -> None:
    packed = pack(pixels(0, 2, 3, 4, 5), pixels(1, 2, 4, 5), shift)
    assert packed.shape == (2, 4 + 2 * shift, 5 + 2 * shift, 4)
    inner = packed[:, shift : 4 + shift, shift : 5 + shift]
    assert (inner > 0).all()
    assert packed.sum() == inner.sum()


def test_views_are_drawn_evenly_and_by_the_generator_alone() -> None:
    kinds = Views(1, flip=True)
    drawn = kinds.draw(18_000, seeded(3))
    assert torch.equal(drawn, kinds.draw(18_000, seeded(3)))
    counts = torch.bincount(drawn, minlength=kinds.count)
    # 1000 each, sd = sqrt(18000 * 1/18 * 17/18) = 30.7
    assert len(counts) == kinds.count and (counts - 1000).abs().max() < 4 * 30.7


@pytest.mark.parametrize("flip", [True, False])
def test_what_is_mirrored_may_be_said_and_crops_are_drawn_evenly(flip: bool) -> None:
    kinds = Views(1, flip)
    flipped = torch.arange(9000) % 2 if flip else torch.zeros(9000, dtype=torch.int64)
    drawn = kinds.draw(9000, seeded(3), flipped)
    assert torch.equal(drawn % (1 + flip), flipped % (1 + flip))
    counts = torch.bincount(drawn // (1 + flip), minlength=9)
    # 1000 each, sd = sqrt(9000 * 1/9 * 8/9) = 29.8
    assert len(counts) == 9 and (counts - 1000).abs().max() < 4 * 29.8
    # which crop it is knows nothing of what is mirrored
    other = kinds.draw(9000, seeded(3), torch.zeros_like(flipped))
    assert torch.equal(other // (1 + flip), drawn // (1 + flip))


def test_image_and_map_cannot_come_apart() -> None:
    # each map is the first channel of its image, so they agree in every view of every row
    kinds = Views(2, flip=True)
    images = raw(0, 6, 3, 4, 4)
    reader = Reader.of(images, images[:, 0], kinds, torch.zeros(3), torch.ones(3))
    rows = torch.randint(6, (500,), generator=seeded(1))
    seen, maps = reader.unit(rows, kinds.draw(500, seeded(2)))
    assert torch.equal(seen[:, 0], maps)
    assert not torch.equal(seen[:, 1], maps)


def test_fine_maps_are_read_as_they_were_stored_in_every_view() -> None:
    kinds = Views(2, flip=True)
    fine = torch.rand(6, 4, 4, generator=seeded(4)).half()
    fine[0, 0, :2] = torch.tensor([0.0, 1.0])
    reader = Reader.of(raw(0, 6, 3, 4, 4), fine.numpy(), kinds, torch.zeros(3), torch.ones(3))
    rows, views = torch.arange(6), torch.full((6,), kinds.identity)
    images, maps = reader.unit(rows, views)
    assert images.shape == (6, 3, 4, 4)
    torch.testing.assert_close(maps, fine.float(), rtol=0, atol=0.5 / 65535 + 1e-7)
    assert maps[0, 0, :2].tolist() == [0.0, 1.0]
    drawn = kinds.draw(6, seeded(5))
    coarse = Reader.of(
        raw(0, 6, 3, 4, 4),
        (fine.float() * 255).round().to(torch.uint8).numpy(),
        kinds,
        torch.zeros(3),
        torch.ones(3),
    )
    seen, moved = reader.unit(rows, drawn), coarse.unit(rows, drawn)
    assert torch.equal(seen[0], moved[0])
    torch.testing.assert_close(seen[1], moved[1], rtol=0, atol=0.5 / 255 + 1e-4)


def test_a_reader_without_maps_shows_the_same_images_and_empty_maps() -> None:
    kinds = Views(1, flip=True)
    images, mean, sd = raw(0, 3, 3, 4, 4), torch.full((3,), 0.4), torch.full((3,), 0.2)
    rows, views = torch.tensor([2, 0, 1]), torch.tensor([0, 7, 17])
    with_maps = Reader.of(images, raw(1, 3, 4, 4), kinds, mean, sd)
    without = Reader.of(images, None, kinds, mean, sd)
    seen, maps = without.unit(rows, views)
    assert torch.equal(seen, with_maps.unit(rows, views)[0])
    assert maps.shape == (3, 4, 4) and not maps.any()
    assert torch.equal(without.normalised(rows, views), with_maps.normalised(rows, views))


def test_validation_images_are_normalised_and_nothing_more() -> None:
    images, mean, sd = raw(0, 3, 3, 4, 4), torch.tensor([0.1, 0.5, 0.9]), torch.full((3,), 0.3)
    reader = Reader.of(images, raw(1, 3, 4, 4), Views(2, flip=True), mean, sd)
    rows = torch.tensor([2, 0])
    expected = (images[rows.numpy()] / 255 - mean.numpy()[:, None, None]) / np.float32(0.3)
    np.testing.assert_allclose(reader.unaugmented(rows).numpy(), expected, atol=1e-5)


def test_unit_pixels_span_0_to_1() -> None:
    found = to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3, 1))
    assert found.dtype == torch.float32 and found.shape == (1, 1, 1, 3)
    assert found.flatten().tolist() == [0.0, torch.tensor(51 / 255).item(), 1.0]


@pytest.mark.parametrize(
    ("probability", "strength"), [(0.0, 0.5), (0.0, 1.0), (1.0, 0.0), (0.5, 0.0)]
)
def test_probability_0_or_strength_0_changes_no_pixel(probability: float, strength: float) -> None:
    images, maps = to_unit(pixels(0, 64, 3, 4, 3)), torch.rand(64, 3, 4, generator=seeded())
    assert images.shape == (64, 3, 3, 4)
    found = overlay(images, maps, chance(64), probability=probability, strength=strength)
    assert torch.equal(found, images)


@given(
    st.floats(0, 1, width=32), st.integers(0, 2**31), st.integers(1, 3), st.floats(0, 1, width=32)
)
@settings(max_examples=40, deadline=None)
def test_with_exponent_1_an_overlaid_sample_is_the_weighted_mean(
    strength: float, seed: int, channels: int, probability: float
) -> None:
    images = torch.rand(8, channels, 3, 4, generator=seeded(seed))
    maps = torch.rand(8, 3, 4, generator=seeded(seed + 1))
    arguments = {"strength": strength, "exponent_max": 1.0}
    all_of_them = overlay(images, maps, chance(8), probability=1.0, **arguments)
    blend = (1 - strength) * images + strength * maps[:, None]
    torch.testing.assert_close(all_of_them, blend, rtol=0, atol=1e-6)
    some = overlay(images, maps, chance(8), probability=probability, **arguments)
    for found, untouched, blended in zip(some, images, all_of_them, strict=True):
        assert torch.equal(found, untouched) or torch.equal(found, blended)


@given(st.integers(0, 2**31), st.floats(1, 4, width=32), st.floats(0, 1, width=32))
@settings(max_examples=40, deadline=None)
def test_the_exponent_stays_between_1_and_its_maximum(
    seed: int, exponent_max: float, strength: float
) -> None:
    images = torch.rand(8, 3, 4, 4, generator=seeded(seed))
    maps = torch.rand(8, 4, 4, generator=seeded(seed + 1))
    found = overlay(
        images, maps, chance(8, seed), probability=1.0, strength=strength, exponent_max=exponent_max
    )
    upper = (1 - strength) * images + strength * maps[:, None]  # maps in [0, 1]: the least power
    lower = (1 - strength) * images + strength * maps[:, None] ** exponent_max
    assert (found <= upper + 1e-5).all() and (found >= lower - 1e-5).all()
    assert (found >= 0).all() and (found <= 1).all()


def exponents(count: int, probability: float, seed: int) -> Tensor:
    """The exponent of each sample, NaN where there is no overlay: maps of 1/e, strength 1."""
    maps = torch.full((count, 1, 1), math.exp(-1))
    found = overlay(
        torch.zeros(count, 1, 1, 1),
        maps,
        chance(count, seed),
        probability=probability,
        strength=1.0,
    )
    return torch.where(found > 0, -found.log(), torch.nan).flatten()


@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_the_exponent_is_log_uniform_from_1_to_2(probability: float) -> None:
    drawn = exponents(40_000, probability, 0).log2()
    quantiles = torch.nanquantile(drawn, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    torch.testing.assert_close(
        quantiles, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), rtol=0, atol=0.015
    )


def test_the_probability_is_that_of_each_sample() -> None:
    count, probability = 20_000, 0.3
    drawn = exponents(count, probability, 1).isfinite().double()
    sd = math.sqrt(probability * (1 - probability) / count)
    assert abs(drawn.mean().item() - probability) < 4 * sd
    # neighbours in a batch, and the same place in another batch, know nothing of each other
    other = exponents(count, probability, 2).isfinite().double()
    for pair in (torch.stack([drawn[1:], drawn[:-1]]), torch.stack([drawn, other])):
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 4 / math.sqrt(count)


def test_the_exponent_does_not_depend_on_the_probability() -> None:
    rare, always = exponents(2000, 0.2, 5), exponents(2000, 1.0, 5)
    drawn = rare.isfinite()
    assert 0 < drawn.sum() < 2000
    assert torch.equal(rare[drawn], always[drawn])


def test_overlay_options_may_be_tensors() -> None:
    images = torch.rand(16, 3, 2, 2, generator=seeded(0))
    maps = torch.rand(16, 2, 2, generator=seeded(1))
    plain = overlay(images, maps, chance(16), probability=0.4, strength=0.7, exponent_max=3.0)
    tensors = overlay(
        images,
        maps,
        chance(16),
        probability=torch.tensor(0.4),
        strength=torch.tensor(0.7),
        exponent_max=torch.tensor(3.0),
    )
    torch.testing.assert_close(tensors, plain)


def test_the_inputs_are_left_as_they_were() -> None:
    images, maps = torch.rand(4, 3, 2, 2), torch.rand(4, 2, 2)
    before = images.clone(), maps.clone()
    overlay(images, maps, chance(4), probability=1.0)
    assert torch.equal(images, before[0]) and torch.equal(maps, before[1])


@given(KINDS, st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_order_is_crop_then_overlay_in_unit_space_then_normalisation(
    kinds: Views, seed: int
) -> None:
    images, maps = raw(seed, 4, 3, 3, 4), raw(seed + 1, 4, 3, 4)
    mean, sd = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.3])
    reader = Reader.of(images, maps, kinds, mean, sd)
    rows = torch.tensor([1, 3, 0, 3])
    views = kinds.draw(4, seeded(seed))
    seen, saliency = reader.unit(rows, views)
    laid = overlay(seen, saliency, chance(4), probability=1.0, strength=0.25, exponent_max=1.0)
    found = normalise(laid, mean, sd).numpy()
    choices = every_view(kinds)
    for position, (row, view) in enumerate(zip(rows.tolist(), views.tolist(), strict=True)):
        image = naive_view(images[row], kinds.shift, *choices[view]) / 255
        over = naive_view(maps[row][None], kinds.shift, *choices[view]) / 255
        expected = (0.75 * image + 0.25 * over - mean.numpy()[:, None, None]) / sd.numpy()[
            :, None, None
        ]
        np.testing.assert_allclose(found[position], expected, atol=2e-5)


def test_padding_is_black_under_the_overlay_not_the_mean_image() -> None:
    # crop, overlay, normalise: a padded pixel is 0 until the last step, then -mean / sd
    kinds = Views(1, flip=False)
    reader = Reader.of(
        raw(0, 1, 3, 2, 2), raw(1, 1, 2, 2), kinds, torch.full((3,), 0.5), torch.ones(3)
    )
    seen, maps = reader.unit(torch.tensor([0]), torch.tensor([kinds.index(0, 0, False)]))
    laid = overlay(seen, maps, chance(1), probability=1.0)
    assert (normalise(laid, reader.mean, reader.sd)[0, :, 0, :] == -0.5).all()


# --- the place of a cutout


def blank(size: tuple[int, int], places: list[tuple[float, float]], side: int) -> list[list[str]]:
    """For each image the lines of a picture: `.` where it is blanked, `#` where it is as it was."""
    images = torch.rand(len(places), 3, *size, generator=seeded(1)) + 1
    found = cut_out(images, torch.tensor(places).T, side)
    kept = found == images
    assert (kept | (found == 0)).all()
    assert (kept == kept[:, :1]).all()  # the same place in every channel
    return [["".join(".#"[int(pixel)] for pixel in line) for line in one[0]] for one in kept]


def test_a_cutout_is_a_square_at_a_place_of_its_own_worked_by_hand() -> None:
    # the middle of size 5 lies at floor(5 chance); side 2 begins one pixel before it
    places = [(0.5, 0.5), (0.5, 0.99), (0.0, 0.0), (0.99, 0.2)]
    assert blank((5, 5), places, 2) == [
        ["#####", "#..##", "#..##", "#####", "#####"],
        ["#####", "###..", "###..", "#####", "#####"],
        [".####", "#####", "#####", "#####", "#####"],
        ["#####", "#####", "#####", "..###", "..###"],
    ]


def test_an_odd_side_lies_around_its_middle_and_may_stick_out() -> None:
    assert blank((4, 5), [(0.5, 0.5), (0.99, 0.0), (0.0, 0.99)], 3) == [
        ["#####", "#...#", "#...#", "#...#"],
        ["#####", "#####", "..###", "..###"],
        ["###..", "###..", "#####", "#####"],
    ]
    assert blank((4, 5), [(0.5, 0.5)], 1) == [["#####", "#####", "##.##", "#####"]]


@given(SIZES, st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_cutout_is_never_larger_than_its_side_and_blanks_something(
    size: tuple[int, int], side: int, seed: int
) -> None:
    images, places = torch.ones(8, 2, *size), chance(8, seed)
    blanked = cut_out(images, places, side) == 0
    assert torch.equal(images, torch.ones(8, 2, *size))  # what was given is left alone
    for one, (y, x) in zip(blanked[:, 0], places.T, strict=True):
        lines, columns = one.any(1), one.any(0)
        assert 1 <= lines.sum() <= side and 1 <= columns.sum() <= side
        assert one.sum() == lines.sum() * columns.sum()
        assert one[int(y * size[0]), int(x * size[1])]
    # one image says nothing of the place in another
    alone = cut_out(images[3:4], places[:, 3:4], side)
    assert torch.equal(alone == 0, blanked[3:4])


# --- images that stay on the host


MAPS: dict[str, Maps | None] = {
    "none": None,
    "uint8": raw(1, 6, 4, 5),
    "fp16": np.random.default_rng(2).random((6, 4, 5)).astype(np.float16),
}


@pytest.mark.parametrize("kinds", [Views(0, flip=False), Views(2, flip=True)])
@pytest.mark.parametrize("maps", MAPS)
def test_what_is_sent_from_the_host_is_what_is_resident(maps: str, kinds: Views) -> None:
    mean, sd = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    given_to = raw(0, 6, 3, 4, 5), MAPS[maps], kinds, mean, sd
    resident, streaming = Reader.of(*given_to), Reader.streaming(*given_to)
    assert streaming.packed is None and resident.packed is not None
    assert resident.packed.shape == packed_shape(given_to[0], MAPS[maps], kinds.shift)
    assert resident.image_shape == streaming.image_shape == (3, 4, 5)
    rows, views = torch.tensor([5, 0, 2, 2]), kinds.draw(4, seeded())
    both = zip(resident.unit(rows, views), streaming.unit(rows, views), strict=True)
    assert all(torch.equal(one, other) for one, other in both)
    before = streaming.fetch(rows.numpy())
    assert torch.equal(before, resident.packed[rows])
    both = zip(resident.unit(rows, views), streaming.unit(rows, views, before), strict=True)
    assert all(torch.equal(one, other) for one, other in both)
    assert torch.equal(resident.normalised(rows, views), streaming.normalised(rows, views))
    assert torch.equal(resident.unaugmented(rows), streaming.unaugmented(rows))


def test_images_are_packed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to = raw(0, 7, 3, 4, 5), raw(1, 7, 4, 5), Views(1, flip=True), torch.zeros(3)
    whole = Reader.of(*given_to, torch.ones(3)).packed
    monkeypatch.setattr("igkd_search.augment._PIECE", 3 * 6 * 7 * 4)  # three images
    pieces = Reader.of(*given_to, torch.ones(3)).packed
    assert whole is not None and pieces is not None and torch.equal(whole, pieces)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64])
def test_rows_are_sent_in_the_order_they_are_asked_for(dtype: type) -> None:
    array: NDArray[Any] = np.arange(24).reshape(6, 2, 2).astype(dtype)
    array.flags.writeable = False  # as one that is mapped from a file
    found = send(array, np.array([4, 0, 4]), CPU)
    np.testing.assert_array_equal(found.numpy(), array[[4, 0, 4]])
    assert found.numpy().dtype == dtype
