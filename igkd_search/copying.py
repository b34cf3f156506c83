"""A study copied into another database, nothing lost and nothing changed (`igkd copy`).

The copy is made under a name that no study can have, and gets its own in the one transaction that
also writes its slots, so it is there whole or not at all. A copy that was interrupted is begun
again. The register of workers stays behind: nobody works on the copy yet.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from igkd_search import database, registry, spec, stages, study_file, workers
from igkd_search.errors import StorageError, StudyError
from igkd_search.identities import this_process
from igkd_search.schema import attempts, files, queue, searches, slots, studies

_TABLES = {"slots": slots, "attempts": attempts, "queued": queue, "searches": searches}
_NOBODY = dict.fromkeys(("owner", "host", "pid", "process_started", "boot_id"))
_OPTUNA = sa.table("studies", sa.column("study_name"))


@dataclass(frozen=True)
class Copied:
    """What both sides hold, as it was read from the copy."""

    study: str
    target: str
    """The URL without its password."""
    trials: dict[str, int]
    """How many of each state."""
    digest: str
    """sha256 of all trials, the same on both sides."""
    rows: dict[str, int]
    files: int
    file_bytes: int


def copy(
    base: database.Database, target: database.Database, name: str, new_name: str | None = None
) -> Copied:
    """Copy a study into another database, by default under its own name.

    Numbers, states, dates and attributes of its trials stay, and the day it began, so that its
    checkpoints are found under the same name. StorageError while workers are at work on it, and
    when the sides differ in the end; StudyError when the target has a study of this name.
    """
    record, study = registry.stored(base, name)
    new = new_name or name
    renamed = study_file.check(spec.Study, record.question | {"name": new}, "--as")
    workers.check_idle(base, name, this_process(), "copy it")
    _check_free(target, new)
    _clear(target, _temporary(new))
    original = optuna.load_study(study_name=name, storage=base.storage)
    trials = original.get_trials()
    _copy_trials(original, trials, target, _temporary(new))
    for file in base.file_digests(name):
        content = base.read_file(name, file)
        assert content is not None
        target.keep_file(_temporary(new), file, content)
    digest = _check_same(name, original.get_trials(), _trials_of(target, _temporary(new)))
    question = renamed.model_dump(mode="json")
    settled = database.StudyRow(new, question, record.trials, record.facts, record.created)
    _settle(target, settled, _rows_of(base, name))
    return _described(target, new, study, digest)


def digest_of(trials: Sequence[FrozenTrial]) -> str:
    """sha256 of all that Optuna keeps of these trials, whichever database they are in."""
    plain = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "distributions": {
                name: distribution_to_json(each) for name, each in trial.distributions.items()
            },
            "user_attrs": trial.user_attrs,
            "system_attrs": trial.system_attrs,
            "intermediate_values": {str(k): v for k, v in trial.intermediate_values.items()},
            "dates": [str(trial.datetime_start), str(trial.datetime_complete)],
        }
        for trial in trials
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _temporary(name: str) -> str:
    return f"{name}~copy"  # spec.Study allows no such name


def _check_free(target: database.Database, name: str) -> None:
    place = database.masked(target.url)
    if target.read_study(name) is not None:
        raise StudyError(
            f"there is a study '{name}' at {place} already; give the copy another name with --as, "
            f"or remove that one first: igkd delete {name} --storage {place}"
        )
    if _optuna_id(target, name) is not None:
        raise StudyError(
            f"Optuna has a study '{name}' at {place} that igkd-search did not begin; give the copy "
            "another name with --as"
        )


def _clear(target: database.Database, temporary: str) -> None:
    """Remove what an interrupted copy has left."""
    if _optuna_id(target, temporary) is not None:
        optuna.delete_study(study_name=temporary, storage=target.storage)
    with target.transaction() as connection:
        connection.execute(sa.delete(files).where(files.c.study_name == temporary))


def _optuna_id(target: database.Database, name: str) -> int | None:
    try:
        return target.storage.get_study_id_from_name(name)
    except KeyError:
        return None


def _copy_trials(
    original: optuna.Study,
    trials: Sequence[FrozenTrial],
    target: database.Database,
    temporary: str,
) -> None:
    made = optuna.create_study(
        study_name=temporary, storage=target.storage, directions=original.directions
    )
    storage, number = target.storage, made._study_id
    for key, value in original._storage.get_study_system_attrs(original._study_id).items():
        storage.set_study_system_attr(number, key, value)
    for key, value in original.user_attrs.items():
        storage.set_study_user_attr(number, key, value)
    with stages.stage("trials", len(trials), "trials") as stage:
        for trial in trials:
            # not Study.add_trial: what is stored is copied as it is, not judged once more
            storage.create_new_trial(number, template_trial=trial)
            stage.advance()


def _trials_of(target: database.Database, name: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=target.storage).get_trials()


def _check_same(name: str, ours: Sequence[FrozenTrial], theirs: Sequence[FrozenTrial]) -> str:
    digest, copied = digest_of(ours), digest_of(theirs)
    if digest != copied:
        raise StorageError(
            f"study '{name}' and its copy differ ({len(ours)} and {len(theirs)} trials, sha256 "
            f"{digest[:12]} and {copied[:12]}): it went on meanwhile, or the connection broke; "
            "type the command again, it begins anew"
        )
    return digest


def _rows_of(base: database.Database, name: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of our own tables; an older database that is only read lacks some of them."""
    found = {}
    with base.transaction() as connection:
        for label, table in _TABLES.items():
            there = database.has(connection, table)
            query = sa.select(table).where(table.c.study_name == name)
            rows = connection.execute(query).mappings().all() if there else []
            found[label] = [dict(row) for row in rows]
    # nobody is at work, so whoever holds a slot is dead: it can be claimed there at once
    found["slots"] = [_released(row) for row in found["slots"]]
    return found


def _released(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"state": "open", **_NOBODY} if row["state"] == "leased" else row


def _settle(
    target: database.Database,
    record: database.StudyRow,
    rows: Mapping[str, Sequence[dict[str, Any]]],
) -> None:
    """Write all of ours and give the copy its name, at once."""
    temporary, new = _temporary(record.name), record.name
    with target.transaction() as connection:
        for label, table in _TABLES.items():
            if rows[label]:
                mine = [row | {"study_name": new} for row in rows[label]]
                connection.execute(sa.insert(table), mine)
        # what a study of this name that never began has kept
        connection.execute(sa.delete(files).where(files.c.study_name == new))
        for of in (files, _OPTUNA):
            change = sa.update(of).where(of.c.study_name == temporary)
            connection.execute(change.values(study_name=new))
        plain = {"question": json.dumps(record.question), "facts": json.dumps(record.facts)}
        row = {"study_name": new, "trials": record.trials, "created": record.created, **plain}
        connection.execute(sa.insert(studies), row)


def _described(target: database.Database, name: str, study: spec.Study, digest: str) -> Copied:
    trials, rows = _trials_of(target, name), _rows_of(target, name)
    with target.transaction() as connection:
        kept = sa.select(files.c.bytes).where(files.c.study_name == name)
        sizes = list(connection.scalars(kept))
    return Copied(
        name,
        database.masked(target.url),
        dict(Counter(trial.state.name.lower() for trial in trials)),
        digest,
        {label: len(found) for label, found in rows.items()},
        len(sizes),
        sum(sizes),
    )
