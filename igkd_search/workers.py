"""The register of workers: who works where on which trial, as each of them says itself.

For people to look at: whether a slot is adopted is decided by its lease alone (`slots`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from igkd_search import searches
from igkd_search.database import Database, has
from igkd_search.errors import StorageError
from igkd_search.identities import Identity
from igkd_search.patience import Patience, patient
from igkd_search.schema import workers

SILENT_SECONDS = 120.0
"""A worker that has said nothing for so long is no longer taken for alive."""


@dataclass(frozen=True)
class Machine:
    """What a worker computes on: the device as torch names it, its UUID, versions by package."""

    device: str
    uuid: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class WorkerRow:
    """One worker as it last said; `silent` is for how many seconds it has said nothing.

    state is waiting, training or left; `dead` says that its process, on this host, is gone.
    """

    worker: str
    host: str
    pid: int
    device: str
    uuid: str | None
    versions: dict[str, str]
    state: str
    slot: int | None
    trial_number: int | None
    epoch: int | None
    epochs: int | None
    images_per_s: float | None
    started: float
    silent: float
    dead: bool

    @property
    def alive(self) -> bool:
        """Whether it is at work, as far as can be told."""
        return self.state != "left" and not self.dead and self.silent < SILENT_SECONDS


class Register:
    """One worker's own row, and the signs of life that keep a study's clock."""

    def __init__(
        self, database: Database, study_name: str, identity: Identity, machine: Machine
    ) -> None:
        self.database = database
        self.study_name = study_name
        self.identity = identity
        self.machine = machine
        self._said: dict[str, Any] = {"state": "waiting"}

    @property
    def patience(self) -> Patience:
        """How long all of this waits while the database is away."""
        return self.database.patience

    @patient
    def join(self) -> int:
        """Enter the register; how often the study has been asked to stop before.

        StorageError when the database is a SQLite file and workers of another host use it.
        """
        others = [
            row.host
            for row in rows(self.database, self.study_name, self.identity)
            if row.alive and row.host != self.identity.host
        ]
        if others and self.database.engine.dialect.name == "sqlite":
            raise StorageError(
                f"study '{self.study_name}': a SQLite file serves the workers of one host, and "
                f"{others[0]} works on this one; several hosts need Postgres (storage/README.md): "
                f"igkd copy {self.study_name} --to postgresql+psycopg://USER@HOST/igkd, then "
                "the same --storage everywhere"
            )
        now = self.database.now
        row = {
            "worker": self.identity.owner,
            "study_name": self.study_name,
            "host": self.identity.host,
            "pid": self.identity.pid,
            "process_started": self.identity.process_started,
            "boot_id": self.identity.boot_id,
            "device": self.machine.device,
            "uuid": self.machine.uuid,
            "versions": json.dumps(dict(self.machine.versions)),
        }
        mine = workers.c.worker == self.identity.owner
        with self.database.transaction() as connection:
            connection.execute(sa.delete(workers).where(mine))  # a repeated join
            new = sa.insert(workers).values(**row, started=now, last_seen=now, **self._said)
            connection.execute(new)
            return searches.tick(connection, self.database, self.study_name)

    def say(self, **said: Any) -> None:
        """Note what the next sign of life will tell: state, slot, trial_number, epoch, ..."""
        self._said = self._said | said

    @patient
    def beat(self) -> int:
        """Give a sign of life; how often the study has been asked to stop so far."""
        mine = workers.c.worker == self.identity.owner
        said = self._said
        with self.database.transaction() as connection:
            change = sa.update(workers).where(mine)
            connection.execute(change.values(last_seen=self.database.now, **said))
            return searches.tick(connection, self.database, self.study_name)

    def leave(self) -> None:
        """Say goodbye; what it last worked on is no longer shown."""
        nothing = dict.fromkeys(("slot", "trial_number", "epoch", "epochs", "images_per_s"))
        self.say(state="left", **nothing)
        self.beat()


def rows(database: Database, study_name: str | None, reader: Identity) -> list[WorkerRow]:
    """The workers of a study, or of all, in order of their coming; `reader` is who asks."""

    def ask() -> list[WorkerRow]:
        silent = (database.now - workers.c.last_seen).label("silent")
        query = sa.select(workers, silent).order_by(workers.c.started, workers.c.worker)
        if study_name is not None:
            query = query.where(workers.c.study_name == study_name)
        with database.transaction() as connection:
            if not has(connection, workers):
                return []
            return [_row(row._asdict(), reader) for row in connection.execute(query)]

    return database.patience(ask)


def check_idle(database: Database, study_name: str, reader: Identity, what: str) -> None:
    """StorageError when a worker of the study is alive, which would be in the way of `what`."""
    alive = [row for row in rows(database, study_name, reader) if row.alive]
    if alive:
        where = ", ".join(f"{row.host} (pid {row.pid})" for row in alive[:3])
        count = f"{len(alive)} workers are" if len(alive) > 1 else "a worker is"
        raise StorageError(
            f"study '{study_name}': {count} at work, on {where}; type 'igkd stop {study_name}', "
            f"wait until 'igkd status {study_name}' shows none, and {what} then"
        )


def _row(stored: dict[str, Any], reader: Identity) -> WorkerRow:
    where = (stored[name] for name in ("host", "boot_id", "pid", "process_started"))
    found = stored | {
        "versions": json.loads(stored["versions"]),
        "silent": max(0.0, stored["silent"]),
        "dead": stored["state"] != "left" and reader.died_here(*where),
    }
    return WorkerRow(**{each.name: found[each.name] for each in fields(WorkerRow)})
