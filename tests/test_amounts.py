"""Numbers as people read them."""

import pytest

from igkd_search import amounts


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (amounts.percent(0.99651), "99.65%"),
        (amounts.percent(0.5, 0), "50%"),
        (amounts.milliseconds(0.27329), "0.273 ms"),
        (amounts.milliseconds(9), "9.00 ms"),
        (amounts.milliseconds(12.34), "12.3 ms"),
        (amounts.milliseconds(1234.5), "1,230 ms"),
        (amounts.milliseconds(999.6), "1,000 ms"),
        (amounts.milliseconds(0.0), "0 ms"),
        (amounts.factor(4.0, "faster", "slower"), "4.00\u00d7 faster"),
        (amounts.factor(0.5, "faster", "slower"), "2.00\u00d7 slower"),
        (amounts.factor(None, "faster", "slower"), ""),
        (amounts.times(3.1382), "3.14\u00d7"),
        (amounts.times(1121.7), "1,122\u00d7"),
        (amounts.count(543498), "543,498"),
        (amounts.value(0.0327907), "0.0328"),
        (amounts.value(5), "5"),
        (amounts.value("dim"), "dim"),
        (amounts.several(1, "trial"), "1 trial"),
        (amounts.several(1000, "trial"), "1,000 trials"),
        (amounts.listed([]), ""),
        (amounts.listed(["a"]), "a"),
        (amounts.listed(["a", "b", "c"]), "a, b and c"),
        (amounts.span(42), "42 s"),
        (amounts.span(481.4), "8 min 1 s"),
        (amounts.span(3600), "1 h"),
        (amounts.span(90000), "1 d 1 h"),
    ],
)
def test_a_number_is_said(found: str, wanted: str) -> None:
    assert found == wanted


def test_what_is_not_known_is_not_said() -> None:
    assert amounts.percent(None) == amounts.milliseconds(None) == amounts.times(None) == ""
    assert amounts.count(None) == amounts.span(None) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_951, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (162_000_000, "162 MB"),
        (5_300_000_000_000, "5.3 TB"),
        (5_300_000_000_000_000, "5300 TB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert amounts.size(count) == text
