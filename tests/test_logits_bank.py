"""Laws 1 and 2: row i of the bank is image i, in every view, to fp16."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igkd_search import augment, datasets, logits_bank
from igkd_search.errors import MaterialError
from igkd_search.vault import Vault
from tests import tiny
from tests.made import CPU, Made, naive_logits, naive_view


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


def test_views_in_another_order_fail_the_build(made: Made) -> None:
    with pytest.raises(MaterialError, match="disagrees with the live teacher"):
        logits_bank.verify(made.logits[:, ::-1], made.network, datasets.reader_of(made.data, CPU))


def test_a_bank_without_flip_has_half_the_views(made: Made) -> None:
    data = replace(made.data, views=augment.Views(shift=1, flip=False))
    found = logits_bank.obtain(data, made.network, "n", made.store, CPU).logits
    assert found.shape == (tiny.TRAIN, 9, tiny.CLASSES)
    np.testing.assert_allclose(found, made.logits[:, ::2], rtol=2e-3, atol=2e-3)


def test_the_live_teacher_answers_about_the_view_that_is_asked(made: Made) -> None:
    reader = datasets.reader_of(made.data, CPU)
    rows, views = torch.tensor([3, 70, 3]), torch.tensor([0, 5, 17])
    found = logits_bank.live_logits(made.network, reader, rows, views).numpy()
    np.testing.assert_allclose(found, made.logits[rows, views], rtol=2e-3, atol=2e-3)


@given(row=st.integers(0, tiny.TRAIN - 1), dy=st.integers(0, 2), dx=st.integers(0, 2), flipped=...)
@settings(deadline=None, max_examples=60)
def test_any_crop_and_flip_of_any_image_is_looked_up_as_a_live_teacher_sees_it(
    made: Made, row: int, dy: int, dx: int, flipped: bool
) -> None:
    live = naive_logits(made, naive_view(made.data.images[row], dy, dx, flipped, 1))
    stored = made.logits[row, made.data.views.index(dy, dx, flipped)].astype(np.float32)
    bound = logits_bank.error_bound(live[None])[0]
    assert np.abs(stored - live).max() <= bound
    assert bound <= 2e-3 * max(1, np.abs(live).max())


def test_fp16_costs_no_more_than_its_own_rounding(made: Made) -> None:
    reader = datasets.reader_of(made.data, CPU)
    rows = torch.arange(tiny.TRAIN)
    for view in range(made.data.views.count):
        live = logits_bank.live_logits(made.network, reader, rows, torch.full_like(rows, view))
        error = np.abs(made.logits[:, view].astype(np.float32) - live.numpy())
        # half a unit in the last of eleven places, and what another batch size may change
        assert (error <= 2.0**-11 * np.abs(live.numpy()) + 1e-5).all()


def test_logits_beyond_fp16_are_refused(made: Made, tmp_path: Path) -> None:
    class Loud(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = made.network(images)
            return logits * 1e6

    with pytest.raises(MaterialError, match="a bank holds fp16, up to 65504"):
        logits_bank.obtain(made.data, Loud().eval(), "loud", Vault(tmp_path), CPU)


# --- training restricted to some views


def test_chosen_views_are_distinct_and_each_image_has_its_own() -> None:
    kinds = augment.Views(shift=4, flip=True)
    chosen = logits_bank.choose_views(kinds, 400, 5, seed=1)
    assert chosen.shape == (400, 5) and (np.diff(chosen, axis=1) > 0).all()
    assert chosen.min() >= 0 and chosen.max() < kinds.count
    assert len({tuple(row) for row in chosen.tolist()}) > 390
    assert len(np.unique(chosen)) == kinds.count  # together they show every crop
    np.testing.assert_array_equal(chosen, logits_bank.choose_views(kinds, 400, 5, seed=1))
    assert not np.array_equal(chosen, logits_bank.choose_views(kinds, 400, 5, seed=2))


def test_a_bank_of_chosen_views_holds_what_the_whole_bank_holds_of_them(made: Made) -> None:
    chosen = logits_bank.choose_views(made.data.views, tiny.TRAIN, 3, seed=0)
    bank = logits_bank.obtain(made.data, made.network, "n", made.store, CPU, chosen)
    assert bank.logits.shape == (tiny.TRAIN, 3, tiny.CLASSES)
    expected = made.logits[np.arange(tiny.TRAIN)[:, None], chosen]
    np.testing.assert_allclose(bank.logits, expected, rtol=2e-3, atol=2e-3)


def test_a_bank_of_chosen_views_is_not_taken_for_one_of_others(made: Made) -> None:
    reader = datasets.reader_of(made.data, CPU)
    one, other = (logits_bank.choose_views(made.data.views, tiny.TRAIN, 3, s) for s in (0, 1))
    first = logits_bank.obtain(made.data, made.network, "n", made.store, CPU, one)
    second = logits_bank.obtain(made.data, made.network, "n", made.store, CPU, other)
    assert first.digest != second.digest
    with pytest.raises(MaterialError, match="disagrees"):
        logits_bank.verify(first.logits, made.network, reader, other)


def test_a_batch_too_large_for_memory_is_halved_and_the_bank_is_the_same(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, live_logits = list[int](), logits_bank.live_logits

    def small(*arguments: object) -> torch.Tensor:
        rows = arguments[2]
        assert isinstance(rows, torch.Tensor)
        sizes.append(len(rows))
        if len(rows) > 10 * made.data.views.count and tmp_path.stat():
            raise torch.OutOfMemoryError("too large")
        return live_logits(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(logits_bank, "live_logits", small)
    monkeypatch.setattr(logits_bank, "verify", lambda *arguments: None)
    found = logits_bank.obtain(made.data, made.network, "n", Vault(tmp_path), CPU).logits
    assert max(sizes) > 10 * made.data.views.count  # so it was refused
    np.testing.assert_allclose(found, made.logits, rtol=2e-3, atol=2e-3)
