"""Who calls: a stranger's name for this machine, or a page of another site, is seen to be that."""

import pytest

from tests.test_gate import HERE, WRITES, opened
from tests.visits import visit

# Names: DNS rebinding.


@pytest.mark.parametrize(
    "name",
    ["127.0.0.1", "127.0.0.1:8080", "LOCALHOST:1", "[::1]:8080", "[::1]", "igkd.example.org."],
)
def test_its_own_names_are_let_pass(name: str) -> None:
    assert visit(opened(), Host=name).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "192.0.2.1",
        "",
        None,
        "127.0.0.1@evil.example",
        "[::1",
        "::1",
        "localhost, evil.example",
        "[::1]evil.example",
    ],
)
def test_any_other_name_is_refused(name: str | None) -> None:
    refused = visit(opened(), headers={"Host": name})
    assert refused.status == 403
    assert "--allowed-host" in refused.plain["reason"]


def test_on_all_addresses_any_address_is_its_own_but_no_name() -> None:
    gate = opened(any_address=True)
    assert visit(gate, Host="192.0.2.1:8080").status == 200
    assert visit(gate, Host="[2001:db8::1]:8080").status == 200
    assert visit(gate, Host="evil.example:8080").status == 403


# Origins: CSRF, and reading across sites.


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "GET"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "https://igkd.example.org.evil.example",
        "http://127.0.0.1:1",
        "file://127.0.0.1:8080",
        "http://",
        "chrome-extension://127.0.0.1:8080",
    ],
)
def test_what_a_page_of_another_site_sends_is_refused(method: str, origin: str) -> None:
    refused = visit(opened(writes=WRITES), "/api/x", method, Origin=origin)
    assert (refused.status, "another site" in refused.plain["reason"]) == (403, True)


def test_its_own_pages_may_send() -> None:
    gate = opened(writes=WRITES)
    ours: list[dict[str, str | None]] = [
        {"Origin": "http://127.0.0.1:8080", "Sec_Fetch_Site": "same-origin"},
        {"Host": "[::1]:8080", "Origin": "http://[::1]:8080"},
        HERE,
        # a proxy that puts another name in place of its own
        {**HERE, "Host": "127.0.0.1:8080"},
        {},  # no browser
    ]
    for own in ours:
        assert visit(gate, "/api/x", "POST", headers=own).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_cannot_use_what_is_here_but_may_link_to_it(site: str) -> None:
    gate = opened()
    embedded: dict[str, str | None] = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors"}
    assert visit(gate, "/api/x", headers=embedded, Sec_Fetch_Dest="image").status == 403
    followed: dict[str, str | None] = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate"}
    assert visit(gate, "/page", headers=followed, Sec_Fetch_Dest="document").status == 200
    assert visit(gate, "/page", headers=followed, Sec_Fetch_Dest="iframe").status == 403
    posted = visit(
        opened(writes=WRITES), "/page", "POST", headers=followed, Sec_Fetch_Dest="document"
    )
    assert posted.status == 403
