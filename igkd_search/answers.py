"""Answers with strict headers: our own, and those of an application, whose headers are made so.

None may be framed, sniffed, kept by others' caches or used by another site; what somebody uploaded
can run nothing.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from igkd_search.callers import Request, Start

Headers = list[tuple[str, str]]

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
_EMBEDDED = re.compile(r"image/|audio/|video/|text/plain\b")
"""What somebody uploaded and a page may use as what it says it is, pictures of SVG among them."""
_SHOWN = re.compile(r"(image/(png|jpeg|gif|webp|avif)|audio/|video/|text/plain\b)")
"""What somebody uploaded and a browser may show as a page of its own; the rest it saves."""


def refuse(
    request: Request, start: Start, status: int, reason: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    return answer(request, start, status, {"reason": reason}, *headers)


def answer(
    request: Request,
    start: Start,
    status: int,
    found: Mapping[str, str],
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    kind = ("Content-Type", "application/json")
    policy = ("Content-Security-Policy", _REFUSES)
    return send(request, start, status, [kind, policy, *headers], json.dumps(found).encode())


def send(
    request: Request, start: Start, status: int, headers: Headers, body: bytes
) -> Iterable[bytes]:
    sent = {name for name, _ in headers}
    general = [each for each in _ALWAYS if each[0] not in sent]
    length = ("Content-Length", str(len(body)))
    line = f"{status} {HTTPStatus(status).phrase}"
    start(line, [*headers, *general, ("Cache-Control", "no-store"), length])
    return [] if request.method == "HEAD" else [body]


@dataclass(frozen=True)
class Strict:
    """`start_response` for the application: its headers become ours where ours are stricter."""

    request: Request
    start: Start

    def __call__(self, status: str, headers: Headers, *error: Any) -> Any:
        return self.start(status, self._headers(headers), *error)

    def _headers(self, headers: Headers) -> Headers:
        ours = {name.lower() for name, _ in _ALWAYS} | {"cache-control"}
        kept = [
            (name, self._location(value) if name.lower() == "location" else value)
            for name, value in headers
            if name.lower() not in ours and not name.lower().startswith("access-control-")
        ]
        rules, path = self.request.rules, self.request.path
        if rules.foreign.fullmatch(path):
            kept = _foreign(kept)
        elif any(name.lower() == "content-security-policy" for name, _ in kept):
            kept.append(("Content-Security-Policy", _FRAMED_NOWHERE))  # both hold
        else:
            kept.append(("Content-Security-Policy", _REFUSES))
        keeps = "private, no-cache" if rules.kept.fullmatch(path) else "no-store"
        return [*kept, *_ALWAYS, ("Cache-Control", keeps)]

    def _location(self, value: str) -> str:
        """A redirection within the application, below the base path; a proxy knows the rest."""
        place, base = urlsplit(value), self.request.rules.base_path
        path = f"/{place.path.lstrip('/')}"  # two slashes would begin another host's name
        path = path if base and path.startswith(f"{base}/") else f"{base}{path}"
        return path + (f"?{place.query}" if place.query else "")


def _foreign(headers: Headers) -> Headers:
    """What somebody uploaded: a picture, a sound or plain text is that, and all else only bytes."""
    names = {name.lower(): value for name, value in headers}
    kind = names.get("content-type", "").lower()
    ours = ("content-security-policy", "content-disposition", "content-type")
    kept = [each for each in headers if each[0].lower() not in ours]
    embedded = _EMBEDDED.match(kind)
    return [
        *kept,
        ("Content-Type", kind if embedded else "application/octet-stream"),
        ("Content-Disposition", "inline" if _SHOWN.match(kind) else "attachment"),
        ("Content-Security-Policy", _FOREIGN),
    ]
