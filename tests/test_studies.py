"""What a storage holds: each study in its state, in spite of one that is damaged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from igkd_search import (
    database,
    registry,
    schema,
    searches,
    slots,
    spec,
    studies,
    study_file,
    tables,
    workers,
)
from igkd_search.identities import this_process
from tests.databases import KINDS, prepared_url

SPACE = {"kd_weight": {"low": 0.0, "high": 1.0}}


def add(base: database.Database, name: str, **search: Any) -> None:
    plain = {"name": name, "search": {"trials": 2, "space": SPACE, **search}}
    registry.register(base, study_file.check(spec.Study, plain, "test"))


def finish(base: database.Database, name: str, accuracy: float) -> None:
    table = slots.Slots(base, name)
    claim = table.claim()
    assert claim is not None
    study = optuna.load_study(study_name=name, storage=base.storage)
    trial = study.ask()
    trial.suggest_float("kd_weight", 0.0, 1.0)
    study.tell(trial, accuracy)
    table.finish(claim, "complete")


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[database.Database]:
    opened = database.connect(prepared_url(request.param, tmp_path))
    yield opened
    opened.close()


def test_each_study_is_in_its_state(base: database.Database) -> None:
    assert studies.survey(base) == []
    for name in ("idle", "ended", "running", "asked"):
        add(base, name)
    for accuracy in (0.5, 0.75):
        finish(base, "ended", accuracy)
    add(base, "patient", patience=1, trials=9)
    for _ in range(2):
        finish(base, "patient", 0.5)
    searches.ask_to_stop(base, "asked")
    machine = workers.Machine("cpu", None, {})
    workers.Register(base, "running", this_process(), machine).join()
    found = {one["study"]: one for one in studies.survey(base)}
    assert {name: one["state"] for name, one in found.items()} == {
        "idle": "idle",
        "ended": "ended",
        "running": "running",
        "asked": "stopped",
        "patient": "ended",
    }
    assert {one["state"] for one in found.values()} < set(studies.WORDS)
    assert (found["ended"]["done"], found["ended"]["trials"]) == (2, 2)
    assert found["ended"]["best"] == 0.75 and found["idle"]["best"] is None
    assert found["running"]["workers"] == 1 and found["running"]["seen"] < 60
    assert found["idle"]["seen"] is None and found["idle"]["began"] > "2024"


def test_a_damaged_study_hides_no_other(
    base: database.Database, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "torn", "halved"):
        add(base, name)
    with base.transaction() as connection:
        table = schema.studies
        torn = sa.update(table).where(table.c.study_name == "torn").values(question="{")
        connection.execute(torn)
    optuna.delete_study(study_name="halved", storage=base.storage)
    found = {one["study"]: one for one in studies.survey(base)}
    assert found["good"]["state"] == "idle"
    assert found["torn"]["state"] == found["halved"]["state"] == "damaged"
    assert "igkd delete halved" in found["halved"]["fault"]
    tables.print_studies(list(found.values()), "here")
    out = capsys.readouterr().out
    assert "good" in out and "damaged\n" in out and "igkd delete halved" in out


def test_an_empty_storage_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_studies([], "sqlite:///x.db")
    out = capsys.readouterr().out
    assert out.startswith("no study in sqlite:///x.db yet") and "igkd run digits" in out
