"""How commands end: a user's error is one red line and exit code 1, an interruption 130.

Wrong usage is typer's, with 2. Whatever else comes out is a bug, with its traceback.
"""

import logging
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from igkd_search import __version__, console, processes
from igkd_search.errors import IgkdError, StorageError, reason_of

log = logging.getLogger(__name__)


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn a user's error into one line and exit 1, an interruption into a word and exit 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    processes.die_with_parent()
    console.log_to_terminal()
    log.debug("igkd-search %s, Python %s: %s", __version__, platform.python_version(), what)
    try:
        import optuna

        optuna.logging.disable_default_handler()  # its log goes where ours goes
        verbose = console.loudness().verbose
        optuna.logging.set_verbosity(optuna.logging.INFO if verbose else optuna.logging.WARNING)
        with _naming_lost_storage(optuna.exceptions.StorageInternalError):
            yield
    except IgkdError as error:
        if os.environ.get("IGKD_DEBUG"):
            raise
        console.print_error(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print_error(f"interrupted; nothing is lost, the same command goes on ({what})")
        raise typer.Exit(130) from None


@contextmanager
def _naming_lost_storage(lost: type[Exception]) -> Iterator[None]:
    """Optuna's word for a database that went away, as ours."""
    try:
        yield
    except lost as error:
        reason = reason_of(error.__cause__ or error)
        raise StorageError(
            f"the database was lost: {reason}; running trials keep their checkpoints, so the same "
            "command goes on once it is back"
        ) from error


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt
