"""What is inconsistent about a study, each with its fix, which is shown before it is made.

A crash between any two writes heals by itself when a worker comes by; this is for what no worker
comes by, and for what was changed from outside. What a living worker, or one of another host, may
hold is left alone: slots are read before the trials and again after them, and only those that did
not change in between are judged.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from igkd_search import artifacts, births, database, outcomes, registry, results, slots, workers
from igkd_search.identities import this_process
from igkd_search.schema import file_parts, files, queue
from igkd_search.schema import slots as slot_table
from igkd_search.schema import workers as register

_NOBODY = dict.fromkeys(("owner", "host", "pid", "process_started", "boot_id"))
_TRIAL = "trial-"


@dataclass(frozen=True)
class Finding:
    """Something inconsistent, what would be done about it, and the doing."""

    what: str
    fix: str
    mend: Callable[[], object] = field(repr=False, compare=False)


def find(base: database.Database, name: str, home: Path) -> list[Finding]:
    """Everything inconsistent about a study, in the order in which it is to be mended.

    Changes nothing. StorageError when the database does not hold the study, or Optuna's part of it
    is missing.
    """
    view = _look(base, name)
    return [
        *_trials_without_slot(view),
        *_slots(view),
        *_missing_slots(view),
        *_taken_by_nobody(view),
        *_dead_workers(view),
        *_folders(view, home),
        *_unnamed_files(view),
    ]


@dataclass(frozen=True)
class _View:
    """A study as it was read; `settled` are the slots that nobody was at work on meanwhile."""

    base: database.Database
    record: database.StudyRow
    budget: int
    trials: Sequence[FrozenTrial]
    every: frozenset[int]
    settled: Mapping[int, Any]
    dead: frozenset[int]
    """Slots among them whose owner, of this host, is dead."""

    @property
    def name(self) -> str:
        return self.record.name


def _look(base: database.Database, name: str) -> _View:
    me, (record, _) = this_process(), registry.stored(base, name)
    study = results.open_study(base, name)
    before = _read_slots(base, name)
    trials = study.get_trials(deepcopy=False)
    after = _read_slots(base, name)
    still = {slot: row for slot, row in after.items() if before.get(slot) == row}
    dead = {
        slot
        for slot, row in still.items()
        if row.state == "leased"
        and me.died_here(row.host, row.boot_id, row.pid, row.process_started)
    }
    settled = {slot: row for slot, row in still.items() if row.state != "leased" or slot in dead}
    # somebody may just be changing it
    budget = min(record.trials, registry.stored(base, name)[0].trials)
    return _View(base, record, budget, trials, frozenset(after), settled, frozenset(dead))


def _read_slots(base: database.Database, name: str) -> dict[int, Any]:
    query = sa.select(slot_table).where(slot_table.c.study_name == name)
    with base.transaction() as connection:
        return {row.slot: row for row in connection.execute(query.order_by(slot_table.c.slot))}


def _trials_without_slot(view: _View) -> Iterator[Finding]:
    for trial in view.trials:
        if trial.state.is_finished():
            continue
        slot = trial.user_attrs.get("slot")
        current = births.among(view.trials, slot) if slot in view.every else None
        if current is not None and current.number == trial.number:
            continue
        why = "is of no slot" if current is None else f"is not the one of slot {slot}"
        word = "waits" if trial.state == TrialState.WAITING else "runs"
        yield Finding(
            f"trial {trial.number} {word}, but {why}",
            "discarded (told FAIL)",
            _discarding(view.base, trial, why),
        )


def _discarding(base: database.Database, trial: FrozenTrial, why: str) -> Callable[[], None]:
    def discard() -> None:
        try:
            base.storage.set_trial_user_attr(trial._trial_id, "reason", why)
            base.storage.set_trial_user_attr(trial._trial_id, "cause", "discarded")
            base.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            pass  # somebody else finished it

    return discard


def _slots(view: _View) -> Iterator[Finding]:
    for slot, row in view.settled.items():
        trial = births.among(view.trials, slot)
        finished = trial is not None and trial.state.is_finished()
        if row.state == "done" and not finished:
            state = "no trial" if trial is None else f"trial {trial.number}, which is not finished"
            table = slots.Slots(view.base, view.name)
            yield Finding(
                f"slot {slot} is done, but has {state}",
                "opened again",
                partial(table.reopen, slot),
            )
        elif row.state != "done" and finished:
            assert trial is not None
            outcome = outcomes.of_finished(trial)
            yield Finding(
                f"slot {slot} is {row.state}, but its trial {trial.number} is finished",
                f"closed ({outcome})",
                _changing(view, row, state="done", outcome=outcome, trial_number=trial.number),
            )
        elif slot in view.dead:
            yield Finding(
                f"slot {slot} is held by a dead process of this host (pid {row.pid})",
                "released",
                _changing(view, row, state="open", **_NOBODY),
            )


def _changing(view: _View, row: Any, **values: Any) -> Callable[[], None]:
    """Change a slot, unless somebody has claimed it since."""
    same = [slot_table.c[name] == getattr(row, name) for name in ("state", "counter", "attempt")]
    mine = (slot_table.c.study_name == view.name, slot_table.c.slot == row.slot)

    def change() -> None:
        with view.base.transaction() as connection:
            connection.execute(sa.update(slot_table).where(*mine, *same).values(**values))

    return change


def _missing_slots(view: _View) -> Iterator[Finding]:
    missing = sorted(set(range(view.budget)) - view.every)
    if missing:
        yield Finding(
            f"of the slots for {view.budget} trials these are missing: {_listed(missing)}",
            "made",
            partial(_make_slots, view.base, view.name),
        )


def _make_slots(base: database.Database, name: str) -> None:
    record, _ = registry.stored(base, name)
    slots.Slots(base, name).set_budget(record.trials)


def _taken_by_nobody(view: _View) -> Iterator[Finding]:
    mine = queue.c.study_name == view.name
    query = sa.select(queue.c.position, queue.c.slot).where(mine, queue.c.slot.is_not(None))
    with view.base.transaction() as connection:
        rows = connection.execute(query.order_by(queue.c.position)).all()
    for position, slot in rows:
        if slot not in view.every:
            change = sa.update(queue).where(mine, queue.c.position == position)
            yield Finding(
                f"the configuration at place {position} of the queue is taken by slot {slot}, "
                "which there is not",
                "queued again",
                _executing(view.base, change.values(slot=None)),
            )


def _dead_workers(view: _View) -> Iterator[Finding]:
    for row in workers.rows(view.base, view.name, this_process()):
        if row.dead:
            change = sa.update(register).where(register.c.worker == row.worker)
            yield Finding(
                f"the worker {row.host} (pid {row.pid}) is dead, but the register has it at work",
                "marked as left",
                _executing(view.base, change.values(state="left", slot=None, trial_number=None)),
            )


def _folders(view: _View, home: Path) -> Iterator[Finding]:
    folder = home / "checkpoints" / registry.checkpoints_of(view.record)
    for path in sorted(folder.glob(f"{_TRIAL}*")):
        number = path.name.removeprefix(_TRIAL)
        known = number.isdigit() and int(number) < len(view.trials)
        trial = view.trials[int(number)] if known else None
        if trial is None or not trial.state.is_finished():
            continue
        # its worker may be about to do it
        slot = trial.user_attrs.get("slot")
        if slot in view.every and slot not in view.settled:
            continue
        yield Finding(
            f"trial {trial.number} is finished, but {path} is there",
            "removed",
            partial(shutil.rmtree, path, ignore_errors=True),
        )


def _unnamed_files(view: _View) -> Iterator[Finding]:
    """What attempts that died have kept, and content that no file names any more."""
    named = {trial.user_attrs.get("confusion_file") for trial in view.trials}
    named |= {
        name for each in view.trials for name in artifacts.named(each.system_attrs, each.number)
    }
    open_ = {trial.number for trial in view.trials if not trial.state.is_finished()}
    for name in view.base.file_digests(view.name):
        number = name.partition("/")[0].removeprefix(_TRIAL)
        # a trial that runs has perhaps not said yet what it keeps
        known = number.isdigit() and int(number) < len(view.trials)
        if known and name not in named and int(number) not in open_:
            mine = (files.c.study_name == view.name, files.c.name == name)
            yield Finding(
                f"the file {name} is kept, but no trial names it",
                "removed",
                _executing(view.base, sa.delete(files).where(*mine)),
            )
    unnamed = file_parts.c.sha256.not_in(sa.select(files.c.sha256))
    with view.base.transaction() as connection:
        query = sa.select(file_parts.c.sha256).where(unnamed).distinct()
        digests = connection.scalars(query).all()
    if digests:
        count = "a file" if len(digests) == 1 else f"{len(digests)} files"
        yield Finding(
            f"the content of {count} is kept, but no study names it",
            "removed",
            partial(_forget_unnamed, view.base),
        )


def _forget_unnamed(base: database.Database) -> None:
    with base.transaction() as connection:
        database.forget_unnamed(connection)


def _executing(base: database.Database, statement: sa.Executable) -> Callable[[], None]:
    def execute() -> None:
        with base.transaction() as connection:
            connection.execute(statement)

    return execute


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, ..." if len(numbers) > 8 else shown
