"""Where a server listens: which addresses are this host's own, and who holds a port."""

import dataclasses
import errno
import os
import socket
from collections.abc import Iterator

import psutil
import pytest

from igkd_search import listening
from igkd_search.errors import StorageError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    place = listening.listen("127.0.0.1", 0)
    yield place.port
    place.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_loopback_addresses_are_this_hosts_own(host: str) -> None:
    assert listening.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:127.0.0.1"])
def test_no_other_address_is(host: str) -> None:
    assert not listening.is_loopback(host)


def test_a_name_is_as_open_as_the_most_open_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(socket.AF_INET, 1, 6, "", (place, 0)) for place in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert not listening.is_loopback("somewhere")


def test_a_name_without_an_address_is_told() -> None:
    with pytest.raises(StorageError, match="--host no such name"):
        listening.is_loopback("no such name")


def test_any_free_port_is_named_afterwards() -> None:
    place = listening.listen("127.0.0.1", 0)
    assert place.url == f"http://127.0.0.1:{place.port}"
    assert place.names == {"127.0.0.1", "localhost", "::1"}
    assert not place.everywhere
    with socket.create_connection(("127.0.0.1", place.port), timeout=10):
        pass
    place.close()


def test_ipv6_works_and_stands_in_brackets() -> None:
    place = listening.listen("::1", 0)
    assert place.url == f"http://[::1]:{place.port}"
    with socket.create_connection(("::1", place.port), timeout=10):
        pass
    place.close()


def test_on_all_addresses_it_is_called_by_the_hosts_name() -> None:
    place = listening.listen("0.0.0.0", 0)
    assert place.everywhere
    assert place.url == f"http://{socket.gethostname()}:{place.port}"
    assert socket.gethostname().lower() in place.names
    place.close()


def test_where_others_reach_it_the_hosts_name_is_its_own() -> None:
    place = listening.listen("127.0.0.1", 0)
    seen = dataclasses.replace(place, host="192.0.2.1", loopback=False)
    assert {"192.0.2.1", socket.gethostname().lower()} <= seen.names
    assert socket.gethostname().lower() not in place.names - {"localhost"}
    place.close()


def test_who_holds_a_port_is_named_and_a_free_one_offered(taken: int) -> None:
    name = psutil.Process().name()
    with pytest.raises(StorageError) as told:
        listening.listen("127.0.0.1", taken)
    said = str(told.value)
    assert f"port {taken} of 127.0.0.1 is taken by {name} (pid {os.getpid()})" in said
    offered = int(said.partition("type --port ")[2].partition(",")[0])
    listening.listen("127.0.0.1", offered).close()


def test_what_cannot_be_seen_is_another_users(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    with pytest.raises(StorageError, match="taken by another user's process"):
        listening.listen("127.0.0.1", taken)


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EACCES, "--port 8080"),
        (errno.EADDRNOTAVAIL, "no address of this machine"),
        (errno.ENOBUFS, "cannot listen"),
    ],
)
def test_other_reasons_are_told(number: int, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(listening, "_bound", refuse)
    with pytest.raises(StorageError, match=word):
        listening.listen("127.0.0.1", 80)
