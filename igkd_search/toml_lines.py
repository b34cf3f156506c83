"""On which line of a TOML file each of its keys begins.

The standard library's parser says nothing of lines, so the file is cut into its statements: a
statement ends with the first line after which it parses by itself. That handles arrays and strings
of several lines, dotted keys and arrays of tables, without a parser of our own.
"""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]
"""Keys and positions down to a value, such as ("search", "start", 0, "temperature")."""


def nearest_line(lines: Mapping[Place, int], place: Place) -> int:
    """The line, from 1, of what stands at a place, or of what it would stand in.

    `lines` is what `lines_of` has found in a valid file.
    """
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def lines_of(text: str) -> dict[Place, int]:
    """Place of each table and value -> the line where its statement begins.

    A table that is only implied, as `search` is by [search.space], begins where it is first named.
    """
    found: dict[Place, int] = {}
    implied: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for number, statement in _statements(text):
        plain = tomllib.loads(statement)
        header = statement.lstrip().startswith("[")
        if header:
            table = _opened(plain, counts, repeated=statement.lstrip().startswith("[["))
            named = [table]
        else:
            named = [(*table, *rest) for rest in _places(plain)]
        for place in named:
            found[place] = number
            for length in range(1, len(place)):
                implied.setdefault(place[:length], number)
    return implied | found


_CLOSING = ("]", "}", '"""', "'''")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement that says something, with the number of its first line."""
    begin, held = 1, ""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        begin = begin if held else number
        held += f"{line}\n"
        # a long array is tried only where it may end, or a thousand lines would take seconds
        if begin != number and not any(mark in line for mark in _CLOSING):
            continue
        try:
            plain = tomllib.loads(held)
        except tomllib.TOMLDecodeError:
            continue
        if plain:
            yield begin, held
        held = ""


def _opened(plain: Mapping[str, Any], counts: dict[Place, int], repeated: bool) -> Place:
    """The place of the table that a header opens, a new one of its array if that is `repeated`."""
    keys: list[str] = []
    inner: Any = plain
    while isinstance(inner, Mapping) and inner:
        (key, inner), *_ = inner.items()
        keys.append(key)
    place: Place = ()
    for position, key in enumerate(keys):
        place = (*place, key)
        if repeated and position == len(keys) - 1:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place


def _places(plain: Any) -> Iterator[Place]:
    """The places of a value, and of all within it."""
    items: Any = ()
    if isinstance(plain, Mapping):
        items = plain.items()
    elif isinstance(plain, list):
        items = enumerate(plain)
    for key, inner in items:
        yield (key,)
        for rest in _places(inner):
            yield (key, *rest)
