"""The front end below a path: every address it writes is moved, or it is not served at all."""

import gzip
from pathlib import Path

import pytest

from igkd_search import front_end
from igkd_search.errors import StorageError
from tests.visits import answering, visit

SCRIPT = (
    "fetch(`${this.baseURL}/api/meta`);fetch(`${this.baseURL}/api/studies/${e}`);"
    'x={url_prefix:"/dashboard"};a=`/artifacts/${e}/1`;b=`/csv/${e}`;'
    "c=`![x](/artifacts/${e})`;d=(e,t)=>`${e}/artifacts/${t}`;"
)

PAGE = '<title>x</title><script src="/static/b.js">'


def package(folder: Path, script: str = SCRIPT, page: str = PAGE) -> Path:
    """A package whose two files are these."""
    (folder / "public").mkdir()
    (folder / front_end.SCRIPT).write_text(script)
    (folder / front_end.PAGE).write_text(page)
    return folder


def test_every_address_is_moved(tmp_path: Path) -> None:
    moved = front_end.moved("/igkd", package(tmp_path))
    icon = '<link rel="icon" href="/igkd/favicon.ico">'
    script = '<script src="/igkd/static/b.js">'
    assert moved.page.decode() == f"<title>x</title>{icon}{script}"
    assert gzip.decompress(moved.script).decode() == (
        "fetch(`/igkd/api/meta`);fetch(`/igkd/api/studies/${e}`);"
        'x={url_prefix:"/igkd/dashboard"};a=`/igkd/artifacts/${e}/1`;b=`/igkd/csv/${e}`;'
        # the last one is told the base path by the server
        "c=`![x](/igkd/artifacts/${e})`;d=(e,t)=>`${e}/artifacts/${t}`;"
    )


@pytest.mark.parametrize("gone", ["this.baseURL", "url_prefix", "`/csv/$"])
def test_another_front_end_is_refused_by_what_it_lacks(gone: str, tmp_path: Path) -> None:
    package(tmp_path, SCRIPT.replace(gone, "other"))
    with pytest.raises(StorageError, match=r"--base-path: .* is not in bundle.js.*constraints"):
        front_end.moved("/igkd", tmp_path)


@pytest.mark.parametrize("more", ["fetch('/api/new')", 'href="/dashboard/x"', "`/static/x`"])
def test_another_front_end_is_refused_by_what_it_has_besides(more: str, tmp_path: Path) -> None:
    package(tmp_path, SCRIPT + more)
    with pytest.raises(StorageError, match=r"--base-path: .* in another place"):
        front_end.moved("/igkd", tmp_path)


def test_only_page_and_script_are_ours_and_the_policy_is_theirs(tmp_path: Path) -> None:
    files = front_end.moved("/igkd", package(tmp_path))
    theirs = answering(("Content-Security-Policy", "theirs"), ("ETag", "x"), body=b"theirs")
    below = front_end.Below(theirs, files)
    for path in ("/dashboard", "/dashboard/studies/1"):
        page = visit(below, path)
        assert page.body == files.page
        assert page.headers["content-security-policy"] == "theirs"
        assert "etag" not in page.headers
        assert int(page.headers["content-length"]) == len(page.body)
        assert visit(below, path, "HEAD").body == b""
    for path in ("/api/meta", "/static/other.js", "/dashboards"):
        assert visit(below, path).body == b"theirs"


def test_the_script_is_sent_packed_once(tmp_path: Path) -> None:
    files = front_end.moved("/igkd", package(tmp_path))
    below = front_end.Below(answering(), files)
    packed = visit(below, front_end.SCRIPT_PATH, Accept_Encoding="gzip, br")
    plain = visit(below, front_end.SCRIPT_PATH)
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in plain.headers
    again = visit(below, front_end.SCRIPT_PATH, If_None_Match=plain.headers["etag"])
    assert (again.status, again.body) == (304, b"")
