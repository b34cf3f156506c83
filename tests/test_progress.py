"""What is said of a search at every moment of its life, from fake workers on both databases."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from igkd_search import (
    identities,
    progress,
    queued,
    registry,
    results,
    schema,
    slots,
    spec,
    study_file,
)
from igkd_search.database import Database, connect
from igkd_search.errors import StorageError
from tests.databases import KINDS, prepared_url

EPOCHS = 8


def begin(base: Database, trials: int = 6, **search: Any) -> None:
    space = {"kd_weight": {"low": 0.0, "high": 1.0}}
    plain = {"name": "s", "trial": {"epochs": EPOCHS}}
    plain["search"] = {"trials": trials, "space": space, **search}
    registry.register(base, study_file.check(spec.Study, plain, "test"))


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url(request.param, tmp_path))
    begin(opened)
    yield opened
    opened.close()


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url("sqlite", tmp_path))
    yield opened
    opened.close()


def hire(base: Database, silent: float = 0.0, **columns: Any) -> slots.Slots:
    """A worker that is in the register and claims slots; it trains nothing.

    On this host its process is this one; with `host` it is out of sight, with `dead` it is gone.
    """
    identity = identities.this_process()
    if "host" in columns:
        identity = replace(identity, host=columns["host"], boot_id="another")
    if columns.pop("dead", False):
        identity = replace(identity, process_started="before")
    row = {
        "worker": identity.owner,
        "study_name": "s",
        "host": identity.host,
        "pid": identity.pid,
        "process_started": identity.process_started,
        "boot_id": identity.boot_id,
        "device": "cuda:0",
        "uuid": "GPU-9",
        "versions": "{}",
        "state": "training",
    }
    with base.transaction() as connection:
        seen = {"started": base.now - 100.0, "last_seen": base.now - silent}
        connection.execute(sa.insert(schema.workers).values(**{**row, **columns}, **seen))
    return slots.Slots(base, "s", identity=identity)


def trial(base: Database, slot: int, state: TrialState, *accuracies: float, **more: Any) -> int:
    """The Optuna trial of a slot; its number."""
    study = results.open_study(base, "s")
    number = len(study.get_trials(deepcopy=False))
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=accuracies[-1] if state == TrialState.COMPLETE else None,
            params={"kd_weight": 0.5},
            distributions={"kd_weight": optuna.distributions.FloatDistribution(0.0, 1.0)},
            intermediate_values=dict(enumerate(accuracies, start=1)),
            user_attrs={"slot": slot, "attempts": 1, "proposed_by": "chance", **more},
        )
    )
    return number


def work(base: Database, mine: slots.Slots, state: TrialState, *shown: float, **more: Any) -> int:
    """Claim a slot and bring its trial into this state; its number."""
    claim = mine.claim()
    assert claim is not None
    number = trial(base, claim.slot, state, *shown, **more)
    mine.record_trial(claim, number)
    if state.is_finished():
        failed = f"failed:{more.get('cause')}"
        mine.finish(claim, failed if state == TrialState.FAIL else state.name.lower())
    return number


def took(base: Database, seconds: float) -> None:
    """Pretend that every attempt which has ended took so long."""
    began = schema.attempts.c.ended - seconds
    with base.transaction() as connection:
        connection.execute(
            sa.update(schema.attempts).values(started=sa.func.coalesce(began, base.now))
        )


def test_before_its_first_worker_nothing_is_known_and_it_is_said_what_to_type(
    both: Database,
) -> None:
    found = progress.status(both, "s")
    assert found["budget"] == {"trials": 6, "done": 0, "running": 0, "open": 6, "queued": 0}
    assert (found["workers"], found["running"], found["best"]) == ([], [], None)
    assert found["rate"] == {"trials_per_hour": None, "images_per_s": None}
    assert found["seconds"] == {"searched": 0.0, "left": None}
    assert not found["ended"] and found["stopped"] is None
    (advice,) = found["advice"]
    assert "igkd run s" in advice and "igkd worker s" in advice


def test_a_search_at_work_is_told_whole(both: Database) -> None:
    mine = hire(both, trial_number=4, epoch=2, epochs=EPOCHS, images_per_s=900.0, silent=3.0)
    other = hire(both, host="elsewhere", device="cuda:1", state="waiting", images_per_s=7.0)
    work(both, mine, TrialState.PRUNED, 0.99)
    work(both, mine, TrialState.COMPLETE, 0.5, 0.8)
    work(both, mine, TrialState.COMPLETE, 0.5, 0.9)
    work(both, mine, TrialState.FAIL, 0.1, cause="diverged", reason="nan")
    work(both, mine, TrialState.RUNNING, 0.3, 0.4)
    took(both, 40.0)
    queued.add(both, "s", [{"kd_weight": 0.25}])
    hire(both, state="left")

    found = progress.status(both, "s")
    assert json.loads(json.dumps(found)) == found
    assert found["budget"] == {"trials": 6, "done": 4, "running": 1, "open": 1, "queued": 1}
    assert found["states"] == {"pruned": 1, "complete": 2, "failed": 1, "running": 1}
    assert found["proposed_by"] == {"chance": 5}
    assert found["failures"] == {"diverged": 1}
    assert found["best"] == {"trial": 2, "accuracy": 0.9, "parameters": {"kd_weight": 0.5}}
    assert found["running"] == [
        {
            "trial": 4,
            "epochs": 2,
            "planned": EPOCHS,
            "accuracy": 0.4,
            "attempt": 1,
            "worker": mine.identity.owner,
            "parameters": {"kd_weight": 0.5},
        }
    ]
    first, second = found["workers"]
    assert 3.0 <= first.pop("silent") < 60.0
    assert first == {
        "worker": mine.identity.owner,
        "host": mine.identity.host,
        "pid": mine.identity.pid,
        "device": "cuda:0",
        "uuid": "GPU-9",
        "versions": {},
        "state": "training",
        "trial": 4,
        "epoch": 2,
        "epochs": EPOCHS,
        "images_per_s": 900.0,
    }
    assert (second["worker"], second["host"]) == (other.identity.owner, "elsewhere")
    assert (second["state"], second["trial"], second["images_per_s"]) == ("waiting", None, None)
    assert found["left"] == 1 and found["deaths"] == 0
    # two workers, two trials that are left, 40 s each
    assert found["rate"]["images_per_s"] == 900.0
    assert found["rate"]["trials_per_hour"] == pytest.approx(180.0)
    assert 35.0 < found["seconds"]["left"] <= 40.0
    (advice,) = found["advice"]
    assert "igkd trials s" in advice


def keys_of(found: Any) -> set[str]:
    """All keys, but for those of dicts whose keys are themselves values."""
    if isinstance(found, list):
        return set().union(*map(keys_of, found))
    if not isinstance(found, dict):
        return set()
    values = ("states", "proposed_by", "failures", "parameters", "versions")
    deeper = [keys_of(value) for key, value in found.items() if key not in values]
    return set(found).union(*deeper)


def test_the_page_about_watching_names_every_key(base: Database) -> None:
    begin(base)
    mine = hire(base)
    work(base, mine, TrialState.COMPLETE, 0.9)
    work(base, mine, TrialState.RUNNING, 0.9)
    page = (Path(__file__).parents[1] / "docs/watching.md").read_text(encoding="utf-8")
    keys = keys_of(progress.status(base, "s"))
    assert {"images_per_s", "planned", "uuid", "advice"} <= keys
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_a_worker_that_dies_or_falls_silent_is_marked_and_its_trial_has_nobody(
    both: Database,
) -> None:
    dead = hire(both, dead=True, trial_number=0, epoch=3)
    silent = hire(both, host="elsewhere", silent=500.0)
    work(both, dead, TrialState.RUNNING, 0.3)
    work(both, silent, TrialState.RUNNING)
    found = progress.status(both, "s")
    assert [worker["state"] for worker in found["workers"]] == ["dead", "silent"]
    assert [worker["trial"] for worker in found["workers"]] == [0, 1]
    assert [trial["worker"] for trial in found["running"]] == [None, None]
    assert found["seconds"]["left"] is None and not found["ended"]
    assert [advice.partition(":")[0] for advice in found["advice"]] == ["nobody is at work"]

    living = hire(both)
    claim = slots.Slots(both, "s", identity=living.identity).claim()
    assert claim is not None and claim.slot == 2
    found = progress.status(both, "s")
    assert any("2 workers died or fell silent" in advice for advice in found["advice"])


def test_an_adopted_trial_is_its_new_workers(both: Database) -> None:
    work(both, hire(both, dead=True), TrialState.RUNNING, 0.3)
    both_budget = slots.Slots(both, "s")
    both_budget.set_budget(1)
    living = hire(both)
    assert living.claim() is not None
    found = progress.status(both, "s")
    (running,) = found["running"]
    assert (running["attempt"], running["worker"]) == (2, living.identity.owner)
    assert found["deaths"] == 1


def test_released_trials_wait_for_a_worker(base: Database) -> None:
    begin(base)
    mine = hire(base, state="left")
    claim = mine.claim()
    assert claim is not None
    trial(base, claim.slot, TrialState.RUNNING, 0.3)
    mine.release(claim)
    found = progress.status(base, "s")
    assert found["budget"]["running"] == 0 and found["running"][0]["worker"] is None
    assert found["left"] == 1 and found["workers"] == []


def test_epochs_are_those_of_the_register_where_optuna_is_told_none(base: Database) -> None:
    begin(base)
    mine = hire(base, trial_number=0, epoch=5)
    work(base, mine, TrialState.RUNNING)
    assert progress.status(base, "s")["running"][0]["epochs"] == 5
    with base.transaction() as connection:
        connection.execute(sa.update(schema.workers).values(trial_number=7))
    found = progress.status(base, "s")
    assert found["running"][0]["epochs"] == 0, "what it said of an earlier trial"
    assert found["workers"][0]["epoch"] is None


def test_a_trial_that_ended_while_it_was_read_is_not_shown_as_running(base: Database) -> None:
    begin(base)
    claim = hire(base).claim()
    assert claim is not None
    trial(base, claim.slot, TrialState.RUNNING, 0.3)
    reader = progress.Reader(base, "s")
    with base.transaction() as connection:
        connection.execute(sa.update(schema.slots).values(state="done", outcome="complete"))
    assert reader.read()["running"] == []


def test_it_has_ended_when_the_budget_is_spent(base: Database) -> None:
    begin(base, trials=1, patience=1)
    work(base, hire(base), TrialState.COMPLETE, 0.5)
    found = progress.status(base, "s")
    assert found["ended"] and found["stopped"] is None
    assert found["seconds"]["left"] == 0.0 and found["rate"]["trials_per_hour"] is None
    assert [advice for advice in found["advice"] if "igkd best s" in advice]


def test_why_it_stopped_before_its_budget_was_spent(base: Database) -> None:
    begin(base, trials=9, patience=1)
    mine = hire(base)
    work(base, mine, TrialState.COMPLETE, 0.5)
    claim = mine.claim()
    work(base, mine, TrialState.PRUNED, 0.4)
    found = progress.status(base, "s")
    assert "search.patience = 1" in found["stopped"]
    assert not found["ended"], "what has begun is still finished"
    assert claim is not None
    mine.finish(claim, "pruned")
    found = progress.status(base, "s")
    assert found["ended"] and "search.patience = 1" in found["stopped"]
    assert not any("nobody" in advice for advice in found["advice"])


def test_hours_bound_the_time_left(base: Database) -> None:
    begin(base, trials=100, hours=0.5)
    work(base, hire(base), TrialState.COMPLETE, 0.5)
    took(base, 600.0)
    assert progress.status(base, "s")["seconds"]["left"] == pytest.approx(1800.0)
    with base.transaction() as connection:
        connection.execute(sa.insert(schema.searches).values(study_name="s", seconds=1500.0))
    assert progress.status(base, "s")["seconds"]["left"] == pytest.approx(600.0), "one that began"


def test_time_searched_is_that_of_the_database(base: Database) -> None:
    begin(base)
    with base.transaction() as connection:
        connection.execute(sa.insert(schema.searches).values(study_name="s", seconds=75.0))
    assert progress.status(base, "s")["seconds"]["searched"] == 75.0


def test_a_study_of_two_objectives_has_a_front(base: Database) -> None:
    begin(base)
    assert progress.status(base, "s")["front"] is None
    optuna.delete_study(study_name="s", storage=base.storage)
    study = optuna.create_study(
        study_name="s", storage=base.storage, directions=["maximize", "minimize"]
    )
    for slot, values in enumerate([[0.8, 2.0], [0.9, 3.0], [0.7, 4.0]]):
        shown = {"slot": slot, "latency_ms": values[1]}
        study.add_trial(optuna.trial.create_trial(values=values, user_attrs=shown))
    found = progress.status(base, "s")
    assert found["states"] == {"complete": 3} and found["best"]["trial"] == 1
    assert found["front"] == [
        {"trial": 1, "accuracy": 0.9, "latency_ms": 3.0},
        {"trial": 0, "accuracy": 0.8, "latency_ms": 2.0},
    ]


def test_a_reader_sees_what_comes_and_that_its_study_goes(base: Database) -> None:
    begin(base)
    reader = progress.Reader(base, "s")
    assert reader.read()["states"] == {}
    mine = hire(base)
    number = work(base, mine, TrialState.RUNNING, 0.3)
    assert reader.read()["running"][0]["accuracy"] == 0.3
    results.open_study(base, "s").tell(number, 0.5)
    assert reader.read()["states"] == {"complete": 1}
    with base.transaction() as connection:
        connection.execute(sa.delete(schema.studies))
    with pytest.raises(StorageError, match="no study 's' at"):
        reader.read()


def test_an_unknown_study_is_named(base: Database) -> None:
    with pytest.raises(StorageError, match=r"no study 'S' at .*igkd run STUDY"):
        progress.status(base, "S")


def test_an_older_database_that_is_only_read_shows_what_it_has(base: Database) -> None:
    begin(base)
    work(base, hire(base), TrialState.COMPLETE, 0.5)
    younger = (schema.attempts, schema.workers, schema.searches, schema.queue)
    with base.transaction() as connection:
        schema.metadata.drop_all(connection, tables=list(younger))
        connection.execute(sa.update(schema.schema).values(version=2))
    base.close()
    reader = connect(base.url, read_only=True)
    found = progress.status(reader, "s")
    assert found["budget"]["done"] == 1 and found["best"]["accuracy"] == 0.5
    assert (found["workers"], found["deaths"], found["seconds"]["left"]) == ([], 0, None)
    reader.close()


def test_looking_does_not_write_and_says_the_same(base: Database) -> None:
    begin(base)
    work(base, hire(base, dead=True), TrialState.COMPLETE, 0.5)
    reader = connect(base.url, read_only=True)
    shown, ours = progress.status(reader, "s"), progress.status(base, "s")
    for found in (shown, ours):
        found["workers"][0].pop("silent")
    assert shown == ours
    reader.close()


def test_who_looks_on_need_not_know_the_architectures(base: Database) -> None:
    begin(base, trials=9, patience=1)
    record = base.read_study("s")
    assert record is not None
    teacher = {**record.question["teacher"], "architecture": "of_a_package_that_is_elsewhere"}
    base.set_question("s", {**record.question, "teacher": teacher})
    work(base, hire(base), TrialState.COMPLETE, 0.5)
    assert progress.status(base, "s")["budget"]["done"] == 1


def test_a_thousand_trials_are_described_at_once() -> None:
    parameters = {f"parameter_{i}": 0.5 for i in range(8)}
    row = results.Row(0, 0, "complete", parameters, 0.5, 8, 1, "model", 1, 1.0, None, None, {})
    slot = slots.SlotRow(0, "done", 1, None, None, None, 9, 0, "complete")
    attempt = slots.AttemptRow(0, 1, "w", "host", 1, 0.0, 10.0, "done")
    many = range(1000)
    found = progress.Found(
        study="s",
        epochs=8,
        hours=None,
        stopped=None,
        searched=10.0,
        now=10.0,
        queued=0,
        trials=[replace(row, number=i, slot=i) for i in many],
        best=row,
        front=None,
        table=[replace(slot, slot=i, trial_number=i) for i in many],
        attempts=[replace(attempt, slot=i) for i in many],
        register=[],
    )
    began = time.process_time()
    assert progress.describe(found)["states"] == {"complete": 1000}
    assert time.process_time() - began < 0.5


def test_hosts_are_those_of_the_attempts_at_a_trial(base: Database) -> None:
    begin(base)
    for host in ("a", "b"):
        mine = hire(base, host=host)
        claim = mine.claim()
        assert claim is not None and claim.slot == 0
        mine.release(claim)
    last = hire(base, host="c")
    work(base, last, TrialState.COMPLETE, 0.5, attempts=3)
    work(base, last, TrialState.COMPLETE, 0.5)
    last.reopen(0)
    for host in ("d", "e"):
        mine = hire(base, host=host)
        claim = mine.claim()
        assert claim is not None and claim.slot == 0
        mine.release(claim)
    trial(base, 0, TrialState.RUNNING, 0.5, attempts=5, retry_of=0)
    rows = results.rows(results.open_study(base, "s"))
    assert progress.hosts(base, "s", rows) == {0: ["a", "b", "c"], 2: ["d", "e"]}
