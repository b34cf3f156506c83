"""The line of every key, in all the ways in which TOML lets it be written."""

import tomllib
from pathlib import Path

import pytest

from igkd_search.toml_lines import Place, lines_of, nearest_line

STUDIES = sorted((Path(__file__).resolve().parents[1] / "studies").glob("*.toml"))
TEXT = '''# a comment
name = "x"

[trial]  # its recipe
epochs = 8
a.b = 1

[search]
students = [
    "one",
    "[two]",
]
text = """
[not.a.header]
epochs = 3
"""
options = { deep = { er = 1 } }
"quoted key" = 2

[[search.start]]
temperature = 1.0
[[search.start]]
temperature = 2.0
[search.start.below]
x = 1

[only.implied]
y = 1
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("name",), 2),
        (("trial",), 4),
        (("trial", "epochs"), 5),
        (("trial", "a", "b"), 6),
        (("trial", "a"), 6),
        (("trial", "missing"), 4),
        (("search",), 8),
        (("search", "students"), 9),
        (("search", "students", 1), 9),
        (("search", "text"), 13),
        (("search", "options", "deep", "er"), 17),
        (("search", "quoted key"), 18),
        (("search", "start"), 20),
        (("search", "start", 0, "temperature"), 21),
        (("search", "start", 1), 22),
        (("search", "start", 1, "temperature"), 23),
        (("search", "start", 1, "below", "x"), 25),
        (("only",), 27),
        (("nothing", "like", "it"), 1),
        ((), 1),
    ],
)
def test_each_place_has_its_line(place: Place, line: int) -> None:
    assert nearest_line(lines_of(TEXT), place) == line
    assert nearest_line(lines_of(TEXT.replace("\n", "\r\n")), place) == line


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_value_of_the_shipped_studies_is_found_where_its_key_is_written(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()

    def walk(plain: object, place: Place) -> None:
        if isinstance(plain, dict):
            for key, inner in plain.items():
                walk(inner, (*place, key))
        elif isinstance(plain, list):
            for position, inner in enumerate(plain):
                walk(inner, (*place, position))
        else:
            # what stands in a list has no key of its own
            key = next(part for part in reversed(place) if isinstance(part, str))
            assert key in lines[nearest_line(lines_of(text), place) - 1]

    walk(tomllib.loads(text), ())


def test_a_long_file_is_read_in_one_go() -> None:
    text = "".join(f"[t{i}]\nx = {i}\n" for i in range(2000))
    assert lines_of(text)["t1999", "x"] == 4000
