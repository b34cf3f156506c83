"""Requests to a WSGI application without a network, held to the WSGI standard on both sides."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from igkd_search.callers import Application, Environment, Start


@dataclass(frozen=True)
class Answer:
    """What came back; `headers` by their names in small letters, the last of several."""

    status: int
    headers: dict[str, str]
    body: bytes
    pairs: list[tuple[str, str]]

    @property
    def plain(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def pairs_of(self, name: str) -> list[str]:
        """The values of a header that came several times."""
        return [value for each, value in self.pairs if each.lower() == name]


def visit(
    application: Application,
    path: str = "/",
    method: str = "GET",
    body: bytes = b"",
    scheme: str = "http",
    address: str = "127.0.0.1",
    headers: Mapping[str, str | None] = MappingProxyType({}),
    **more: str,
) -> Answer:
    """One request, from this address; `Accept_Encoding="gzip"` is a header.

    So are those of `headers`, where None leaves out what every client sends.
    """
    path, _, query = path.partition("?")
    environment: Environment = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REMOTE_ADDR": address,
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
    }
    for name, value in {"Host": "127.0.0.1:8080", **headers, **more}.items():
        if value is not None:
            key = name.upper()
            environment[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    setup_testing_defaults(environment)
    if headers.get("Host", "") is None:  # a default put it back
        del environment["HTTP_HOST"]
    got: dict[str, Any] = {}

    def start(status: str, sent: list[tuple[str, str]], error: Any = None) -> Any:
        got["status"], got["pairs"] = int(status[:3]), sent
        return lambda data: None

    answer = validator(application)(environment, start)
    content = b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    headers_by_name = {name.lower(): value for name, value in got["pairs"]}
    return Answer(got["status"], headers_by_name, content, got["pairs"])


def answering(*headers: tuple[str, str], body: bytes = b"shown") -> Application:
    """An application that answers everything alike, with these headers."""

    def application(environment: Environment, start: Start) -> Iterable[bytes]:
        kind = () if dict(headers).get("Content-Type") else (("Content-Type", "text/plain"),)
        start("200 OK", [*headers, *kind])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    return application
