"""`igkd dashboard`: the studies of a storage in a browser, to look at.

As in `cli`, heavy modules are imported inside the command.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igkd_search import console, processes
from igkd_search.command_options import HOME, HomeOption, StorageOption, url_of
from igkd_search.endings import reporting
from igkd_search.errors import StorageError

if TYPE_CHECKING:
    from igkd_search import database, listening

_OWN_PATHS = {"api", "artifacts", "csv", "dashboard", "static", "login", "healthz"}
_OWN_PATHS |= {"favicon.ico", "incompatible-rdb-schema"}
_THREADS = 6
_UPLOAD_BYTES = 64 * 2**20
_READ_BYTES = 2**16


def register(app: typer.Typer) -> None:
    """Add the command to those of an app."""
    app.command()(dashboard)


def dashboard(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="The port; 0 is any free one.")
    ] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="Ask for the token in this file.  [env var: IGKD_DASHBOARD_TOKEN, the token]",
        ),
    ] = None,
    new_token: Annotated[
        Path | None, typer.Option("--new-token", help="Write a fresh token to this file, and end.")
    ] = None,
    allow_write: Annotated[
        bool,
        typer.Option("--allow-write", help="Let changes pass: notes, files, running trials."),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host", metavar="NAME", help="A name it may be called by; repeatable."
        ),
    ] = None,
    base_path: Annotated[
        str, typer.Option("--base-path", metavar="PATH", help="Where a proxy shows it, as /igkd.")
    ] = "",
    trusted_proxy: Annotated[
        str | None,
        typer.Option("--trusted-proxy", metavar="IP", help="Believe its X-Forwarded headers."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    storage: StorageOption = None,
    home: HomeOption = HOME,
) -> None:
    """Look at the studies of a storage in a browser; prints the URL, Ctrl-C ends it.

    Any other address than this host's own needs a token.
    """
    with reporting("dashboard"):
        from igkd_search import listening, tokens

        if new_token is not None:
            tokens.make(new_token)
            console.print_line(str(new_token))
            console.print_note(f"type igkd dashboard --token-file {new_token}")
            return
        below = _base_path(base_path)
        public = frozenset(_name(each) for each in allowed_host or ())
        token = tokens.given(token_file)
        if token is None and not listening.is_loopback(host):
            raise StorageError(
                f"--host {host}: whoever reaches it could look at your studies, so a token is "
                "needed; type igkd dashboard --new-token FILE, then add --token-file FILE "
                f"(or stay on 127.0.0.1 and reach it by ssh -L {port}:127.0.0.1:{port} THIS_HOST)"
            )
        base, writing = _open(url_of(storage, home), allow_write)
        place = listening.listen(host, port)
        try:
            server = _server(base, writing, home, place, public, below, token, trusted_proxy)
            _announce(f"{place.url}{below}/", _who(token, public, trusted_proxy), allow_write)
            if open_browser:
                _show(f"{place.url}{below}/")
            ended_by = _run(server)
        finally:
            place.close()
            base.close()
            if writing is not None:
                writing.close()
    if ended_by == signal.SIGINT:
        raise typer.Exit(130)


def _base_path(typed: str) -> str:
    path = typed.rstrip("/")
    if path and not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", path):
        raise StorageError(f"--base-path {typed}: must be like /igkd or /tools/igkd")
    parts = path.split("/")[1:]
    if {".", ".."}.intersection(parts):
        raise StorageError(f"--base-path {typed}: must be like /igkd, without . and .. in it")
    if parts and parts[0] in _OWN_PATHS:
        raise StorageError(
            f"--base-path {typed}: must not begin with /{parts[0]}, a path of the dashboard itself "
            "(nobody could tell which of the two is meant); type another, like /igkd"
        )
    return path


def _name(typed: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+(?::\d+)?|\[[0-9A-Fa-f:]+\](?::\d+)?", typed):
        raise StorageError(f"--allowed-host {typed}: must be a name alone, like igkd.example.org")
    return typed.lower()


def _address(typed: str) -> str:
    try:
        return str(ipaddress.ip_address(typed))
    except ValueError:
        raise StorageError(f"--trusted-proxy {typed}: must be an IP address") from None


def _open(url: str, allow_write: bool) -> tuple[database.Database, database.Database | None]:
    """The database to read, and to write where that is allowed."""
    from igkd_search import database, patience

    base = database.connect(url, read_only=True)  # it is there, so nothing is made below
    if not allow_write:
        return base, None
    return base, database.connect(url, patience=patience.Patience(0))


def _server(
    base: database.Database,
    writing: database.Database | None,
    home: Path,
    place: listening.Listening,
    public: frozenset[str],
    below: str,
    token: str | None,
    trusted_proxy: str | None,
) -> Any:
    import waitress

    from igkd_search import dashboard, logins

    told = dashboard.rules(place.names, public, place.everywhere, below, writing is not None)
    door = None if token is None else logins.Logins(token)
    proxy: dict[str, Any] = {}
    if trusted_proxy is not None:
        headers = {"x-forwarded-for", "x-forwarded-proto"}
        proxy = {"trusted_proxy": _address(trusted_proxy), "trusted_proxy_headers": headers}
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for much at once
    return waitress.create_server(
        dashboard.guarded(base, home, told, door, writing),
        sockets=place.sockets,
        threads=_THREADS,
        max_request_body_size=_READ_BYTES if writing is None else _UPLOAD_BYTES,
        ident=None,
        **proxy,
    )


def _who(token: str | None, public: frozenset[str], trusted_proxy: str | None) -> str:
    if token is not None:
        return "whoever has the token"
    proxied = " and whoever a proxy lets pass" if public or trusted_proxy else ""
    return f"every user of this machine{proxied}"


def _announce(url: str, who: str, allow_write: bool) -> None:
    console.print_line(url)
    may = "look and change" if allow_write else "look, not change anything"
    console.print_note(f"{who} may {may}; Ctrl-C ends it")


def _show(url: str) -> None:
    """Open a browser beside the server: one in the terminal ends only when it is left."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _run(server: Any) -> int:
    """Serve until a signal asks to end; which one it was."""
    heard: list[int] = []

    def hear(number: signal.Signals) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    with processes.taking_signals(hear):
        server.run()  # it returns when interrupted, once its threads have answered
    return heard[0] if heard else 0
