"""Guesses are slow for who makes them and for nobody else; a cookie is no token."""

import threading

import pytest

from igkd_search import logins
from igkd_search.logins import ADDRESSES, SESSION_SECONDS, TRIES, TRIES_OF_ALL, WINDOW, Logins

TOKEN = "0123456789abcdef" * 2


class Clock:
    """A clock that somebody else moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Logins:
    return Logins(TOKEN, now=clock, clock=clock)


def test_the_token_opens_and_nothing_else_does(door: Logins) -> None:
    assert door.try_token(TOKEN, "a").opens
    for number, wrong in enumerate(("", TOKEN[:-1], f"{TOKEN}0", TOKEN.upper(), "ä\udcff")):
        assert not door.try_token(wrong, f"address {number}").opens


def test_after_too_many_wrong_tokens_even_the_right_one_waits(door: Logins, clock: Clock) -> None:
    for _ in range(TRIES):
        assert door.try_token("wrong", "a") == logins.Verdict(False)
    refused = door.try_token(TOKEN, "a")
    assert not refused.opens
    assert refused.wait == WINDOW
    clock.now += WINDOW + 1
    assert door.try_token(TOKEN, "a").opens


def test_trying_while_one_has_to_wait_makes_it_no_longer(door: Logins, clock: Clock) -> None:
    for _ in range(TRIES):
        door.try_token("wrong", "a")
    clock.now += WINDOW / 2
    assert door.try_token("wrong", "a").wait == WINDOW / 2


def test_nobody_is_locked_out_by_the_guesses_of_others(door: Logins) -> None:
    for number in range(10 * TRIES_OF_ALL):
        door.try_token("wrong", f"10.0.{number // 250}.{number % 250}")
    assert door.try_token(TOKEN, "192.0.2.1").opens


def test_many_guesses_from_many_places_leave_each_a_single_try(door: Logins) -> None:
    assert door.try_token("wrong", "192.0.2.1").wait == 0
    for number in range(TRIES_OF_ALL):
        door.try_token("wrong", f"10.0.0.{number}")
    assert door.try_token(TOKEN, "192.0.2.1").wait > 0
    assert door.try_token("wrong", "192.0.2.2") == logins.Verdict(False)
    assert door.try_token("wrong", "192.0.2.2").wait > 0


def test_one_household_of_ipv6_is_one_address(door: Logins) -> None:
    for number in range(TRIES):
        door.try_token("wrong", f"2001:db8:1:2::{number}")
    assert door.try_token(TOKEN, "2001:db8:1:2:ffff::1").wait > 0
    assert door.try_token(TOKEN, "2001:db8:1:3::1").opens


def test_what_is_remembered_has_an_end(clock: Clock) -> None:
    failures = logins.Failures(clock)
    for number in range(ADDRESSES + 50):
        for _ in range(2):
            failures.note(str(number))
    assert len(failures._since) == ADDRESSES
    assert failures._total == 2 * ADDRESSES
    for _ in range(1000):
        failures.note("one")
    assert len(failures._since["one"]) == TRIES
    clock.now += WINDOW + 1
    assert failures.wait("one") == 0
    assert (len(failures._since), failures._total) == (0, 0)


def test_many_threads_count_right(clock: Clock) -> None:
    failures = logins.Failures(clock)

    def guess() -> None:
        for _ in range(200):
            failures.note("a")

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (failures._total, len(failures._since["a"])) == (TRIES, TRIES)


def test_a_session_ends_by_itself(door: Logins, clock: Clock) -> None:
    session = door.session()
    assert door.is_session(session)
    clock.now += SESSION_SECONDS + 1
    assert not door.is_session(session)


def test_a_session_cannot_be_made_longer_nor_up(door: Logins) -> None:
    end, _, signature = door.session().partition(".")
    for forged in ("", ".", f"{int(end) + 1}.{signature}", f"{end}.", f"{end}.{'0' * 64}", "ä.ä"):
        assert not door.is_session(forged)
    assert not Logins(f"{TOKEN}x").is_session(f"{end}.{signature}")


def test_no_token_stands_in_a_session(door: Logins) -> None:
    assert TOKEN not in door.session() + door.cookie


def test_two_dashboards_of_one_host_keep_their_cookies_apart(door: Logins) -> None:
    assert door.cookie != Logins(f"{TOKEN}x").cookie
    assert door.cookie == Logins(TOKEN).cookie
