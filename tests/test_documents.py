"""A document comes back as it was, small or large, and the same content has the same bytes."""

import pytest

from igkd_search import documents

LARGE = {"confusion": [[0] * 1000] * 100}


@pytest.mark.parametrize("document", [{"a": [1, 2.5, None], "b": "ü"}, LARGE])
def test_what_is_read_is_what_was_written(document: object) -> None:
    assert documents.load(documents.dump(document)) == document
    assert documents.dump(document) == documents.dump(document)


def test_what_is_large_is_compressed() -> None:
    assert len(documents.dump(LARGE)) < 2000


WHOLE = documents.dump(LARGE)
SPOILT = WHOLE[:40] + bytes([WHOLE[40] ^ 255]) + WHOLE[41:]


@pytest.mark.parametrize("content", [b"", b"no", WHOLE[:-9], b"\x1f\x8b\x08no", SPOILT])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        documents.load(content)
