"""What storage/ ships for Postgres: the compose file as text, its roles and pooler for real."""

import io
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import psycopg
import pytest
import sqlalchemy as sa
import yaml
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from optuna_dashboard._storage_url import get_storage

from igkd_search import dashboard, queued, searches
from igkd_search.database import Database, connect
from igkd_search.errors import StorageError
from igkd_search.identities import this_process
from igkd_search.slots import Slots
from igkd_search.workers import Machine, Register
from igkd_search.workers import rows as register_of
from tests import poolers
from tests.databases import POSTGRES, postgres_server
from tests.visits import visit

FOLDER = Path(__file__).resolve().parents[1] / "storage"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAYING = sorted(set(SERVICES) - {"roles"})
ROLES = ("igkd_owner", "igkd_worker", "igkd_reader")
PASSWORDS = {role: secrets.token_hex(8) for role in ROLES}


def base_of(service: dict[str, Any]) -> str:
    """The image that a service runs, or is built upon."""
    if "image" in service:
        return str(service["image"])
    first, *_ = service["build"]["dockerfile_inline"].splitlines()
    assert first.startswith("FROM ")
    return str(first.removeprefix("FROM "))


def script_of(service: dict[str, Any]) -> str:
    """What the shell of a service runs, as the shell reads it."""
    (script,) = service["command"]
    return str(script).replace("$$", "$")


def test_every_image_is_pinned_to_a_major_version() -> None:
    versions = {name: base_of(service) for name, service in SERVICES.items()}
    assert all(re.fullmatch(r"[a-z]+:\d+(\.\d+)?(-slim)?", image) for image in versions.values())
    assert versions["postgres"] == versions["roles"] == f"postgres:{POSTGRES}"


def test_nothing_that_is_built_here_may_be_pulled_from_elsewhere() -> None:
    assert not [name for name, one in SERVICES.items() if "build" in one and "image" in one]


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_up_is_watched_and_restarted(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL") and check["retries"] > 1
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_what_needs_another_waits_for_it() -> None:
    waits = {name: one.get("depends_on", {}) for name, one in SERVICES.items()}
    done = {"roles": {"condition": "service_completed_successfully"}}
    assert waits == {
        "postgres": {},
        "roles": {"postgres": {"condition": "service_healthy"}},
        "pgbouncer": done,
        "dashboard": done,
    }


def test_the_data_lie_in_a_named_volume() -> None:
    assert "data" in COMPOSE["volumes"]
    # where the image of version 18 keeps them, one level above earlier ones
    assert SERVICES["postgres"]["volumes"] == ["data:/var/lib/postgresql"]


def test_ports_are_of_this_host_alone_unless_an_address_is_named() -> None:
    ports = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    for (port,) in ports.values():
        assert port.startswith(("127.0.0.1:", "${IGKD_ADDRESS:-127.0.0.1}:"))
    # the dashboard knows no login
    assert ports["dashboard"][0].startswith("127.0.0.1:")


def test_no_password_stands_in_the_file() -> None:
    text = (FOLDER / "compose.yaml").read_text("utf-8")
    for found in re.findall(r"PASSWORD\w*\s*[=:]\s*\"?(\S+)", text):
        assert found.startswith(("$$(", "/run/secrets/")), found
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text)


