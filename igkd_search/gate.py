"""A gate before any WSGI application: who may come in, from where, and only to look.

It refuses names that are not its own (DNS rebinding), what other sites send (CSRF), who has no
token, and whatever is not known to be a read; and it gives every answer strict headers. It knows
nothing of the application but the paths that `Rules` names.
"""

import ipaddress
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from igkd_search import login_page
from igkd_search.logins import Logins, Verdict

log = logging.getLogger(__name__)

Environment = dict[str, Any]
Headers = list[tuple[str, str]]
Start = Callable[..., Any]
Application = Callable[[Environment, Start], Iterable[bytes]]

HEALTH = "/healthz"
LOGIN = "/login"
_FORM_BYTES = 4096
_NOTHING = re.compile(r"(?!)")
_ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_REFUSES = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_FRAMED_NOWHERE = "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_FOREIGN = (
    "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SHOWN = re.compile(r"(image/(png|jpeg|gif|webp|avif)|audio/|video/|text/plain\b)")
"""What somebody uploaded and a browser may show as a page of its own; the rest it saves."""


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
    """Paths that change nothing when they are fetched; all else is refused unless `writes`."""
    writes: bool = False
    why_not: Callable[[str, str], str | None] = lambda method, path: None
    """Why a change, of a method and a path, is refused even so; None when it is not."""
    foreign: re.Pattern[str] = _NOTHING
    """Paths that answer with what somebody uploaded: never run, never sniffed."""
    kept: re.Pattern[str] = _NOTHING
    """Paths that a browser may keep, if it asks each time whether they are still the same."""


@dataclass
class _Request:
    """What the gate looks at."""

    environment: Environment
    method: str
    path: str
    rules: Rules = field(repr=False)

    def header(self, name: str) -> str:
        return str(self.environment.get(f"HTTP_{name.upper().replace('-', '_')}", ""))

    @property
    def reads(self) -> bool:
        return self.method in ("GET", "HEAD")

    @property
    def by_browser(self) -> bool:
        """Whether a person waits for a page."""
        return self.reads and "text/html" in self.header("Accept")

    @property
    def address(self) -> str:
        return str(self.environment.get("REMOTE_ADDR", ""))


