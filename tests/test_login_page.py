"""The page that asks for the token runs nothing, fetches nothing and repeats nothing unescaped."""

import base64
import hashlib
import re

from igkd_search import login_page


def test_what_is_given_is_shown_as_text() -> None:
    page = login_page.render("/a", '"><script>alert(1)</script>', "<b>wrong</b>")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;wrong" in page


def test_its_policy_allows_its_own_style_alone() -> None:
    (style,) = re.findall("<style>(.*?)</style>", login_page.render("/", "/"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in login_page.POLICY
    assert "default-src 'none'" in login_page.POLICY
    assert "script-src" not in login_page.POLICY
    assert not re.search(r"\son\w+=|style=|https?:", login_page.render("/", "/"))


def test_the_token_goes_by_post_into_a_field_that_is_not_shown() -> None:
    page = login_page.render("/login", "/x?a=1&b=2")
    assert '<form method="post" action="/login">' in page
    assert 'type="password"' in page
    assert 'value="/x?a=1&amp;b=2"' in page
    assert '<label for="token">' in page


def test_a_fault_is_told_to_a_screen_reader_too() -> None:
    assert 'role="alert"' in login_page.render("/", "/", "wrong")
    assert "alert" not in login_page.render("/", "/")
