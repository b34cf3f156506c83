"""A gate before any WSGI application: who may come in, from where, and only to look.

It refuses names that are not its own (DNS rebinding), what other sites send (CSRF), who has no
token, and whatever is not known to be a read; and it gives every answer strict headers. It knows
nothing of the application but the paths that `Rules` names.
"""

import logging
import re
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote

from igkd_search import answers, callers, login_page
from igkd_search.callers import Application, Environment, Request, Rules, Start
from igkd_search.logins import Logins, Verdict

log = logging.getLogger(__name__)

HEALTH = "/healthz"
LOGIN = "/login"
_FORM_BYTES = 4096
_ELSEWHERE = ("cross-site", "same-site")


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
        request = callers.request_of(environment, self._rules)
        if not request.is_plain:
            return answers.refuse(request, start, 400, "no path here has such a character")
        if request.path == HEALTH and request.reads:
            return self._health(request, start)
        refused = callers.wrong_name(request) or callers.other_site(request)
        if refused is not None:
            return answers.refuse(request, start, 403, refused)
        if self._logins is not None:
            if request.path == LOGIN:
                return self._login(request, start, self._logins)
            verdict = _verdict(request, self._logins)
            if not verdict.opens:
                return _ask(request, start, verdict)
        refused = _not_allowed(request)
        if refused is not None:
            return answers.refuse(request, start, 403, refused)
        return self._application(environment, answers.Strict(request, start))

    def _health(self, request: Request, start: Start) -> Iterable[bytes]:
        if self._is_healthy():
            return answers.answer(request, start, 200, {"status": "ok"})
        return answers.answer(request, start, 503, {"status": "the database does not answer"})

    def _login(self, request: Request, start: Start, logins: Logins) -> Iterable[bytes]:
        if request.reads:
            return _page(request, start, 200, "")
        if request.method != "POST":
            return answers.refuse(
                request, start, 405, "this path takes GET and POST", ("Allow", "GET, HEAD, POST")
            )
        form = _form(request.environment)
        if form is None:
            return answers.refuse(request, start, 400, "a form with a token is expected here")
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
        return answers.answer(request, start, 303, {"status": "ok"}, *headers)


def _verdict(request: Request, logins: Logins) -> Verdict:
    """Whether this request carries the token, or a cookie that was given for it."""
    kind, _, token = request.header("Authorization").partition(" ")
    if kind.lower() == "bearer":
        return logins.try_token(token.strip(), request.address)
    # several of one name are possible: another path's, or one that a neighbour host has set
    return Verdict(any(map(logins.is_session, _cookies(request, logins.cookie))))


def _cookies(request: Request, name: str) -> list[str]:
    found = []
    for part in request.header("Cookie").split(";"):
        try:
            morsel = SimpleCookie(part.strip()).get(name)
        except CookieError:
            continue
        if morsel is not None:
            found.append(morsel.value)
    return found


def _not_allowed(request: Request) -> str | None:
    """Why this is refused, as all is that is not known to be allowed; None when it is allowed."""
    if request.allowed:
        return None
    if request.rules.writes:
        return request.rules.why_not(request.method, request.path)
    return (
        f"this dashboard only shows: {request.method[:20]} {request.path[:100]} is refused; "
        "igkd dashboard --allow-write lets changes pass"
    )


def _ask(
    request: Request, start: Start, verdict: Verdict, target: str = "", fault: str = ""
) -> Iterable[bytes]:
    """Ask for the token, or for patience."""
    if verdict.wait > 0:
        seconds = int(verdict.wait) + 1
        later = f"too many wrong tokens: try again in {seconds} s"
        header = ("Retry-After", str(seconds))
        if request.by_browser or request.path == LOGIN:
            return _page(request, start, 429, target, later, header)
        return answers.refuse(request, start, 429, later, header)
    if fault or request.header("Authorization"):
        log.warning("a wrong token from %s", request.address or "an unknown address")
    header = ("WWW-Authenticate", "Bearer")
    if request.by_browser or request.path == LOGIN:
        return _page(request, start, 401, target or _target(request), fault, header)
    reason = "a token is needed: Authorization: Bearer TOKEN, or open this in a browser"
    return answers.refuse(request, start, 401, reason, header)


def _target(request: Request) -> str:
    """Where to go after the login."""
    query = str(request.environment.get("QUERY_STRING", ""))
    path = quote(request.path.encode("latin-1"), safe="/:@!$&'()*+,;=~-._")
    return path + (f"?{query}" if query else "")


def _local(target: str) -> str:
    """A path of this site, whatever was asked for."""
    plain = len(target) < 2000 and re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", target) is not None
    return target if plain else "/"


def _page(
    request: Request, start: Start, status: int, target: str, fault: str = "", *headers: Any
) -> Iterable[bytes]:
    base = request.rules.base_path
    followed = base + _local(target) if request.header("Sec-Fetch-Site") in _ELSEWHERE else ""
    body = login_page.render(base + LOGIN, _local(target), fault, followed).encode()
    rules: answers.Headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", login_page.POLICY),
        # with no-referrer a browser would send the form with an origin of null
        ("Referrer-Policy", "same-origin"),
    ]
    return answers.send(request, start, status, [*rules, *headers], body)


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
