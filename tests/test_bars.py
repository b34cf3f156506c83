"""Bars can be read at any width: nothing is cut within a word."""

import pytest

from igkd_search import bars


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "best 99.7%, trial 6 3/8 95.0%"),
        (20, "best 99.7%"),
        (9, "best..."),
        (2, "be"),
    ],
)
def test_a_word_beside_a_bar_is_cut_between_words(width: int, shown: str) -> None:
    assert bars.fitted("best 99.7%, trial 6 3/8 95.0%", width) == shown
    assert len(shown) <= width


@pytest.mark.parametrize(("seconds", "shown"), [(7.9, "0:07"), (102, "1:42"), (7389, "2:03:09")])
def test_time_taken_is_shown_as_by_a_clock(seconds: float, shown: str) -> None:
    assert bars._clock(seconds) == shown
