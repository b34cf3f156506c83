"""A code span shows what it was given, whatever Markdown would make of it."""

import pytest

from igkd_search import code_spans


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("`a``b", "``` `a``b ```"),
        ("a\n\n# b", "`a # b`"),
        ("", "` `"),
        ("<img src=x>", "`<img src=x>`"),
    ],
)
def test_a_code_span_holds_whatever_it_is_given(text: str, span: str) -> None:
    assert code_spans.code(text) == span
