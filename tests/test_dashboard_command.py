"""`igkd dashboard` as typed: what it refuses before it listens, and a real one that serves."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from igkd_search import cli, console, dashboard_command, registry, spec, study_file, tokens
from igkd_search.database import connect
from tests.databases import prepared_url

Igkd = Callable[..., Result]
TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = prepared_url("sqlite", tmp_path)
    base = connect(found)
    plain = {"name": "s", "search": {"space": {"kd_weight": {"low": 0.0, "high": 1.0}}}}
    registry.register(base, study_file.check(spec.Study, plain, "test"))
    base.close()
    return found


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Igkd]:
    """Type `igkd dashboard`; what would serve for ever ends at once."""
    import optuna

    on_sigterm, verbosity = signal.getsignal(signal.SIGTERM), optuna.logging.get_verbosity()
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setattr(dashboard_command, "_run", lambda server: server.close() or 0)
    monkeypatch.chdir(tmp_path)
    yield lambda *typed: CliRunner().invoke(cli.app, ["dashboard", *map(str, typed)])
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)


def test_it_prints_its_address_and_nothing_else_on_standard_output(igkd: Igkd, url: str) -> None:
    done = igkd("--port", 0, "--storage", url)
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", done.stdout)
    assert "every user of this machine may look, not change anything" in done.stderr


def test_below_a_path_the_address_has_it(igkd: Igkd, url: str) -> None:
    done = igkd("--port", 0, "--storage", url, "--base-path", "/igkd/")
    assert done.stdout.endswith("/igkd/\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_any_other_address_needs_a_token(igkd: Igkd, url: str, host: str) -> None:
    done = igkd("--host", host, "--port", 0, "--storage", url)
    assert (done.exit_code, done.stdout) == (1, "")
    for word in ("a token is needed", "--new-token FILE", "--token-file FILE", "ssh -L"):
        assert word in done.stderr


def test_with_a_token_any_address_will_do(
    igkd: Igkd, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tokens.VARIABLE, TOKEN)
    done = igkd("--host", "0.0.0.0", "--port", 0, "--storage", url, "--allow-write")
    assert (done.exit_code, TOKEN in done.output) == (0, False)
    assert "whoever has the token may look and change" in done.stderr
    assert socket.gethostname() in done.stdout


def test_a_token_that_could_be_guessed_is_refused(igkd: Igkd, url: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    done = igkd("--token-file", tmp_path / "token", "--storage", url)
    assert (done.exit_code, "could be guessed" in done.stderr) == (1, True)


def test_a_new_token_is_written_once(igkd: Igkd, tmp_path: Path) -> None:
    file = tmp_path / "token"
    done = igkd("--new-token", file)
    assert (done.exit_code, done.stdout) == (0, f"{file}\n")
    assert f"igkd dashboard --token-file {file}" in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in done.output
    again = igkd("--new-token", file)
    assert (again.exit_code, "there already" in again.stderr) == (1, True)


def test_where_no_search_has_begun_nothing_is_made(igkd: Igkd, tmp_path: Path) -> None:
    for more in ([], ["--allow-write"]):
        done = igkd("--port", 0, "--home", tmp_path / "none", *more)
        assert (done.exit_code, "start a search first" in done.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


def test_a_taken_port_offers_another(igkd: Igkd, url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = igkd("--port", taken.getsockname()[1], "--storage", url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.search(r"is taken by .* \(pid \d+\); type --port \d+", done.stderr)


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("--base-path", "igkd"),
        ("--base-path", "/a b"),
        ("--base-path", "//evil.example"),
        ("--base-path", "/../.."),
        ("--base-path", "/igkd/./x"),
        ("--allowed-host", "http://a.example"),
        ("--allowed-host", "a.example/x"),
        ("--trusted-proxy", "*"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    igkd: Igkd, url: str, option: str, wrong: str
) -> None:
    done = igkd(option, wrong, "--port", 0, "--storage", url)
    assert (done.exit_code, f"{option} {wrong}: must be" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "own", ["/dashboard", "/api/", "/static/x", "/csv", "/artifacts", "/login", "/healthz"]
)
def test_a_base_path_that_is_one_of_its_own_paths_is_refused_for_that(
    igkd: Igkd, url: str, own: str
) -> None:
    done = igkd("--base-path", own, "--port", 0, "--storage", url)
    assert (done.exit_code, "a path of the dashboard itself" in done.stderr) == (1, True)
    done = igkd("--base-path", f"/igkd{own}", "--port", 0, "--storage", url)
    assert done.exit_code == 0


def test_an_empty_token_opens_nothing(
    igkd: Igkd, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tokens.VARIABLE, "")
    done = igkd("--port", 0, "--storage", url)
    assert (done.exit_code, done.stdout, "it is empty" in done.stderr) == (1, "", True)


def test_a_browser_in_the_terminal_does_not_keep_the_server_from_running(
    igkd: Igkd, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, ended, opened = threading.Event(), threading.Event(), list[tuple[str, bool]]()

    def browse(address: str) -> None:
        opened.append((address, runs.wait(10)))
        ended.set()

    def run(server: Any) -> int:
        runs.set()
        ended.wait(10)
        server.close()
        return 0

    monkeypatch.setattr(webbrowser, "open", browse)
    monkeypatch.setattr(dashboard_command, "_run", run)
    done = igkd("--port", 0, "--storage", url, "--open")
    assert opened == [(done.stdout.strip(), True)]


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_real_one_serves_until_it_is_asked_to_end(
    url: str, tmp_path: Path, asked: signal.Signals, code: int
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    typed = ["dashboard", "--port", "0", "--token-file", str(file), "--storage", url]
    loaded = "import sys; assert 'torch' not in sys.modules, 'torch was loaded'"
    script = f"from igkd_search import cli\ntry:\n    cli.main()\nfinally:\n    {loaded}"
    with subprocess.Popen(
        [sys.executable, "-c", script, *typed],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}api/studies", timeout=30)
        token = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{address}api/studies", headers=token)
        with urllib.request.urlopen(request, timeout=30) as answer:
            (study,) = json.load(answer)["study_summaries"]
            assert "Server" not in answer.headers
        process.send_signal(asked)
        _, said = process.communicate(timeout=60)
    assert study["study_name"] == "s"
    assert (process.returncode, "Traceback" in said) == (code, False), said
