"""optuna-dashboard on a database of igkd, behind a gate: what is shown, and what may be asked.

Its own server knows no login and deletes a study for whoever asks. Here every path is refused that
is not known to be a read, or, where changes were allowed, one of those that leave a study whole.
"""

import functools
import json
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import bottle
import optuna_dashboard
import sqlalchemy as sa
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard._app import JupyterLabExtensionContext

from igkd_search import artifacts, callers, database, front_end, gate
from igkd_search.errors import StorageError, reason_of
from igkd_search.exhibit import Away, Exhibit, NoPatience, raising_away
from igkd_search.logins import Logins

log = logging.getLogger(__name__)

READS = (
    r"/",
    r"/dashboard(?:/.*)?",
    r"/api/meta",
    r"/api/studies",
    r"/api/studies/N",
    r"/api/studies/N/param_importances",
    r"/api/studies/N/plot/[a-z_]+",
    r"/csv/N",
    r"/favicon\.ico",
    r"/static/.+",
    r"/incompatible-rdb-schema",
    r"/artifacts/N/[0-9a-fA-F-]+",
    r"/artifacts/N/N/[0-9a-fA-F-]+",
)
"""Every path of optuna-dashboard that changes nothing when it is fetched.

N stands for the number of a study or trial; a slash may end a path.
"""
WRITES = {
    "PUT": (r"/api/studies/N/note", r"/api/studies/N/N/note"),
    "POST": (
        r"/api/trials/N/tell",
        r"/api/trials/N/user-attrs",
        r"/api/artifacts/N",
        r"/api/artifacts/N/N",
    ),
}
"""Every change that may be allowed: notes, and to trials that run values, attributes and files."""
OUR_OWN = {
    ("POST", r"/api/studies"): "a study begins with: igkd run STUDY",
    ("POST", r"/api/studies/N/rename"): "a study's name stands in its budget and files as well",
    ("DELETE", r"/api/studies/N"): "remove all of a study at once by: igkd delete STUDY",
    ("DELETE", r"/api/artifacts/.*"): (
        "copies of the study may share the file; it goes with its study: igkd delete STUDY"
    ),
    ("POST", r"/incompatible-rdb-schema"): "igkd brings its database up to date by itself",
}
"""Changes that are refused whatever was allowed, and what to type instead."""


def _any_of(paths: Iterable[str]) -> re.Pattern[str]:
    # more digits than the database's integers hold would be its error, not a number not found
    return re.compile(f"(?:{'|'.join(paths)})/*".replace("N", "[0-9]{1,9}"))


_READS = _any_of(READS)
_WRITES = {method: _any_of(paths) for method, paths in WRITES.items()}
_OUR_OWN = [(method, _any_of([path]), why) for (method, path), why in OUR_OWN.items()]
_STUDY = re.compile(r"/api/studies/([0-9]{1,9})/*")
_ASKS = re.compile(r"/(?:api/studies|csv|artifacts)\b.*")
"""Paths whose answer comes from the database."""


def guarded(
    base: database.Database,
    home: Path,
    told: callers.Rules,
    logins: Logins | None,
    writing: database.Database | None = None,
) -> callers.Application:
    """The whole as one WSGI application; StorageError when it cannot be served below a base path.

    `told` is what `rules` made; without `logins` nobody is asked for a token. All is read from
    `base`, and what changes pass are written by `writing`, the same database.
    """
    for each in (base, writing):
        if each is not None:
            each.storage.patience = NoPatience()
    inner = application(base, home, told.base_path, writing)
    return gate.Gate(inner, told, logins, lambda: is_healthy(base))


def rules(
    names: Iterable[str],
    public: Iterable[str] = (),
    any_address: bool = False,
    base_path: str = "",
    writes: bool = False,
) -> callers.Rules:
    """What the gate is told of optuna-dashboard, which is addressed by these names."""
    return callers.Rules(
        names=frozenset({*names, *map(callers.host_of, public)}),
        public=frozenset(public),
        any_address=any_address,
        base_path=base_path,
        reads=_READS,
        writes=_WRITES if writes else {},
        why_not=_why_not,
        foreign=re.compile(r"/artifacts/.*"),
        kept=re.compile(r"/static/.*|/favicon\.ico"),
    )


