"""Who calls: a request as the gate sees it, under which name and from which page it came.

A browser can be made to call by any page that it shows, and a stranger's name may point at this
machine; so neither is let pass because it reached us.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Environment = dict[str, Any]
Start = Callable[..., Any]
Application = Callable[[Environment, Start], Iterable[bytes]]
"""A WSGI application."""

_NOTHING = re.compile(r"(?!)")
_PLAIN = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True)
class Rules:
    """What a gate is told about the application behind it; paths are without the base path."""

    names: frozenset[str]
    """Host names, in small letters and without a port, under which it is addressed."""
    public: frozenset[str] = frozenset()
    """Those of them that a proxy shows it under, itself addressing it by another one maybe."""
    any_address: bool = False
    """Whether it may be addressed by any IP address: it listens on all of this host's."""
    base_path: str = ""
    """The path below which a proxy shows it, such as /igkd; empty when it has a host to itself."""
    reads: re.Pattern[str] = _NOTHING
    """Paths that change nothing when they are fetched."""
    writes: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    """By method, the paths at which changes pass; all else is refused."""
    why_not: Callable[[str, str], str] = lambda method, path: "this is refused here"
    """Why a method and a path are refused although changes pass."""
    foreign: re.Pattern[str] = _NOTHING
    """Paths that answer with what somebody uploaded: never run, never sniffed."""
    kept: re.Pattern[str] = _NOTHING
    """Paths that a browser may keep, if it asks each time whether they are still the same."""


@dataclass
class Request:
    """A request as the gate looks at it; its path is without the base path."""

    environment: Environment
    method: str
    path: str
    rules: Rules = field(repr=False)

    def header(self, name: str) -> str:
        """A header's value; empty when it was not sent."""
        return str(self.environment.get(f"HTTP_{name.upper().replace('-', '_')}", ""))

    @property
    def reads(self) -> bool:
        """Whether its method is one that only reads."""
        return self.method in ("GET", "HEAD")

    @property
    def by_browser(self) -> bool:
        """Whether a person waits for a page."""
        return self.reads and "text/html" in self.header("Accept")

    @property
    def address(self) -> str:
        """Who sent it."""
        return str(self.environment.get("REMOTE_ADDR", ""))

    @property
    def allowed(self) -> bool:
        """Whether it is known to change nothing, or to be a change that may pass."""
        if self.reads and self.rules.reads.fullmatch(self.path):
            return True
        return self.rules.writes.get(self.method, _NOTHING).fullmatch(self.path) is not None

    @property
    def is_plain(self) -> bool:
        """Whether its path is of printable ASCII: others may decode all else to another path."""
        return _PLAIN.fullmatch(str(self.environment.get("PATH_INFO", ""))) is not None


def request_of(environment: Environment, rules: Rules) -> Request:
    """The request, its base path moved to where WSGI has it; a proxy may have cut it off."""
    base, path = rules.base_path, str(environment.get("PATH_INFO", "")) or "/"
    if base and (path == base or path.startswith(f"{base}/")):
        path = path.removeprefix(base) or "/"
    environment["SCRIPT_NAME"], environment["PATH_INFO"] = base, path
    return Request(environment, str(environment.get("REQUEST_METHOD", "")), path, rules)


def wrong_name(request: Request) -> str | None:
    """Why the name that it is addressed by is not its own; None when it is."""
    name = host_of(request.header("Host"))
    if name in request.rules.names:
        return None
    if request.rules.any_address and _is_address(name):
        return None
    return (
        f"this dashboard is not known as {name[:100]!r}: if that is its name, start it with "
        "--allowed-host NAME"
    )


def other_site(request: Request) -> str | None:
    """Why this may be another site's doing; None when it is not.

    Browsers say where a request comes from; what is no browser says nothing, and sends no cookies
    of its own accord.
    """
    origin, site = request.header("Origin"), request.header("Sec-Fetch-Site")
    if origin and not _is_own(origin, request):
        return "refused: a page of another site asked for this (Origin)"
    if site in ("", "same-origin", "none"):
        return None
    # a link of another page may be followed, but nothing of this site be used in one
    followed = request.header("Sec-Fetch-Mode") == "navigate"
    if request.reads and followed and request.header("Sec-Fetch-Dest") == "document":
        return None
    return "refused: a page of another site asked for this (Sec-Fetch-Site)"


def _is_own(origin: str, request: Request) -> bool:
    place = urlsplit(origin).netloc.lower()
    if not place or not origin.startswith(("http://", "https://")):
        return False
    if place == request.header("Host").lower():
        return True
    # a proxy may have put another name in place of the public one
    return place in request.rules.public


def host_of(header: str) -> str:
    """The name of a Host header, without its port and the brackets of IPv6."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::\d*)?", header.strip())
    return "" if found is None else (found[1] or found[2] or "").lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
