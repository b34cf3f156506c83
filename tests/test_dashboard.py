"""Every route of the installed optuna-dashboard is behind the gate, and each was looked at."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from igkd_search import dashboard, registry, spec, study_file
from igkd_search.database import Database, connect
from igkd_search.errors import StorageError
from igkd_search.gate import Gate
from igkd_search.logins import Logins
from tests.databases import prepared_url
from tests.visits import Answer, visit

TOKEN = "0123456789abcdef" * 2
READS = {
    "/": "redirects to /dashboard",
    "/dashboard<:re:(/.*)?>": "the page",
    "/api/meta": "what is available",
    "/api/studies": "names of studies",
    "/api/studies/<study_id:int>": "one study and its trials",
    "/api/studies/<study_id:int>/param_importances": "computed from the trials",
    "/api/studies/<study_id:int>/plot/<plot_type>": "drawn from the trials",
    "/csv/<study_id:int>": "the trials as a file",
    "/favicon.ico": "a picture",
    "/static/<filename:path>": "the page's script",
    "/incompatible-rdb-schema": "says that a database is too old",
    "/artifacts/<study_id:int>/<artifact_id:re:[0-9a-fA-F-]+>": "a study's file",
    "/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>": "a trial's file",
}
"""Every GET route that was read line by line and changes nothing, nor calls anybody."""
CHANGES = {
    ("POST", "/api/studies"),
    ("POST", "/api/studies/<study_id:int>/rename"),
    ("DELETE", "/api/studies/<study_id:int>"),
    ("PUT", "/api/studies/<study_id:int>/note"),
    ("POST", "/api/studies/<study_id:int>/preference"),
    ("PUT", "/api/studies/<study_id:int>/preference_feedback_component"),
    ("DELETE", "/api/studies/<study_id:int>/preference/<history_id>"),
    ("POST", "/api/studies/<study_id:int>/preference/<history_id>"),
    ("POST", "/api/trials/<trial_id:int>/tell"),
    ("POST", "/api/trials/<trial_id:int>/user-attrs"),
    ("POST", "/api/studies/<study_id:int>/<trial_id:int>/skip"),
    ("PUT", "/api/studies/<study_id:int>/<trial_id:int>/note"),
    ("POST", "/incompatible-rdb-schema"),
    ("POST", "/api/artifacts/<study_id:int>/<trial_id:int>"),
    ("POST", "/api/artifacts/<study_id:int>"),
    (
        "DELETE",
        "/api/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>",
    ),
    ("DELETE", "/api/artifacts/<study_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"),
    ("POST", "/api/llm/trial_filter_query"),
    ("POST", "/api/llm/generate_plotly_graph_query"),
    ("POST", "/api/llm/re_generate_plotly_graph_query"),
}
"""The others: they change something, or send something elsewhere."""
LEAVE_IT_WHOLE = {
    ("PUT", "/api/studies/<study_id:int>/note"),
    ("PUT", "/api/studies/<study_id:int>/<trial_id:int>/note"),
    ("POST", "/api/trials/<trial_id:int>/tell"),
    ("POST", "/api/trials/<trial_id:int>/user-attrs"),
    ("POST", "/api/artifacts/<study_id:int>/<trial_id:int>"),
    ("POST", "/api/artifacts/<study_id:int>"),
}
"""Those of them that --allow-write lets pass."""
ARTIFACT = "12345678-1234-1234-1234-123456789abc"
ASKED = {"search": {"space": {"kd_weight": {"low": 0.0, "high": 1.0}}}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study `s` of three trials, one of which runs."""
    found = prepared_url("sqlite", tmp_path_factory.mktemp("dashboard"))
    base = connect(found)
    registry.register(base, study_file.check(spec.Study, {"name": "s", **ASKED}, "test"))
    study = optuna.load_study(study_name="s", storage=base.storage)
    ranges: dict[str, BaseDistribution] = {"kd_weight": FloatDistribution(0.0, 1.0)}
    for number, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED)):
        made = create_trial(
            state=state,
            value=0.5 + number / 10,
            params={"kd_weight": number / 2},
            distributions=ranges,
            intermediate_values={1: 0.4},
        )
        study.add_trial(made)
    study.ask(ranges)
    base.close()
    return found