def application(
    base: database.Database,
    home: Path,
    base_path: str = "",
    writing: database.Database | None = None,
) -> callers.Application:
    """optuna-dashboard on this database, before no gate."""
    exhibit = Exhibit(base, writing)
    context = JupyterLabExtensionContext(base_url=base_path) if base_path else None
    inner: bottle.Bottle = optuna_dashboard.wsgi(
        exhibit,
        artifact_store=artifacts.Store(base, home / "artifacts"),
        jupyterlab_extension_context=context,
    )
    inner.catchall = False  # what goes wrong is told below, in JSON
    inner.install(_in_order)
    exhibit.forget = inner._inmemory_cache.clear
    shown: callers.Application = _Told(inner, exhibit)
    if base_path:
        folder = Path(optuna_dashboard.__file__).parent
        shown = front_end.Below(shown, front_end.moved(base_path, folder))
    return shown


def is_healthy(base: database.Database) -> bool:
    """Whether the database answers."""
    try:
        with base.transaction() as connection:
            connection.execute(sa.text("SELECT 1"))
    except StorageError:
        return False
    return True


def _in_order(route: Callable[..., Any]) -> Callable[..., Any]:
    """A plugin of bottle: plots come in one order, where optuna-dashboard takes that of a set."""

    @functools.wraps(route)
    def ordered(*arguments: Any, **options: Any) -> Any:
        found = route(*arguments, **options)
        if isinstance(found, dict) and "plotly_graph_objects" in found:
            found["plotly_graph_objects"].sort(key=lambda plot: plot["id"])
        return found

    return ordered


def _why_not(method: str, path: str) -> str:
    for refused, paths, instead in _OUR_OWN:
        if method == refused and paths.fullmatch(path):
            return f"refused, although changes are allowed here: {instead}"
    return f"{method[:20]} {path[:100]} is none of the reads and changes that pass here"


class _Told:
    """An application whose faults are told as JSON: an absent database, an absent artifact."""

    def __init__(self, inner: callers.Application, exhibit: Exhibit) -> None:
        self._inner = inner
        self._exhibit = exhibit
        self._away = False

    def __call__(self, environment: callers.Environment, start: callers.Start) -> Iterable[bytes]:
        # it looks for gzip in a header that not every client sends
        environment.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        path = environment["PATH_INFO"]
        asked = _STUDY.fullmatch(path)
        try:
            with raising_away(), self._exhibit.asked_for(int(asked[1]) if asked else None):
                answer = self._inner(environment, start)
            if self._away and _ASKS.fullmatch(path):
                log.info("the database is back")
                self._away = False
            return answer
        except Away as error:
            if not self._away:  # once, not at every look of every page; who looks is not told where
                log.warning("the database does not answer: %s", error)
                self._away = True
            said = "the database does not answer; this page goes on once it does"
            return _tell(start, "503 Service Unavailable", said, ("Retry-After", "5"))
        except ArtifactNotFound:
            return _tell(start, "404 Not Found", "there is no such artifact")
        except StorageError as error:
            log.error("%s", reason_of(error))
            return _tell(start, "500 Internal Server Error", _of_storage(error))
        except Exception:
            log.exception("%s %s failed", environment["REQUEST_METHOD"], path)
            return _tell(start, "500 Internal Server Error", "a bug; the dashboard's log has it")


def _of_storage(error: StorageError) -> str:
    """The fault for who looks, who is not told where the database is."""
    if error.__cause__ is None:
        return "a file in the database is damaged; the dashboard's log says which"
    return "the database has refused this; the dashboard's log says why"


def _tell(
    start: Callable[..., Any], status: str, reason: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()
    kind, length = ("Content-Type", "application/json"), ("Content-Length", str(len(body)))
    start(status, [kind, length, *headers])
    return [body]
