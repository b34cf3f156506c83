"""The token that opens a dashboard: made once into a file of its owner's, read from it, judged.

A token is all that stands between a network and a study, so one that could be guessed is refused.
"""

import os
import secrets
from pathlib import Path

from igkd_search import files
from igkd_search.errors import StorageError

VARIABLE = "IGKD_DASHBOARD_TOKEN"
LENGTH = 32
"""Characters that a token has at least: 128 bits, were it hexadecimal and drawn by chance."""
_DIFFERENT = 8
_BYTES = 32
_HOW = "type igkd dashboard --new-token FILE, which writes a good one"


def make(file: Path) -> None:
    """Write a fresh token into a new file that its owner alone can read.

    StorageError when the file is there already, or cannot be written.
    """
    with StorageError.when_writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # made so, not changed to it afterwards: nobody may have opened it in between
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            os.fchmod(descriptor, 0o600)  # whatever the umask has taken away
            stream.write(f"{secrets.token_urlsafe(_BYTES)}\n")
    except FileExistsError:
        raise StorageError(
            f"--new-token {file}: the file is there already, and may hold a token that is in use; "
            f"serve with it (--token-file {file}), remove it first, or name another"
        ) from None
    except OSError as error:
        raise StorageError.of_writing(f"--new-token {file}", error) from error


def given(file: Path | None) -> str | None:
    """The token of a file, else of the environment, which forgets it; None when there is none.

    StorageError when the file cannot be read, or the token could be guessed.
    """
    typed = os.environ.pop(VARIABLE, None)  # for this process, not for those that it starts
    if file is not None:
        return _checked(_read(file), f"--token-file {file}")
    if typed is None:
        return None
    if not typed.strip():
        raise StorageError(
            f"{VARIABLE}: it is empty, as where a secret was not found; unset it to ask for no "
            f"token, or {_HOW}"
        )
    return _checked(typed.strip(), VARIABLE)


def _read(file: Path) -> str:
    try:
        return files.read_private(file).strip()
    except OSError as error:
        raise StorageError(
            f"--token-file {file}: cannot be read ({error.strerror}); "
            f"{_HOW.replace('FILE', str(file))}"
        ) from error


def _checked(token: str, where: str) -> str:
    # the token itself is never repeated
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise StorageError(f"{where}: a token is one word of printable ASCII; {_HOW}")
    if len(token) < LENGTH or len(set(token)) < _DIFFERENT:
        raise StorageError(
            f"{where}: this token could be guessed: found {len(token)} characters, "
            f"{len(set(token))} different ones; needed are {LENGTH}, {_DIFFERENT} different ones, "
            f"drawn by chance; {_HOW}"
        )
    return token