def only_looking(url: str, home: Path, **options: Any) -> tuple[Database, Gate]:
    base = connect(url, read_only=True)
    door, writing = options.pop("door", None), options.pop("writing", None)
    told = dashboard.rules({"127.0.0.1"}, **options)
    gate = dashboard.guarded(base, home, told, door, writing)
    assert isinstance(gate, Gate)
    return base, gate


@pytest.fixture(scope="module")
def looking(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    base, gate = only_looking(url, tmp_path_factory.mktemp("home"))
    yield gate
    base.close()


@pytest.fixture(scope="module")
def routes(url: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Method and rule of every route that the installed optuna-dashboard has."""
    base = connect(url, read_only=True)
    told = dashboard.application(base, tmp_path_factory.mktemp("home"))
    inner = told._inner  # type: ignore[attr-defined]
    base.close()
    return [(route.method, route.rule) for route in inner.routes]


def path_of(rule: str) -> str:
    """A path that a rule of bottle's matches."""
    for pattern, example in (
        ("<filename:path>", "bundle.js"),
        ("<:re:(/.*)?>", "/studies/1/note"),
        ("<plot_type>", "slice"),
        ("<history_id>", "1"),
        ("<artifact_id:re:[0-9a-fA-F-]+>", ARTIFACT),
    ):
        rule = rule.replace(pattern, example)
    return re.sub(r"<\w+:int>", "1", rule)


# The guard: a release with another route fails here, by the route's name.


def test_every_route_of_the_installed_release_has_been_looked_at(
    routes: list[tuple[str, str]],
) -> None:
    known = {("GET", rule) for rule in READS} | CHANGES
    assert set(routes) - known == set(), "read these routes, then list each under READS or CHANGES"
    assert known - set(routes) == set(), "these routes are gone"


def noting(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the gate lets pass to the application, which does nothing."""
    reached: list[tuple[str, str]] = []

    def application(environment: Any, start: Any) -> list[bytes]:
        reached.append((environment["REQUEST_METHOD"], environment["PATH_INFO"]))
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"reached"]

    monkeypatch.setattr(gate, "_application", application)
    return reached


def test_of_every_route_only_the_reads_reach_the_application(
    routes: list[tuple[str, str]], looking: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = noting(looking, monkeypatch)
    for method, rule in routes:
        path, reads = path_of(rule), method == "GET" and rule in READS
        for other in {method, "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}:
            for written in (path, f"{path}/"):
                reached.clear()
                answer = visit(looking, written, other)
                if reads and other in ("GET", "HEAD"):
                    assert (answer.status, len(reached)) == (200, 1), (other, written)
                elif other == "HEAD" and path in map(path_of, READS):
                    continue  # it has the path of a read
                else:
                    assert (answer.status, reached) == (403, []), (other, written)
                    assert other == "HEAD" or "--allow-write" in answer.plain["reason"]


def test_with_changes_allowed_only_those_pass_that_leave_a_study_whole(
    routes: list[tuple[str, str]],
    writing: tuple[Database, Gate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = noting(writing[1], monkeypatch)
    may_pass = {(method, path_of(rule)) for method, rule in LEAVE_IT_WHOLE}
    may_pass |= {("GET", path_of(rule)) for rule in READS}
    # and a route that a new release might bring
    for path in {*(path_of(rule) for _, rule in routes), "/api/new", "/api/studies/1/new"}:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            for written in (path, f"{path}/"):
                reached.clear()
                status = visit(writing[1], written, method).status
                expected = 200 if (method, path) in may_pass else 403
                assert (status, len(reached)) == (expected, expected == 200), (method, written)


def test_without_the_token_every_route_asks_for_it(
    routes: list[tuple[str, str]], url: str, tmp_path: Path
) -> None:
    for writes in (False, True):
        base, gate = only_looking(url, tmp_path, door=Logins(TOKEN), writes=writes)
        for method, rule in routes:
            assert visit(gate, path_of(rule), method).status == 401, (method, rule)
        assert visit(gate, "/healthz").status == visit(gate, "/login").status == 200
        base.close()


def test_the_database_would_refuse_what_the_gate_let_pass(url: str, tmp_path: Path) -> None:
    base, gate = only_looking(url, tmp_path, writes=True)
    body = b'{"user_attrs": {"a": 1}}'
    answer = visit(gate, "/api/trials/3/user-attrs", "POST", body, Content_Type="application/json")
    assert answer.status in (500, 503)
    assert base.storage.get_trial(3).user_attrs == {}
    base.close()


# What is shown.


def test_the_reads_show_what_there_is(looking: Gate) -> None:
    assert visit(looking).headers["location"] == "/dashboard"
    page = visit(looking, "/dashboard/studies/1")
    assert b"/static/bundle.js" in page.body
    assert "script-src 'self'" in page.pairs_of("content-security-policy")[0]
    assert visit(looking, "/static/bundle.js", Accept_Encoding="gzip").status == 200
    assert visit(looking, "/favicon.ico").status == 200  # without Accept-Encoding
    (study,) = visit(looking, "/api/studies").plain["study_summaries"]
    assert study["study_name"] == "s"
    assert len(visit(looking, "/api/studies/1?after=0").plain["trials"]) == 3
    assert visit(looking, "/api/studies/1/plot/slice").status == 200
    assert visit(looking, "/csv/1").body.startswith(b"Number,State,")
    assert visit(looking, "/api/meta").plain["artifact_is_available"] is True


def test_an_artifact_that_is_not_there_is_told_so(looking: Gate) -> None:
    answer = visit(looking, f"/artifacts/1/{ARTIFACT}")
    assert answer.status == 404
    assert visit(looking, "/api/studies/99").status == 404


def study_detail(gate: Gate) -> dict[str, Any]:
    found = visit(gate, "/api/studies/1").plain
    assert isinstance(found, dict)
    return found


def test_a_study_has_its_note_and_its_plots_in_one_order(looking: Gate) -> None:
    detail = study_detail(looking)
    assert detail["note"]["version"] == 0
    assert "igkd run s --trials N" in detail["note"]["body"]
    titles = [plot["id"] for plot in detail["plotly_graph_objects"]]
    assert len(titles) >= 3
    assert titles == sorted(titles)
    assert detail["objective_names"] == ["validation accuracy"]


# Changes, where they are allowed.


@pytest.fixture
def writing(url: str, tmp_path: Path) -> Iterator[tuple[Database, Gate]]:
    """A copy of the database to be changed, and its gate."""
    source = Path(str(sa.make_url(url).database))
    copied = tmp_path / "igkd.db"
    copied.write_bytes(source.read_bytes())
    base = connect(f"sqlite:///{copied}")
    reading, gate = only_looking(base.url, tmp_path, writes=True, writing=base)
    yield base, gate
    reading.close()
    base.close()


def sent(gate: Gate, path: str, method: str, body: str) -> Answer:
    return visit(gate, path, method, body.encode(), Content_Type="application/json")


def test_a_persons_note_goes_before_ours_until_it_is_emptied(
    writing: tuple[Database, Gate],
) -> None:
    base, gate = writing
    ours = study_detail(gate)["note"]
    body = '{"version": %d, "body": "mine"}'
    assert sent(gate, "/api/studies/1/note", "PUT", body % 1).status == 204
    assert study_detail(gate)["note"] == {"version": 1, "body": "mine"}
    assert study_detail(gate)["plotly_graph_objects"]
    assert sent(gate, "/api/studies/1/note", "PUT", body % 1).status == 409
    emptied = body.replace("mine", "") % 2
    assert sent(gate, "/api/studies/1/note", "PUT", emptied).status == 204
    assert study_detail(gate)["note"] == {"version": 2, "body": ours["body"]}
    stored = base.storage.get_study_system_attrs(1)
    assert "igkd run" not in str(stored)


@pytest.mark.parametrize(
    ("method", "path", "instead"),
    [
        ("DELETE", "/api/studies/1", "igkd delete STUDY"),
        ("DELETE", "/api/studies/1/", "igkd delete STUDY"),
        ("POST", "/api/studies", "igkd run STUDY"),
        ("POST", "/api/studies/1/rename", "budget"),
        ("POST", "/incompatible-rdb-schema", "by itself"),
        ("DELETE", f"/api/artifacts/1/1/{ARTIFACT}", "igkd delete STUDY"),
        ("DELETE", f"/api/artifacts/1/{ARTIFACT}/", "igkd delete STUDY"),
    ],
)
def test_what_would_leave_half_a_study_is_refused_even_so(
    writing: tuple[Database, Gate], method: str, path: str, instead: str
) -> None:
    base, gate = writing
    refused = sent(gate, path, method, '{"study_name": "x", "directions": ["maximize"]}')
    assert refused.status == 403
    assert instead in refused.plain["reason"]
    assert [each.study_name for each in base.storage.get_all_studies()] == ["s"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/\xd9\xa1"),  # a digit, to whoever decodes it
        ("DELETE", "/api/studies/1\n"),
        ("DELETE", "/api/studies\xff/1"),
        ("POST", "/api/studies\xff"),
        ("POST", "/api/studies\xff/1/rename"),
    ],
)
def test_no_other_spelling_of_a_path_comes_further(
    writing: tuple[Database, Gate], method: str, path: str
) -> None:
    base, gate = writing
    refused = sent(gate, path, method, '{"study_name": "x", "directions": ["maximize"]}')
    assert refused.status == 400
    assert [each.study_name for each in base.storage.get_all_studies()] == ["s"]


def test_files_are_added_to_studies_and_to_trials_that_run(
    writing: tuple[Database, Gate], tmp_path: Path
) -> None:
    _, gate = writing
    body = '{"file": "data:text/plain;base64,bWluZQ==", "filename": "x.txt"}'
    for path in ("/api/artifacts/1", "/api/artifacts/1/3"):
        made = sent(gate, path, "POST", body)
        assert made.status == 201
        identity = made.plain["artifact_id"]
        assert visit(gate, f"{path.removeprefix('/api')}/{identity}").body == b"mine"
        assert sent(gate, f"{path}/{identity}", "DELETE", "").status == 403
        assert (tmp_path / "artifacts" / identity).read_bytes() == b"mine"
    assert sent(gate, "/api/artifacts/1/1", "POST", body).status == 400  # it has ended


def test_who_reads_never_waits_for_who_writes(writing: tuple[Database, Gate]) -> None:
    base, gate = writing
    begun: list[str] = []
    sa.event.listen(base.engine, "begin", lambda _: begun.append("begun"))
    for path in (
        "/healthz",
        "/api/studies",
        "/api/studies/1",
        "/csv/1",
        f"/artifacts/1/{ARTIFACT}",
    ):
        assert visit(gate, path).status in (200, 404)
    assert begun == []
    assert sent(gate, "/api/trials/3/user-attrs", "POST", '{"user_attrs": {"a": 1}}').status == 204
    assert base.storage.get_trial(3).user_attrs == {"a": 1}


# A database that is away.


def away(*_: Any) -> None:
    raise sa.exc.OperationalError("SELECT", {}, Exception("gone"), connection_invalidated=True)


def test_while_the_database_is_away_it_says_so_and_goes_on(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    base, gate = only_looking(url, tmp_path)

    sa.event.listen(base.engine, "begin", away)
    for path in ("/api/studies", "/api/studies/1", "/csv/1", "/api/studies/1/plot/slice"):
        answer = visit(gate, path)
        assert answer.status == 503, path
        assert answer.headers["retry-after"] == "5"
        assert "does not answer" in answer.plain["reason"]
        assert "gone" not in answer.plain["reason"]
    assert visit(gate, "/healthz").status == 503
    assert visit(gate, "/dashboard").status == 200
    sa.event.remove(base.engine, "begin", away)
    assert visit(gate, "/healthz").status == 200
    assert visit(gate, "/api/studies/1").status == 200
    assert caplog.messages == ["the database does not answer: gone", "the database is back"]
    base.close()


def test_any_read_that_succeeds_ends_an_outage(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    base, gate = only_looking(url, tmp_path)

    for _ in range(2):
        sa.event.listen(base.engine, "begin", away)
        assert visit(gate, "/csv/1").status == 503
        sa.event.remove(base.engine, "begin", away)
        assert visit(gate, "/dashboard").status == 200  # that asks no database
        assert visit(gate, "/csv/1").status == 200
    assert [message.rpartition(" ")[2] for message in caplog.messages] == ["gone", "back"] * 2
    base.close()


def test_numbers_that_no_database_holds_are_no_paths(
    looking: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    for number in ("9" * 10, "9" * 14, "9" * 5000):
        for path in ("/csv/{}", "/api/studies/{}", "/api/studies/{}/plot/slice"):
            assert visit(looking, path.format(number)).status == 403
        assert visit(looking, f"/artifacts/{number}/1/{ARTIFACT}").status == 403
        assert visit(looking, f"/artifacts/1/{number}/{ARTIFACT}").status == 403
    assert visit(looking, f"/csv/{'9' * 9}").status == 404
    assert caplog.messages == []


def test_what_a_damaged_file_is_called_stays_in_the_log(
    looking: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*_: Any, **__: Any) -> None:
        raise StorageError("the file 'x' of study 's' at sqlite:////secret is damaged")

    monkeypatch.setattr(optuna, "load_study", damaged)
    answer = visit(looking, "/csv/1")
    reason = "a file in the database is damaged; the dashboard's log says which"
    assert (answer.status, answer.plain) == (500, {"reason": reason})
    assert caplog.messages == ["the file 'x' of study 's' at sqlite:////secret is damaged"]


def test_a_bug_is_told_in_json_and_logged(
    looking: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(optuna, "load_study", broken)
    answer = visit(looking, "/csv/1")
    assert (answer.status, "a bug" in answer.plain["reason"]) == (500, True)
    assert "RuntimeError: broken" in caplog.text
    assert b"broken" not in answer.body


# Names.


def test_a_public_name_may_have_a_port(url: str, tmp_path: Path) -> None:
    base, gate = only_looking(url, tmp_path, public={"igkd.example.org:8443", "[2001:db8::1]"})
    assert visit(gate, Host="[2001:db8::1]:80").status == 302
    own = "igkd.example.org:8443"
    assert visit(gate, Host=own, Origin=f"https://{own}").status == 302
    assert visit(gate, Origin=f"https://{own}").status == 302
    assert visit(gate, Origin="https://igkd.example.org").status == 403
    base.close()


# Below a path.


def test_below_a_path_every_address_is_there(url: str, tmp_path: Path) -> None:
    base, gate = only_looking(url, tmp_path, base_path="/igkd")
    assert visit(gate, "/igkd/").headers["location"] == "/igkd/dashboard"
    page = visit(gate, "/igkd/dashboard/studies/1")
    assert b'src="/igkd/static/bundle.js"' in page.body
    assert int(page.headers["content-length"]) == len(page.body)
    assert "script-src 'self'" in page.pairs_of("content-security-policy")[0]
    script = visit(gate, "/igkd/static/bundle.js")
    assert b'url_prefix:"/igkd/dashboard"' in script.body
    context = visit(gate, "/igkd/api/meta").plain["jupyterlab_extension_context"]
    assert context == {"base_url": "/igkd"}
    base.close()
