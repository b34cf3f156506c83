"""Wilson's interval against scipy's, and at the ends where other intervals fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from igkd_search.uncertainty import of_accuracy, wilson


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_it_is_what_scipy_computes(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    ours = wilson(successes, n, confidence)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours[0] <= successes / n <= ours[1] <= 1


def test_all_right_is_not_certain() -> None:
    low, high = wilson(287, 287)
    assert high == 1.0 and low == pytest.approx(0.98679, abs=1e-5)
    assert wilson(0, 287) == pytest.approx((0.0, 1 - low))


def test_more_images_say_more() -> None:
    widths = [high - low for low, high in (of_accuracy(0.9, n) for n in (10, 100, 1000, 10000))]
    assert widths == sorted(widths, reverse=True)


def test_an_accuracy_is_counted_in_whole_images() -> None:
    assert of_accuracy(286 / 287, 287) == wilson(286, 287)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_what_was_not_counted_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="allowed are 0 to n"):
        wilson(successes, n)