class Gate:
    """The application behind the gate, itself a WSGI application."""

    def __init__(
        self,
        application: Application,
        rules: Rules,
        logins: Logins | None = None,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self._application = application
        self._rules = rules
        self._logins = logins
        self._is_healthy = is_healthy

    def __call__(self, environment: Environment, start: Start) -> Iterable[bytes]:
        request = self._request(environment)
        if request.path == HEALTH and request.reads:
            return self._health(request, start)
        refused = _wrong_name(request) or _other_site(request)
        if refused is not None:
            return _refuse(request, start, 403, refused)
        if self._logins is not None:
            if request.path == LOGIN:
                return self._login(request, start, self._logins)
            verdict = _verdict(request, self._logins)
            if not verdict.opens:
                return _ask(request, start, verdict)
        refused = _not_allowed(request)
        if refused is not None:
            return _refuse(request, start, 403, refused)
        return self._application(environment, _Cleaned(request, start))

    def _request(self, environment: Environment) -> _Request:
        """The request, its base path moved to where WSGI has it; a proxy may have cut it off."""
        base, path = self._rules.base_path, str(environment.get("PATH_INFO", "")) or "/"
        if base and (path == base or path.startswith(f"{base}/")):
            path = path.removeprefix(base) or "/"
        environment["SCRIPT_NAME"], environment["PATH_INFO"] = base, path
        return _Request(environment, str(environment.get("REQUEST_METHOD", "")), path, self._rules)

    def _health(self, request: _Request, start: Start) -> Iterable[bytes]:
        if self._is_healthy():
            return _answer(request, start, 200, {"status": "ok"})
        return _answer(request, start, 503, {"status": "the database does not answer"})

    def _login(self, request: _Request, start: Start, logins: Logins) -> Iterable[bytes]:
        if request.reads:
            return _page(request, start, 200, "")
        if request.method != "POST":
            return _refuse(
                request, start, 405, "this path takes GET and POST", ("Allow", "GET, HEAD, POST")
            )
        form = _form(request.environment)
        if form is None:
            return _refuse(request, start, 400, "a form with a token is expected here")
        verdict = logins.try_token(form.get("token", "").strip(), request.address)
        if not verdict.opens:
            return _ask(request, start, verdict, form.get("next", ""), "This is not the token.")
        base = self._rules.base_path
        parts = [f"{logins.cookie}={logins.session()}", f"Path={base or '/'}"]
        parts += ["HttpOnly", "SameSite=Strict"]
        if request.environment.get("wsgi.url_scheme") == "https":
            parts.append("Secure")
        target = base + _local(form.get("next", ""))
        headers = [("Location", target), ("Set-Cookie", "; ".join(parts))]
        return _answer(request, start, 303, {"status": "ok"}, *headers)


def _wrong_name(request: _Request) -> str | None:
    """Why the name that it is addressed by is not its own; None when it is."""
    name = _host(request.header("Host"))
    if name in request.rules.names:
        return None
    if request.rules.any_address and _is_address(name):
        return None
    return (
        f"this dashboard is not known as {name[:100]!r}: if that is its name, start it with "
        "--allowed-host NAME"
    )


def _other_site(request: _Request) -> str | None:
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


def _is_own(origin: str, request: _Request) -> bool:
    place = urlsplit(origin).netloc.lower()
    if not place or not origin.startswith(("http://", "https://")):
        return False
    if place == request.header("Host").lower():
        return True
    # a proxy may have put another name in place of the public one
    return place in request.rules.public


def _verdict(request: _Request, logins: Logins) -> Verdict:
    """Whether this request carries the token, or a cookie that was given for it."""
    kind, _, token = request.header("Authorization").partition(" ")
    if kind.lower() == "bearer":
        return logins.try_token(token.strip(), request.address)
    # several of one name are possible: another path's, or one that a neighbour host has set
    return Verdict(any(map(logins.is_session, _cookies(request, logins.cookie))))


def _cookies(request: _Request, name: str) -> list[str]:
    found = []
    for part in request.header("Cookie").split(";"):
        try:
            morsel = SimpleCookie(part.strip()).get(name)
        except CookieError:
            continue
        if morsel is not None:
            found.append(morsel.value)
    return found


def _not_allowed(request: _Request) -> str | None:
    """Why this is no read of this dashboard and therefore refused; None when it is allowed."""
    if request.reads and request.rules.reads.fullmatch(request.path):
        return None
    if request.rules.writes:
        return request.rules.why_not(request.method, request.path)
    return (
        f"this dashboard only shows: {request.method[:20]} {request.path[:100]} is refused; "
        "igkd dashboard --allow-write lets changes pass"
    )


def _ask(
    request: _Request, start: Start, verdict: Verdict, target: str = "", fault: str = ""
) -> Iterable[bytes]:
    """Ask for the token, or for patience."""
    if verdict.wait > 0:
        seconds = int(verdict.wait) + 1
        later = f"too many wrong tokens: try again in {seconds} s"
        header = ("Retry-After", str(seconds))
        if request.by_browser or request.path == LOGIN:
            return _page(request, start, 429, target, later, header)
        return _refuse(request, start, 429, later, header)
    if fault or request.header("Authorization"):
        log.warning("a wrong token from %s", request.address or "an unknown address")
    header = ("WWW-Authenticate", "Bearer")
    if request.by_browser or request.path == LOGIN:
        return _page(request, start, 401, target or _target(request), fault, header)
    reason = "a token is needed: Authorization: Bearer TOKEN, or open this in a browser"
    return _refuse(request, start, 401, reason, header)


def _target(request: _Request) -> str:
    """Where to go after the login."""
    query = str(request.environment.get("QUERY_STRING", ""))
    path = quote(request.path.encode("latin-1"), safe="/:@!$&'()*+,;=~-._")
    return path + (f"?{query}" if query else "")


def _local(target: str) -> str:
    """A path of this site, whatever was asked for."""
    plain = len(target) < 2000 and re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", target) is not None
    return target if plain else "/"


def _page(
    request: _Request, start: Start, status: int, target: str, fault: str = "", *headers: Any
) -> Iterable[bytes]:
    body = login_page.render(request.rules.base_path + LOGIN, _local(target), fault).encode()
    rules: Headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", login_page.POLICY),
        # with no-referrer a browser would send the form with an origin of null
        ("Referrer-Policy", "same-origin"),
    ]
    return _send(request, start, status, [*rules, *headers], body)


