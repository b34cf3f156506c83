"""Who may enter by a token: compared in constant time, guessed only slowly, remembered by a cookie.

Wrong tokens are counted for each client address, so that somebody's guesses lock out nobody else.
The cookie holds a signed end of the session, never the token; another token ends all sessions.
"""

import hashlib
import hmac
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 60.0
"""Seconds that a wrong token is held against its address."""
TRIES = 5
"""Wrong tokens an address has within that time."""
TRIES_OF_ALL = 100
"""Wrong tokens of all addresses within that time; beyond, an address has one."""
ADDRESSES = 10_000
"""How many addresses are remembered; beyond, who has been silent longest is forgotten."""
SESSION_SECONDS = 12 * 3600


class Failures:
    """Wrong tokens of the last minute, by address; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: OrderedDict[str, list[float]] = OrderedDict()  # the last to fail stands last
        self._total = 0

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 when it may now."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            mine = self._since.get(_network(address), [])
            allowed = TRIES if self._total < TRIES_OF_ALL else 1
            recent = [moment for moment in mine if moment > now - WINDOW]
            # an address that has not failed may always try: others must not lock it out
            return recent[-allowed] + WINDOW - now if len(recent) >= allowed else 0.0

    def note(self, address: str) -> None:
        """Count a wrong token."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            moments = self._since.setdefault(_network(address), [])
            moments.append(now)
            self._total += 1
            if len(moments) > TRIES:
                self._total -= len(moments) - TRIES
                del moments[:-TRIES]
            self._since.move_to_end(_network(address))
            while len(self._since) > ADDRESSES:
                self._total -= len(self._since.popitem(last=False)[1])

    def _forget(self, now: float) -> None:
        while self._since:
            address = next(iter(self._since))
            if self._since[address][-1] > now - WINDOW:
                return
            self._total -= len(self._since.pop(address))


def _network(address: str) -> str:
    """What counts as one address: of IPv6 the 64 bits that a whole household is given."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    if found.version == 6:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


@dataclass(frozen=True)
class Verdict:
    """Whether a token opens; `wait` are the seconds after which it may be tried at all."""

    opens: bool
    wait: float = 0.0


class Logins:
    """Judges tokens and the cookies that stand for them."""

    def __init__(
        self,
        token: str,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = token.encode()
        self._now = now
        self.failures = Failures(clock)
        # browsers send cookies to every port of a host: each token has one of its own name
        self.cookie = f"igkd_{self._sign('cookie')[:12]}"

    def try_token(self, given: str, address: str) -> Verdict:
        """Whether this is the token; a wrong one counts, and too many have to wait."""
        wait = self.failures.wait(address)
        if wait > 0:
            return Verdict(False, wait)
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token):
            return Verdict(True)
        self.failures.note(address)
        return Verdict(False)

    def session(self) -> str:
        """What a cookie is to hold for the next hours."""
        end = str(int(self._now() + SESSION_SECONDS))
        return f"{end}.{self._sign(end)}"

    def is_session(self, value: str) -> bool:
        """Whether a cookie's value was made here, with this token, and has not ended."""
        end, _, signature = value.partition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(end).encode()):
            return False
        return int(end) > self._now()

    def _sign(self, text: str) -> str:
        # a key of its own: whoever sees signatures learns nothing about the token
        key = hmac.digest(self._token, b"igkd dashboard session", hashlib.sha256)
        return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
