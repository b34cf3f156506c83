"""optuna-dashboard's page below a path: its addresses begin at the root, so they are changed.

The front end is one page and one script, both built for the root of a host; the server tells the
script a base path for artifacts only. The few places where the script writes addresses are
replaced, each of which must be there and none of which may be left: another release fails at start
instead of showing a page that loads nothing.
"""

import gzip
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from igkd_search.callers import Application, Environment, Start
from igkd_search.errors import StorageError

PAGE = "index.html"
SCRIPT = "public/bundle.js"
SCRIPT_PATH = "/static/bundle.js"
REPLACED = {
    PAGE: {
        'src="/static/': 'src="{base}/static/',
        # without it a browser asks the root of the host, which is another site's
        "</title>": '</title><link rel="icon" href="{base}/favicon.ico">',
    },
    SCRIPT: {
        "${{this.baseURL}}/api/": "{base}/api/",
        'url_prefix:"/dashboard"': 'url_prefix:"{base}/dashboard"',
        "`/artifacts/$": "`{base}/artifacts/$",
        "](/artifacts/$": "]({base}/artifacts/$",
        "`/csv/$": "`{base}/csv/$",
    },
}
"""File -> what stands in it -> what shall stand there."""
_FROM_THE_ROOT = re.compile(r"""["'`(}]/(?:api|artifacts|csv|dashboard|static)(?=[/"'`])""")


@dataclass(frozen=True)
class FrontEnd:
    """Both files as they are below a path."""

    page: bytes
    script: bytes
    digest: str


def moved(base_path: str, folder: Path) -> FrontEnd:
    """Both files of the package in `folder`, changed; StorageError when they are not as known."""
    page, script = (_moved(folder / name, REPLACED[name], base_path) for name in (PAGE, SCRIPT))
    return FrontEnd(page, gzip.compress(script, 6, mtime=0), hashlib.sha256(script).hexdigest())


def _moved(file: Path, replaced: dict[str, str], base: str) -> bytes:
    text = file.read_text(encoding="utf-8")
    for before, after in replaced.items():
        before = before.format()
        if before not in text:
            raise _another_release(f"{before} is not in {file.name}")
        text = text.replace(before, after.format(base=base))
    # what the server tells the script comes in front of this one
    left = _FROM_THE_ROOT.findall(text.replace("${e}/artifacts/", ""))
    if left:
        raise _another_release(f"{file.name} has {left[0]} in another place")
    return text.encode()


def _another_release(found: str) -> StorageError:
    return StorageError(
        f"--base-path: the front end of optuna-dashboard {version('optuna-dashboard')} is not the "
        f"one that igkd-search knows ({found}); give the dashboard a host name of its own instead, "
        "or install the version that constraints.txt names"
    )


class Below:
    """An application whose page and script are these."""

    def __init__(self, application: Application, files: FrontEnd) -> None:
        self._application = application
        self._files = files

    def __call__(self, environment: Environment, start: Start) -> Iterable[bytes]:
        path = str(environment["PATH_INFO"])
        if path == SCRIPT_PATH:
            return self._script(environment, start)
        if path != "/dashboard" and not path.startswith("/dashboard/"):
            return self._application(environment, start)
        return self._page(environment, start)

    def _page(self, environment: Environment, start: Start) -> Iterable[bytes]:
        """The application's answer with our page in it; it alone knows with which policy."""
        for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_RANGE"):
            environment.pop(name, None)
        body = self._files.page

        def start_ours(status: str, headers: list[tuple[str, str]], *error: object) -> object:
            theirs = ("content-length", "etag", "last-modified", "accept-ranges")
            kept = [each for each in headers if each[0].lower() not in theirs]
            return start(status, [*kept, ("Content-Length", str(len(body)))], *error)

        answer = self._application(environment, start_ours)
        if hasattr(answer, "close"):
            answer.close()
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    def _script(self, environment: Environment, start: Start) -> Iterable[bytes]:
        tag = f'"{self._files.digest[:32]}"'
        headers = [("ETag", tag), ("Vary", "Accept-Encoding")]
        if environment.get("HTTP_IF_NONE_MATCH") == tag:
            start("304 Not Modified", headers)
            return []
        body = self._files.script
        headers.append(("Content-Type", "text/javascript; charset=utf-8"))
        if "gzip" in str(environment.get("HTTP_ACCEPT_ENCODING", "")):
            headers.append(("Content-Encoding", "gzip"))
        else:
            body = gzip.decompress(body)
        start("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]
