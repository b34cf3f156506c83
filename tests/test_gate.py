"""Who is let in, from where, and to do what: each refusal, and what must still be let pass."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from igkd_search.callers import Environment, Rules, Start
from igkd_search.gate import HEALTH, LOGIN, Gate
from igkd_search.logins import TRIES, Logins
from tests.visits import Answer, answering, visit

TOKEN = "0123456789abcdef" * 2
RULES = Rules(
    names=frozenset({"127.0.0.1", "localhost", "::1", "igkd.example.org"}),
    public=frozenset({"igkd.example.org"}),
    reads=re.compile(r"/|/page|/api/\w+"),
    foreign=re.compile(r"/artifacts/.*"),
    kept=re.compile(r"/static/.*"),
)
WRITES = {method: re.compile(r"/page|/api/\w+") for method in ("POST", "PUT", "PATCH", "DELETE")}
HERE: dict[str, str | None] = {"Host": "igkd.example.org", "Origin": "https://igkd.example.org"}


def opened(rules: Rules = RULES, **changes: Any) -> Gate:
    """A gate that asks for no token."""
    return Gate(answering(), replace(rules, **changes))


@pytest.fixture
def door() -> Logins:
    return Logins(TOKEN)


@pytest.fixture
def closed(door: Logins) -> Gate:
    """A gate that asks for the token and lets changes pass."""
    return Gate(answering(), replace(RULES, writes=WRITES), door)


def login(gate: Gate, token: str, target: str = "/page", **options: Any) -> Answer:
    body = f"token={token}&next={target}".encode()
    return visit(gate, LOGIN, "POST", body, **options)


def cookie_of(answer: Answer) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


# Tokens.


def test_without_the_token_nothing_is_shown_but_health_and_the_login(closed: Gate) -> None:
    for path in ("/", "/page", "/api/x", "/static/x", "/artifacts/1", "/nowhere"):
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
            refused = visit(closed, path, method)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert b"shown" not in refused.body
    assert visit(closed, HEALTH).plain == {"status": "ok"}
    assert visit(closed, LOGIN).status == 200


def test_scripts_send_the_token(closed: Gate) -> None:
    assert visit(closed, "/api/x", Authorization=f"Bearer {TOKEN}").body == b"shown"
    assert visit(closed, "/api/x", "POST", Authorization=f"bearer  {TOKEN}").status == 200
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", TOKEN):
        assert visit(closed, "/api/x", Authorization=wrong).status == 401


def test_no_token_is_read_from_the_address(closed: Gate) -> None:
    assert visit(closed, f"/api/x?token={TOKEN}").status == 401


def test_browsers_are_asked_by_a_page_and_scripts_by_json(closed: Gate) -> None:
    page = visit(closed, "/page?x=1", Accept="text/html,*/*")
    assert (page.status, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert b'action="/login"' in page.body
    assert b'value="/page?x=1"' in page.body
    assert "Bearer TOKEN" in visit(closed, "/api/x", Accept="*/*").plain["reason"]


def test_who_follows_a_link_can_go_on_with_the_cookie_that_was_kept_back(closed: Gate) -> None:
    headers: dict[str, str | None] = {
        "Accept": "text/html",
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
    }
    page = visit(closed, "/page?x=1", headers=headers)
    assert (page.status, b'<a href="/page?x=1">' in page.body) == (401, True)
    assert b"<a " not in visit(closed, "/page", Accept="text/html").body


def test_the_login_gives_a_cookie_that_opens(closed: Gate, door: Logins) -> None:
    given = login(closed, TOKEN)
    assert (given.status, given.headers["location"]) == (303, "/page")
    parts = given.headers["set-cookie"].split("; ")
    assert parts[1:] == ["Path=/", "HttpOnly", "SameSite=Strict"]
    assert TOKEN not in given.headers["set-cookie"]
    assert visit(closed, "/api/x", Cookie=cookie_of(given)).status == 200
    assert visit(closed, "/api/x", Cookie=f"a=b; {cookie_of(given)}; c=d").status == 200
    assert visit(closed, "/api/x", Cookie=f"{door.cookie}=forged; {cookie_of(given)}").status == 200
    assert visit(closed, "/api/x", Cookie=f"{door.cookie}=forged").status == 401


def test_over_tls_the_cookie_travels_by_tls_only(closed: Gate) -> None:
    assert login(closed, TOKEN, scheme="https").headers["set-cookie"].endswith("; Secure")


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "",
        "%2F%0d%0aSet-Cookie:x",
        "javascript:alert(1)",
        "/" + "x" * 3000,
    ],
)
def test_the_login_leads_nowhere_else(closed: Gate, target: str) -> None:
    assert login(closed, TOKEN, target).headers["location"] == "/"


def test_a_wrong_token_is_told_by_the_page_itself(closed: Gate) -> None:
    wrong = login(closed, "wrong")
    assert (wrong.status, b"This is not the token" in wrong.body) == (401, True)
    assert b'value="/page"' in wrong.body
    assert "set-cookie" not in wrong.headers


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}]
)
def test_another_site_cannot_log_anybody_in(closed: Gate, headers: dict[str, str | None]) -> None:
    assert login(closed, TOKEN, headers=headers).status == 403


def test_guesses_are_rate_limited_whichever_way_they_come(closed: Gate) -> None:
    cookie = cookie_of(login(closed, TOKEN))
    for number in range(TRIES):
        if number % 2:
            assert visit(closed, "/api/x", Authorization="Bearer wrong").status == 401
        else:
            assert login(closed, "wrong").status == 401
    for refused in (login(closed, TOKEN), visit(closed, "/", Authorization=f"Bearer {TOKEN}")):
        assert refused.status == 429
        assert 0 < int(refused.headers["retry-after"]) <= 61
    # who is in stays in, and who sits elsewhere is not concerned
    assert visit(closed, "/api/x", Cookie=cookie).status == 200
    elsewhere = visit(closed, "/", address="192.0.2.1", Authorization=f"Bearer {TOKEN}")
    assert elsewhere.status == 200


def test_old_cookies_are_no_guesses(closed: Gate, door: Logins) -> None:
    for _ in range(3 * TRIES):
        assert visit(closed, "/api/x", Cookie=f"{door.cookie}=1.old").status == 401
    assert login(closed, TOKEN).status == 303


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"token=x", "-1"),
        (b"token=x", "many"),
        (b"\xff=1", None),
        (b"x" * 5000, None),
        (b"&".join(b"a=1" for _ in range(100)), None),
    ],
)
def test_a_form_that_is_none_is_refused(closed: Gate, body: bytes, length: str | None) -> None:
    def shortened(environment: Environment, start: Start) -> Iterable[bytes]:
        if length is not None:
            environment["CONTENT_LENGTH"] = length
        return closed(environment, start)

    assert visit(shortened, LOGIN, "POST", body).status == 400


def test_the_login_takes_no_other_method(closed: Gate) -> None:
    refused = visit(closed, LOGIN, "DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, POST")


# Reads only.


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", ""]
)
def test_what_is_no_read_is_refused(method: str) -> None:
    refused = visit_unchecked(opened(), "/api/x", method)
    assert refused == 403


def test_a_path_that_is_not_known_is_refused() -> None:
    for path in ("/other", "/api/x/y", "/page/", "//page", "/api/../page", "/Page"):
        refused = visit(opened(), path)
        assert (refused.status, "--allow-write" in refused.plain["reason"]) == (403, True)
    assert visit(opened(), "/page").status == 200
    assert visit(opened(), "/page", "HEAD").body == b""


def test_only_known_changes_pass_when_they_are_allowed() -> None:
    gate = opened(writes={"PUT": re.compile("/note")}, why_not=lambda *asked: " ".join(asked))
    assert visit(gate, "/note", "PUT").status == visit(gate, "/page").status == 200
    for method, path in (("DELETE", "/note"), ("PUT", "/notes"), ("GET", "/note"), ("PUT", "/")):
        refused = visit(gate, path, method)
        assert (refused.status, refused.plain) == (403, {"reason": f"{method} {path}"})


@pytest.mark.parametrize("odd", ["\xd9\xa1", "\n", "\xff", "\x00", " ", "\x7f", "\x85"])
@pytest.mark.parametrize("path", ["/api/{}", "/pa{}ge", "/page{}", HEALTH + "{}", LOGIN + "{}"])
def test_a_path_that_others_could_decode_to_another_is_refused_first(odd: str, path: str) -> None:
    anything = dict.fromkeys(("GET", "DELETE"), re.compile(r"(?s:.*)"))
    gate = Gate(answering(), replace(RULES, writes=anything), Logins(TOKEN))
    for method in ("GET", "DELETE"):
        assert visit(gate, path.format(odd), method).status == 400


def visit_unchecked(gate: Gate, path: str, method: str) -> int:
    """The status for a method that the WSGI checker itself would refuse."""
    got: list[str] = []
    environment = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": "localhost"}
    b"".join(gate(environment, lambda status, headers, *error: got.append(status)))
    return int(got[0][:3])


# A path below which a proxy shows it.


@pytest.fixture
def below() -> Gate:
    def told(environment: Environment, start: Start) -> Iterable[bytes]:
        place = (environment["SCRIPT_NAME"], environment["PATH_INFO"])
        headers = [("Content-Type", "text/plain"), ("Location", "http://127.0.0.1:8080/page?a=1")]
        start("302 Found", headers)
        return [repr(place).encode()]

    return Gate(told, replace(RULES, base_path="/igkd"), Logins(TOKEN))


def test_a_base_path_is_cut_off_by_the_proxy_or_here(below: Gate) -> None:
    token = f"Bearer {TOKEN}"
    for path in ("/igkd/page", "/page"):
        answer = visit(below, path, Authorization=token)
        assert answer.body == b"('/igkd', '/page')"
        assert answer.headers["location"] == "/igkd/page?a=1"
    assert visit(below, "/igkd", Authorization=token).body == b"('/igkd', '/')"
    assert visit(below, "/igkdx", Authorization=token).status == 403
    assert visit(below, f"/igkd{HEALTH}").status == visit(below, HEALTH).status == 200


def test_the_login_below_a_path_stays_there(below: Gate) -> None:
    page = visit(below, "/igkd/page", Accept="text/html")
    assert b'action="/igkd/login"' in page.body
    given = login(below, TOKEN)
    assert given.headers["location"] == "/igkd/page"
    assert "; Path=/igkd;" in given.headers["set-cookie"]


# Health.


def test_health_says_no_more_than_that() -> None:
    sick = Gate(answering(), RULES, Logins(TOKEN), lambda: False)
    answer = visit(sick, HEALTH, Host="10.0.0.1")  # a probe has its own name for it
    assert (answer.status, answer.plain) == (503, {"status": "the database does not answer"})
    assert visit(sick, HEALTH, "POST").status == 401