def test_every_secret_is_a_file_that_git_ignores() -> None:
    used = {name for one in SERVICES.values() for name in one.get("secrets", [])}
    assert used == set(COMPOSE["secrets"]) == {"postgres", *ROLES}
    files = [one["file"] for one in COMPOSE["secrets"].values()]
    ask = ["git", "check-ignore", "--no-index", *files]
    ignored = subprocess.run(ask, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == files


def test_every_mounted_file_is_shipped() -> None:
    mounts = [mount for one in SERVICES.values() for mount in one.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert sorted(files) == ["./pgbouncer.ini", "./roles.sql"]
    assert all((FOLDER / name).is_file() for name in files)


@pytest.mark.parametrize("name", ["roles", "pgbouncer", "dashboard"])
def test_the_scripts_are_valid_bash(name: str) -> None:
    checked = subprocess.run(["bash", "-n", "-c", script_of(SERVICES[name])], check=False)
    assert checked.returncode == 0


def test_the_readme_has_the_backup_line_of_the_compose_file() -> None:
    line = re.search(r"docker compose .*pg_dump.*", (FOLDER / "compose.yaml").read_text("utf-8"))
    assert line is not None
    command = line.group().replace("docker compose ", "")
    assert command in (FOLDER / "README.md").read_text("utf-8")


# Below, roles.sql and the pooler run.


def run_roles(database: str, **environment: str) -> None:
    """Run roles.sql with psql, as the service of the compose file does."""
    server = postgres_server()
    address = server.get_uri(database="postgres")
    psql = [str(server.bin_path / "psql"), address, "-q", "-v", f"database={database}"]
    done = subprocess.run(
        [*psql, "-f", str(FOLDER / "roles.sql")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def url_of(role: str, database: str) -> str:
    place = sa.make_url(postgres_server().get_uri(database=database, driver="psycopg"))
    return place.set(username=role).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def name() -> str:
    """A database that roles.sql made, with the roles' passwords."""
    words = {f"{role.upper()}_PASSWORD": word for role, word in PASSWORDS.items()}
    database = f"t{secrets.token_hex(8)}"
    run_roles(database, **words)
    return database


@pytest.fixture(scope="module")
def owned(name: str) -> str:
    """That database, once its owner has made the tables and begun a study."""
    base = connect(url_of("igkd_owner", name))
    base.write_study("s", {}, 2)
    Slots(base, "s").set_budget(2)
    optuna.create_study(storage=base.storage, study_name="s", direction="maximize")
    base.close()
    return name


@pytest.fixture
def opened(owned: str) -> Iterator[Callable[[str], Database]]:
    """Open the database as a role."""
    bases = []

    def open_as(role: str, read_only: bool = False) -> Database:
        bases.append(connect(url_of(role, owned), read_only=read_only))
        return bases[-1]

    yield open_as
    for base in bases:
        base.close()


def work(base: Database, study: str) -> None:
    """All that a worker writes, once."""
    base.write_study(study, {}, 2)
    table = Slots(base, study)
    table.set_budget(2)
    register = Register(base, study, table.identity, Machine("cpu", None, {}))
    register.join()
    queued.add(base, study, [{"x": 0.5}])
    base.keep_file(study, "teacher", b"weights")
    base.update_facts(study, accuracy=0.9)
    searches.ask_to_stop(base, study)
    optuna_study = optuna.create_study(storage=base.storage, study_name=study)
    while claim := table.claim():
        with table.fenced(claim):
            optuna_study.enqueue_trial({}, user_attrs={"slot": claim.slot})
            trial = optuna_study.ask()
            table.record_trial(claim, trial.number)
            trial.suggest_float("x", 0.0, 1.0)
            trial.report(0.5, 1)
            table.renew(claim)
            optuna_study.tell(trial, 0.5)
        table.finish(claim, "complete")
    register.beat()
    register.leave()
    assert queued.take(base, study, 0) == {"x": 0.5}
    assert base.read_file(study, "teacher") == b"weights"
    assert [trial.state for trial in optuna_study.trials] == [TrialState.COMPLETE] * 2
    assert table.counts().done == 2


def test_the_server_here_is_of_the_version_there() -> None:
    with psycopg.connect(postgres_server().get_uri()) as connection:
        assert connection.info.server_version // 10_000 == POSTGRES


def test_the_owner_makes_the_tables(owned: str) -> None:
    ask = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    with psycopg.connect(postgres_server().get_uri(database=owned)) as connection:
        assert connection.execute(ask).fetchall() == [("igkd_owner",)]


def test_roles_can_be_run_again_and_keep_passwords(owned: str) -> None:
    with psycopg.connect(postgres_server().get_uri()) as connection:
        ask = "SELECT rolpassword FROM pg_authid WHERE rolname = 'igkd_worker'"
        before = connection.execute(ask).fetchone()
        assert before is not None and before[0].startswith("SCRAM-SHA-256$")
        run_roles(owned)
        assert connection.execute(ask).fetchone() == before


def test_roles_serve_a_database_whose_tables_are_there_already(
    opened: Callable[[str], Database], owned: str
) -> None:
    with psycopg.connect(postgres_server().get_uri(database=owned)) as connection:
        connection.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM igkd_worker")
    with pytest.raises(StorageError, match="permission denied"):
        opened("igkd_worker")
    run_roles(owned)
    assert "s" in opened("igkd_worker").study_names()


def test_a_worker_does_all_its_work(opened: Callable[[str], Database]) -> None:
    base = opened("igkd_worker")
    work(base, "worked")
    assert [row.state for row in register_of(base, "worked", this_process())] == ["left"]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE igkd_slots",
        "TRUNCATE igkd_slots",
        "ALTER TABLE igkd_slots ADD COLUMN mine int",
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "DROP TABLE trials CASCADE",
    ],
)
@pytest.mark.parametrize("role", ["igkd_worker", "igkd_reader"])
def test_no_table_is_made_emptied_or_dropped_but_by_the_owner(
    opened: Callable[[str], Database], role: str, statement: str
) -> None:
    base = opened(role)
    # what the reader is given to begin with can be undone by it
    with (
        pytest.raises(StorageError, match=r"permission denied|must be owner"),
        base.transaction() as connection,
    ):
        connection.execute(sa.text("SET TRANSACTION READ WRITE"))
        connection.execute(sa.text(statement))
    assert "s" in base.study_names()


def test_a_reader_reads_and_cannot_write(opened: Callable[..., Database]) -> None:
    reader = opened("igkd_reader", read_only=True)
    assert "s" in reader.study_names() and Slots(reader, "s").counts().total == 2
    writer = opened("igkd_reader")
    with pytest.raises(StorageError, match="read-only transaction"):
        writer.write_study("new", {}, 1)
    with pytest.raises(StorageError, match="permission denied"), writer.transaction() as connection:
        connection.execute(sa.text("SET TRANSACTION READ WRITE"))
        connection.execute(sa.text("DELETE FROM igkd_slots"))
    assert Slots(reader, "s").counts().total == 2


def test_a_worker_before_the_owner_is_told_whose_turn_it_is() -> None:
    database = f"t{secrets.token_hex(8)}"
    run_roles(database)
    with pytest.raises(StorageError, match=r"permission denied.*igkd_owner.*storage/README\.md"):
        connect(url_of("igkd_worker", database))


def asked(storage: Any, method: str, path: str) -> tuple[str, bytes]:
    """Status and body of the dashboard's answer."""
    answers = []
    environment = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "wsgi.url_scheme": "http",
    }
    application = optuna_dashboard.wsgi(storage)
    body = application(environment, lambda status, headers, *_: answers.append(status))
    return answers[0], b"".join(body)


def test_the_dashboard_shows_and_cannot_delete(owned: str) -> None:
    storage = get_storage(url_of("igkd_reader", owned))  # as its command opens it
    status, body = asked(storage, "GET", "/api/studies")
    assert status.startswith("200") and b'"s"' in body
    assert asked(storage, "DELETE", "/api/studies/1")[0].startswith("500")
    assert b'"s"' in asked(storage, "GET", "/api/studies")[1]
    assert isinstance(storage, RDBStorage)
    storage.engine.dispose()


def test_our_dashboard_needs_no_more_than_the_reader(owned: str, tmp_path: Path) -> None:
    base = connect(url_of("igkd_reader", owned), read_only=True)
    gate = dashboard.guarded(base, tmp_path, dashboard.rules({"127.0.0.1"}), None)
    names = [each["study_name"] for each in visit(gate, "/api/studies").plain["study_summaries"]]
    number = base.storage.get_study_id_from_name("s")
    assert "s" in names
    assert visit(gate, f"/api/studies/{number}").status == 200
    assert visit(gate, "/healthz").status == 200
    base.close()


@pytest.mark.skipif(poolers.PROGRAM is None, reason="pgbouncer is not on PATH (apt: pgbouncer)")
def test_a_worker_does_all_its_work_through_the_pooler(owned: str) -> None:
    with poolers.pooler(url_of("igkd_worker", owned), PASSWORDS) as address:
        place = sa.make_url(address).set(username="igkd_worker")
        right = place.set(password=PASSWORDS["igkd_worker"])
        bases = [connect(right.render_as_string(hide_password=False)) for _ in range(2)]
        for number, base in enumerate(bases):
            work(base, f"pooled {number}")
        assert {"pooled 0", "pooled 1"} <= set(bases[0].study_names())
        wrong = place.set(password="guessed").render_as_string(hide_password=False)
        with pytest.raises(StorageError, match="cannot use the database") as refused:
            connect(wrong)
        assert "guessed" not in str(refused.value)
        for base in bases:
            base.close()


def test_a_backup_brings_everything_back(owned: str, tmp_path: Path) -> None:
    server, dump = postgres_server(), tmp_path / "igkd.dump"
    readme = (FOLDER / "README.md").read_text("utf-8")
    (saving,) = re.findall(r"pg_dump -U postgres (.*) igkd > igkd\.dump", readme)
    (restoring,) = re.findall(r"pg_restore -U postgres (.*) -d igkd < igkd\.dump", readme)

    def run(program: str, options: str, *more: str) -> None:
        where = server.get_uri(database=owned)
        command = [str(server.bin_path / program), *options.split(), *more, f"--dbname={where}"]
        subprocess.run(command, check=True)

    run("pg_dump", saving, f"--file={dump}")
    base = connect(url_of("igkd_owner", owned))
    with base.transaction() as connection:
        connection.execute(sa.text("DELETE FROM igkd_studies"))
    base.close()
    run("pg_restore", restoring, str(dump))
    worker = connect(url_of("igkd_worker", owned))
    assert "s" in worker.study_names()
    work(worker, "after the backup")
    worker.close()
