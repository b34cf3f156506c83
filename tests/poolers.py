"""A real PgBouncer before the tests' Postgres, configured as storage/ says but for places."""

import configparser
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

PROGRAM = shutil.which("pgbouncer")
SHIPPED = Path(__file__).resolve().parents[1] / "storage" / "pgbouncer.ini"
_PORT = 6432  # names a socket in a folder of its own, so nobody else's is in the way


@contextmanager
def pooler(url: str, passwords: Mapping[str, str]) -> Iterator[str]:
    """Run PgBouncer before the database of `url`; yields the same URL without a user, through it.

    `passwords` are those of the roles that may come in.
    """
    assert PROGRAM is not None
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer"))
    with subprocess.Popen(
        _command(folder, url, passwords), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "process up" in line:
                    break
            assert process.poll() is None and said, "".join(said)
            yield f"postgresql+psycopg:///{make_url(url).database}?host={folder}&port={_PORT}"
        finally:
            process.terminate()
            process.communicate(timeout=30)
            shutil.rmtree(folder)


def _command(folder: Path, url: str, passwords: Mapping[str, str]) -> list[str]:
    assert PROGRAM is not None
    users, settings = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text("".join(f'"{name}" "{word}"\n' for name, word in passwords.items()))
    shipped = configparser.ConfigParser(interpolation=None)
    shipped.read_string(SHIPPED.read_text("utf-8"))
    place = make_url(url)
    shipped["databases"] = {str(place.database): f"host={place.query['host']}"}
    here = {"listen_addr": "", "unix_socket_dir": str(folder), "auth_file": str(users)}
    shipped["pgbouncer"].update(here)
    with settings.open("w", encoding="utf-8") as file:
        shipped.write(file)
    if os.getuid() != 0:
        return [PROGRAM, str(settings)]
    # it refuses to run as root, and the server's socket lies in a folder of the server's account
    account = Path(str(place.query["host"])).owner()
    for path in (folder, users, settings):
        shutil.chown(path, account)
    return [PROGRAM, "--user", account, str(settings)]
