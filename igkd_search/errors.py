"""The error tree: everything that a user can mend has a class here; bugs are plain Python errors.

    IgkdError
    ├── StudyError       a study file, an exported file or an option is wrong
    ├── DataError        a data source is missing, misshapen or mislabelled
    ├── MaterialError    a teacher, bank or latency table cannot be built, read or trusted
    ├── ProcessError     a worker's process cannot be kept running, or did not leave when asked to
    ├── MachineError     what a worker runs on failed; its process ends, its trial goes on elsewhere
    ├── StorageError     the home folder or the database cannot be reached, read or written
    │   ├── StorageLost  the database is away just now, and worth waiting for
    │   └── LeaseLost    another worker owns this slot now; whatever this one still holds is void
    └── TrialError       one trial failed; carries the cause, and the search goes on

A message says where, what was found, what is allowed and what to type.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

Cause = Literal["diverged", "out_of_memory", "bug", "lost"]


class IgkdError(Exception):
    """Root of all errors that are the user's to mend; the command line prints one red line."""


class StudyError(IgkdError):
    """A study file, an exported file or an option is wrong, or a study's question changed."""


class DataError(IgkdError):
    """A data source is missing, misshapen or mislabelled."""


class MaterialError(IgkdError):
    """A teacher, a bank or a latency table cannot be built, read or trusted."""


class ProcessError(IgkdError):
    """A worker's process cannot be kept running, or did not leave when it was asked to."""


class MachineError(IgkdError):
    """A device or a disk failed under a worker: no fault of its trial, which goes on elsewhere."""


class StorageError(IgkdError):
    """The home folder or the database cannot be reached, read or written."""

    @classmethod
    def of_writing(cls, place: object, error: OSError) -> Self:
        """For a place that cannot be written: the system's reason, and how to go on."""
        return cls(
            f"{place}: cannot be written ({error.strerror or error}); make room or get permission "
            "there and type the command again (what is finished is kept), or choose another folder "
            "(--home, IGKD_HOME or -o)"
        )

    @classmethod
    @contextmanager
    def when_writing(cls, place: object) -> Iterator[None]:
        """Turn an OSError of the body into `of_writing(place)`."""
        try:
            yield
        except OSError as error:
            raise cls.of_writing(place, error) from error


class StorageLost(StorageError):
    """The database is away just now: a restart, a dropped connection, a lock that is held."""


class LeaseLost(StorageError):
    """Another worker owns this slot now; this one must stop without writing."""


class TrialError(IgkdError):
    """One trial failed by its own fault; `cause` says which kind, the search goes on."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(f"{cause}: {message}")
        self.cause: Cause = cause


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or its kind when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
