"""Welch and Holm are those of scipy and statsmodels, and of numbers worked by hand."""

import math
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower

from igkd_search.comparison import (
    NO_INTERVAL,
    NO_SPREAD,
    Comparison,
    compare,
    holm,
    moments,
    pooled,
    power,
    seeds_needed,
    spread,
)

COUNTS = st.integers(0, 10_000)
SAMPLES = st.lists(COUNTS, min_size=2, max_size=8).map(lambda counts: [n / 10_000 for n in counts])
VARIED = SAMPLES.filter(lambda values: len(set(values)) > 1)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_by_hand() -> None:
    # means 4 and 8, variances 4 and 16 of three each: standard error sqrt(20 / 3) = 2.58199,
    # df = (20/3)^2 / ((4/3)^2 / 2 + (16/3)^2 / 2) = 400 / 136
    found = compare([2, 4, 6], [4, 8, 12])
    assert (found.difference, found.reason) == (-4, None)
    assert found.t == pytest.approx(-4 / math.sqrt(20 / 3))
    assert found.df == pytest.approx(400 / 136)
    assert found.low is not None and found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx(-4)
    # t of 0.975 at 2.941 degrees of freedom lies between the tables' 4.303 (2) and 3.182 (3)
    assert 3.182 < (found.high + 4) / math.sqrt(20 / 3) < 3.35


@settings(max_examples=60)
@given(VARIED, VARIED)
def test_welch_is_scipys(ours: list[float], theirs: list[float]) -> None:
    found, known = compare(ours, theirs), ttest_ind(ours, theirs, equal_var=False)
    interval = known.confidence_interval(0.95)
    expected = [known.statistic, known.df, known.pvalue, interval.low, interval.high]
    ours_found = [found.t, found.df, found.p, found.low, found.high]
    assert ours_found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=40)
@given(SAMPLES, SAMPLES)
def test_the_interval_leaves_out_zero_exactly_where_the_test_rejects(
    ours: list[float], theirs: list[float]
) -> None:
    found, turned = compare(ours, theirs), compare(theirs, ours)
    if found.low is None or found.high is None or found.p is None:
        assert found.reason == NO_SPREAD
        return
    assert (turned.p, turned.df) == pytest.approx((found.p, found.df))
    assert turned.difference == pytest.approx(-found.difference)
    if abs(found.p - 0.05) > 1e-9:
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_one_value_has_no_interval() -> None:
    for pair in (([0.9], [0.8, 0.7]), ([0.9, 0.8], [0.7]), ([0.9], [0.8])):
        found = compare(*pair)
        assert found.reason == NO_INTERVAL
        assert [found.low, found.high, found.t, found.df, found.p] == [None] * 5
    assert compare([0.9], [0.8]).difference == pytest.approx(0.1)


def test_equal_values_on_both_sides_are_no_test() -> None:
    # three times 0.1 is not 0.3 to a computer: the spread must be zero all the same
    assert spread([0.1] * 3) == 0
    assert compare([0.1] * 3, [0.9] * 3) == Comparison(0.1 - 0.9, reason=NO_SPREAD)


@pytest.mark.parametrize("scale", [1.0, 1e-100])
def test_a_side_without_spread_is_compared_without_a_warning(scale: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare([0.9 * scale] * 4, [0.8 * scale, 0.82 * scale, 0.84 * scale])
    assert found.df == pytest.approx(2)  # all of the spread is of three values
    assert found.t == pytest.approx(0.08 / (0.02 / math.sqrt(3)))


def test_as_json() -> None:
    assert compare([0.9], [0.5]).as_dict() == {
        **dict.fromkeys(("low", "high", "t", "df", "p")),
        "difference": pytest.approx(0.4),
        "reason": NO_INTERVAL,
    }


def test_holm_by_hand() -> None:
    # the smallest of four times four, the next times three, ...; never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=60)
@given(P_VALUES)
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    found: Any = holm(p_values)
    assert found == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@settings(max_examples=30)
@given(P_VALUES, st.randoms())
def test_holm_does_not_count_what_was_not_compared(p_values: list[float], chance: Any) -> None:
    with_gaps: list[float | None] = [*p_values, None, None]
    chance.shuffle(with_gaps)
    found = holm(with_gaps)
    assert [one is None for one in found] == [one is None for one in with_gaps]
    made = [one for one in with_gaps if one is not None]
    assert [one for one in found if one is not None] == holm(list(made))


@pytest.mark.parametrize("sd", [0.0005, 0.001, 0.0031, 0.008])
@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_seeds_are_those_of_statsmodels(sd: float, level: float) -> None:
    exact = TTestIndPower().solve_power(effect_size=0.002 / sd, power=0.8, alpha=level)
    assert seeds_needed(0.002, sd, level) == max(2, math.ceil(exact))


@pytest.mark.parametrize("n", [2, 5, 40])
def test_power_is_that_of_statsmodels(n: int) -> None:
    for effect in (0.0, 0.3, 1.5):
        theirs = TTestIndPower().power(effect_size=effect, nobs1=n, alpha=0.05)
        assert power(n, effect, 1.0) == pytest.approx(theirs, abs=1e-9)
    assert power(n, 0.0, 1.0) == pytest.approx(0.05)


def test_seeds_where_two_are_enough_and_where_none_are() -> None:
    assert seeds_needed(0.002, 0.0) == 2
    assert seeds_needed(0.002, 1e-6) == 2
    assert seeds_needed(1e-9, 1.0) is None
    needed = seeds_needed(0.002, 0.0031)
    assert needed is not None
    assert power(needed, 0.002, 0.0031) >= 0.8 > power(needed - 1, 0.002, 0.0031)


def test_the_pooled_spread_by_hand() -> None:
    # squares 2 of [1, 3] and 8 of [2, 4, 6] over 1 + 2 degrees of freedom
    found = pooled([[1, 3], [2, 4, 6], [7]])
    assert found is not None and found.df == 3
    assert found.sd == pytest.approx(math.sqrt(10 / 3))
    # the table of chi-squared at three degrees of freedom: 9.348 and 0.216
    assert found.low == pytest.approx(math.sqrt(10 / 9.348), rel=1e-3)
    assert found.high == pytest.approx(math.sqrt(10 / 0.2158), rel=1e-3)
    assert pooled([[1.0], [2.0]]) is None


def test_spread_is_mean_sample_sd_and_count() -> None:
    assert moments([0.5]) == {"mean": 0.5, "sd": None, "n": 1}
    found = moments([0.25, 0.75])
    assert found == {"mean": 0.5, "sd": pytest.approx(0.125**0.5), "n": 2}
