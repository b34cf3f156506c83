"""Strict headers on every answer, whatever the application sends; nothing uploaded is ever run."""

import re
from dataclasses import replace

import pytest

from igkd_search.gate import HEALTH, LOGIN, Gate
from igkd_search.logins import Logins
from tests.test_gate import RULES, TOKEN, opened
from tests.visits import Answer, answering, visit

# Headers.


def everything(gate: Gate) -> list[Answer]:
    """An answer of every kind."""
    return [
        visit(gate, "/page"),
        visit(gate, HEALTH),
        visit(gate, LOGIN, Accept="text/html"),
        visit(gate, "/page", "DELETE"),
        visit(gate, Host="evil.example"),
    ]


@pytest.mark.parametrize("asks", [False, True])
def test_every_answer_has_strict_headers(asks: bool) -> None:
    wild = answering(("Access-Control-Allow-Origin", "*"), ("X-Frame-Options", "ALLOWALL"))
    for answer in everything(Gate(wild, RULES, Logins(TOKEN) if asks else None)):
        names = [name.lower() for name, _ in answer.pairs]
        assert not [name for name in names if name.startswith("access-control-")]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert [value for name, value in answer.pairs if name == "X-Frame-Options"] == ["DENY"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert names.count("referrer-policy") == 1


def test_a_policy_of_the_application_holds_beside_ours() -> None:
    gate = Gate(answering(("Content-Security-Policy", "script-src 'self'")), RULES)
    theirs, ours = visit(gate, "/page").pairs_of("content-security-policy")
    assert theirs == "script-src 'self'"
    assert "frame-ancestors 'none'" in ours
    assert "default-src" not in ours
    (strict,) = visit(opened(), "/page").pairs_of("content-security-policy")
    assert strict.startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("kind", "sent", "disposition"),
    [
        ("image/png", "image/png", "inline"),
        ("text/plain; charset=x", "text/plain; charset=x", "inline"),
        ("image/svg+xml", "image/svg+xml", "attachment"),
        ("text/html", "application/octet-stream", "attachment"),
        ("TEXT/HTML", "application/octet-stream", "attachment"),
        ("text/javascript", "application/octet-stream", "attachment"),
        ("application/pdf", "application/octet-stream", "attachment"),
    ],
)
def test_what_somebody_uploaded_is_never_run(kind: str, sent: str, disposition: str) -> None:
    theirs = [("Content-Type", kind), ("Content-Security-Policy", "script-src *")]
    uploaded = answering(*theirs, ("Content-Disposition", "inline"), body=b"<script>")
    answer = visit(Gate(uploaded, replace(RULES, reads=re.compile(".*"))), "/artifacts/1/2")
    (policy,) = answer.pairs_of("content-security-policy")
    assert policy.startswith("sandbox; default-src 'none'")
    assert answer.pairs_of("content-disposition") == [disposition]
    assert answer.pairs_of("content-type") == [sent]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_static_files_may_be_kept_and_are_asked_for_each_time() -> None:
    gate = opened(reads=re.compile(".*"))
    assert visit(gate, "/static/x").headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("base", ["", "/igkd"])
@pytest.mark.parametrize("target", ["http://evil.example/x?a=1", "//evil.example/x?a=1", "/x?a=1"])
def test_a_redirection_never_names_a_host(target: str, base: str) -> None:
    away = Gate(answering(("Location", target)), replace(RULES, base_path=base))
    assert visit(away, "/page").headers["location"] == f"{base}/x?a=1"


def test_more_slashes_name_no_host_either() -> None:
    away = Gate(answering(("Location", "http:////evil.example/x")), RULES)
    assert visit(away, "/page").headers["location"] == "/evil.example/x"
