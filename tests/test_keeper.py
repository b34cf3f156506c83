"""Whoever keeps a teacher first decides it; a reader keeps nothing and takes what is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from igkd_search import database, spec
from igkd_search.errors import StudyError
from igkd_search.keeper import Keeper, check_same


@pytest.fixture
def base(tmp_path: Path) -> Iterator[database.Database]:
    opened = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    yield opened
    opened.close()


def reader(base: database.Database, study: str = "tiny") -> Keeper:
    return Keeper.of(database.connect(base.url, read_only=True), study, writes=False)


def test_the_first_weights_kept_are_everyones(base: database.Database) -> None:
    first, second = Keeper.of(base, "tiny"), Keeper.of(base, "tiny")
    assert first.fetch("recipe") is None
    assert first.keep("recipe", b"one") == b"one"
    assert second.keep("recipe", b"two") == b"one"
    assert second.fetch("recipe") == b"one"


def test_another_recipe_or_study_is_another_teacher(base: database.Database) -> None:
    keeper = Keeper.of(base, "tiny")
    keeper.keep("recipe", b"one")
    assert keeper.keep("other", b"two") == b"two"
    assert Keeper.of(base, "huge").keep("recipe", b"three") == b"three"


def test_a_reader_takes_what_is_kept_and_keeps_nothing(base: database.Database) -> None:
    assert reader(base).keep("recipe", b"mine") == b"mine"
    assert Keeper.of(base, "tiny").fetch("recipe") is None
    Keeper.of(base, "tiny").keep("recipe", b"one")
    assert reader(base).keep("recipe", b"mine") == b"one"


def test_a_study_that_began_is_held_to_its_teacher(
    base: database.Database, study: spec.Study
) -> None:
    Keeper.of(base, "tiny").keep("recipe", b"one")
    base.write_study("tiny", study.model_dump(mode="json"), 3)
    (digest,) = base.file_digests("tiny").values()
    base.update_facts("tiny", fingerprints={"teacher": digest})
    assert Keeper.of(base, "tiny").begun() == reader(base).begun() == b"one"
    for keeper in (Keeper.of(base, "tiny"), reader(base)):
        with pytest.raises(StudyError, match="study 'tiny' began with another teacher"):
            keeper.keep("other", b"two")


def test_what_a_study_never_began_with_is_free() -> None:
    check_same("tiny", {}, {"teacher": "a" * 64})
    check_same("tiny", {"teacher": "a" * 64}, {"teacher": "a" * 64, "data": "b" * 64})
