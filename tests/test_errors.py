"""The error tree is what its docstring draws, and its messages reach the user whole."""

import inspect
import re
from typing import get_args

import pytest

from igkd_search import errors

CLASSES: dict[str, type[Exception]] = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, Exception)
}
LEAVES = sorted(set(CLASSES) - {"TrialError"})


def drawn() -> dict[str, str]:
    """Class -> parent, read from the tree in the module's docstring."""
    assert errors.__doc__ is not None
    tree: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^ {4}([ │├└─]*)([A-Z]\w+)", line)
        if found:
            del path[len(found[1]) // 4 :]
            if path:
                tree[found[2]] = path[-1]
            path.append(found[2])
    return tree


def test_the_tree_is_as_drawn() -> None:
    real = {name: found.__bases__[0].__name__ for name, found in CLASSES.items()}
    assert real.pop("IgkdError") == "Exception"
    assert drawn() == real


def test_every_class_says_what_it_is_for() -> None:
    assert [name for name, found in CLASSES.items() if not vars(found).get("__doc__")] == []


@pytest.mark.parametrize("name", LEAVES)
def test_the_message_is_the_line_the_user_reads(name: str) -> None:
    assert str(CLASSES[name]("file.toml: found 3, allowed 2")) == "file.toml: found 3, allowed 2"


@pytest.mark.parametrize("cause", get_args(errors.Cause))
def test_a_trial_error_carries_its_cause(cause: errors.Cause) -> None:
    error = errors.TrialError(cause, "the loss of step 3 is nan")
    assert error.cause == cause
    assert str(error) == f"{cause}: the loss of step 3 is nan"


def test_a_lost_lease_is_a_storage_error_and_a_failed_trial_is_not() -> None:
    assert issubclass(errors.LeaseLost, errors.StorageError)
    assert not issubclass(errors.TrialError, errors.StorageError)


def test_the_reason_is_the_first_line_and_without_words_the_kind() -> None:
    assert errors.reason_of(OSError("the disk is away\nand more about it")) == "the disk is away"
    assert errors.reason_of(TimeoutError()) == "TimeoutError"