def _refuse(
    request: _Request, start: Start, status: int, reason: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    return _answer(request, start, status, {"reason": reason}, *headers)


def _answer(
    request: _Request,
    start: Start,
    status: int,
    found: Mapping[str, str],
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    kind = ("Content-Type", "application/json")
    policy = ("Content-Security-Policy", _REFUSES)
    return _send(request, start, status, [kind, policy, *headers], json.dumps(found).encode())


def _send(
    request: _Request, start: Start, status: int, headers: Headers, body: bytes
) -> Iterable[bytes]:
    sent = {name for name, _ in headers}
    general = [each for each in _ALWAYS if each[0] not in sent]
    length = ("Content-Length", str(len(body)))
    line = f"{status} {HTTPStatus(status).phrase}"
    start(line, [*headers, *general, ("Cache-Control", "no-store"), length])
    return [] if request.method == "HEAD" else [body]


@dataclass(frozen=True)
class _Cleaned:
    """`start_response` for the application: its headers become ours where ours are stricter."""

    request: _Request
    start: Start

    def __call__(self, status: str, headers: Headers, *error: Any) -> Any:
        return self.start(status, self._headers(headers), *error)

    def _headers(self, headers: Headers) -> Headers:
        strict = {name.lower() for name, _ in _ALWAYS}
        kept = [
            (name, self._location(value) if name.lower() == "location" else value)
            for name, value in headers
            if not name.lower().startswith("access-control-") and name.lower() not in strict
        ]
        names = {name.lower(): value for name, value in kept}
        kept += _ALWAYS
        if self.request.rules.foreign.fullmatch(self.request.path):
            ours = ("content-security-policy", "content-disposition")
            kept = [each for each in kept if each[0].lower() not in ours]
            kept.append(("Content-Security-Policy", _FOREIGN))
            shown = _SHOWN.match(names.get("content-type", "").lower())
            kept.append(("Content-Disposition", "inline" if shown else "attachment"))
        elif "content-security-policy" in names:
            kept.append(("Content-Security-Policy", _FRAMED_NOWHERE))  # both hold
        else:
            kept.append(("Content-Security-Policy", _REFUSES))
        keeps = self.request.rules.kept.fullmatch(self.request.path)
        kept = [each for each in kept if each[0].lower() != "cache-control"]
        return [*kept, ("Cache-Control", "private, no-cache" if keeps else "no-store")]

    def _location(self, value: str) -> str:
        """A redirection within the application, below the base path; a proxy knows the rest."""
        place = urlsplit(value)
        base = self.request.rules.base_path
        path = place.path if place.path.startswith(f"{base}/") else f"{base}{place.path}"
        return path + (f"?{place.query}" if place.query else "")


def _form(environment: Environment) -> dict[str, str] | None:
    """The fields of a small form; None when it is none."""
    try:
        length = int(environment.get("CONTENT_LENGTH") or 0)
        if not 0 < length <= _FORM_BYTES:
            return None
        text = environment["wsgi.input"].read(length).decode("ascii")
        return {name: each[0] for name, each in parse_qs(text, max_num_fields=8).items()}
    except ValueError:
        return None


def _host(header: str) -> str:
    """The name of a Host header, without its port and the brackets of IPv6."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::\d*)?", header.strip())
    return "" if found is None else (found[1] or found[2] or "").lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
