"""Plain JSON as the bytes of a file in the database: compact, and compressed where it is large.

The same content gives the same bytes, whoever writes it when, for files are named by them.
"""

import gzip
import json
import zlib
from typing import Any

_LARGE = 50_000  # bytes; a matrix of a thousand classes, nearly all of it zeros, has millions


def dump(document: Any) -> bytes:
    """A document as bytes."""
    content = json.dumps(document, separators=(",", ":")).encode()
    return content if len(content) <= _LARGE else gzip.compress(content, mtime=0)


def load(content: bytes) -> Any:
    """What `dump` was given, tuples as lists; ValueError for other bytes."""
    try:
        return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not a whole document: {error}") from error
