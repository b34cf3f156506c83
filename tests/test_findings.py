"""A check that dies is one more finding, and nothing that is wrong comes without advice."""

from collections.abc import Iterator

import pytest

from igkd_search import findings
from igkd_search.findings import Finding, guarded, ok


def dies() -> Iterator[Finding]:
    yield ok("before", "well")
    raise OSError("the disk is away\nand more about it")


def test_what_is_wrong_says_what_to_type() -> None:
    for state in (findings.warning, findings.fault):
        with pytest.raises(AssertionError, match="no advice"):
            state("home", "broken", "")


def test_a_check_that_dies_keeps_what_it_found_and_says_why() -> None:
    found = guarded("disk", dies, (OSError,), "mount it")
    assert found == [
        Finding("before", "ok", "well"),
        Finding("disk", "fault", "the disk is away", "mount it"),
    ]


def test_what_nobody_expected_comes_out() -> None:
    with pytest.raises(OSError, match="away"):
        guarded("disk", dies, (ValueError,), "mount it")
