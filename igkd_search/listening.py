"""The address that a server listens on: bound before anything is said, and who holds it if not.

An address is this host's own only if every address that its name stands for is a loopback one.
"""

import errno
import ipaddress
import socket
from dataclasses import dataclass

import psutil

from igkd_search.errors import StorageError

_NEXT = 50
"""How many further ports are looked at for a free one."""
Place = tuple[socket.AddressFamily, str]


@dataclass(frozen=True)
class Listening:
    """Sockets that are bound, and what they stand for."""

    host: str
    port: int
    sockets: list[socket.socket]
    everywhere: bool
    """Whether it is reached under every address of this host."""
    loopback: bool
    """Whether only this host reaches it."""

    @property
    def url(self) -> str:
        """Where a browser on this host, or one that knows its name, finds it; without a path."""
        host = socket.gethostname() if self.everywhere else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def names(self) -> set[str]:
        """Host names under which it is addressed, in small letters."""
        found = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        return found if self.loopback else found | {socket.gethostname().lower()}

    def close(self) -> None:
        """Give the port back."""
        for each in self.sockets:
            each.close()


def is_loopback(host: str) -> bool:
    """Whether only this host reaches it; StorageError for a name that stands for no address."""
    return all(_address(place).is_loopback for _, place in _places(host))


def listen(host: str, port: int) -> Listening:
    """Bind the port, 0 for any free one; StorageError says who holds it and which one is free."""
    places = _places(host)
    found: list[socket.socket] = []
    try:
        for family, place in places:
            found.append(_bound(family, place, port))
            port = found[0].getsockname()[1]  # the same on both of IPv4 and IPv6
    except OSError as error:
        for each in found:
            each.close()
        raise StorageError(_reason(host, port, error)) from error
    everywhere = any(_address(place).is_unspecified for _, place in places)
    return Listening(host, port, found, everywhere, is_loopback(host))


def _bound(family: socket.AddressFamily, place: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((place, port))
        # bound alone, another process may still be bound beside it
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def _places(host: str) -> list[Place]:
    """Every address that a name stands for, once."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StorageError(
            f"--host {host}: {error.strerror}; give an address of this machine, such as 127.0.0.1"
        ) from error
    inet = (socket.AF_INET, socket.AF_INET6)
    return list(dict.fromkeys((each[0], str(each[4][0])) for each in found if each[0] in inet))


def _address(place: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(place.split("%")[0])


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        free = _free_port(host, port)
        instead = "" if free is None else f"; type --port {free}, or --port 0 for any free one"
        return f"port {port} of {host} is taken by {_holder(port)}{instead}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host}: not allowed to you; type --port 8080, or any above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: no address of this machine; type --host 127.0.0.1 or 0.0.0.0 (all)"
    return f"cannot listen on port {port} of {host}: {error.strerror}"


def _holder(port: int) -> str:
    """Who listens on a port: its name, never its command line, which may hold a password."""
    try:
        for each in psutil.net_connections("tcp"):
            held = getattr(each.laddr, "port", None) == port
            if held and each.status == psutil.CONN_LISTEN and each.pid:
                return f"{psutil.Process(each.pid).name()} (pid {each.pid})"
    except psutil.Error:
        pass
    return "another user's process"


def _free_port(host: str, port: int) -> int | None:
    """The next port that could be listened on."""
    for candidate in range(port + 1, min(port + _NEXT, 65_535)):
        try:
            for family, place in _places(host):
                _bound(family, place, candidate).close()
        except OSError:
            continue
        return candidate
    return None
