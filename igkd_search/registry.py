"""Studies by name: shipped, in a file or in the storage; their question and budget, kept there.

A study that began under one question goes on under that question only; its budget may change.
Nothing here imports torch, so a finished study answers in a second.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import optuna

from igkd_search import database, queued, shipped, slots, space, spec, study_file, warm_start
from igkd_search.errors import StudyError


def find(name: str, base: database.Database | None = None) -> spec.Study:
    """The study that STUDY means: a path, the name of a shipped study, or one in the storage.

    StudyError when it is none of these, with the names that would do.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return study_file.read_study(path)
    shipped = shipped_studies()
    if name in shipped:
        return study_file.read_study(shipped[name])
    record = base.read_study(name) if base is not None else None
    if record is not None:
        return _stored(record)
    stored = base.study_names() if base is not None else []
    raise StudyError(
        f"{name}: no such study; give the path of a study file, a shipped study "
        f"({', '.join(shipped)}), or one in the storage ({', '.join(stored) or 'none yet'})"
    )


def name_of(name: str) -> str:
    """The name under which the storage knows what STUDY means, without looking there."""
    path = Path(name)
    return find(name).name if path.suffix == ".toml" or path.is_file() else name


def begun(base: database.Database, name: str) -> spec.Study:
    """The question of what STUDY means, as it was begun; StudyError when a file asks another.

    The storage goes before the shipped study of the same name. A study that has not begun is
    returned as `find` knows it.
    """
    path = Path(name)
    record = base.read_study(name)
    if record is not None and path.suffix != ".toml" and not path.is_file():
        return _stored(record)
    found = find(name, base)
    check_question(base, found)
    return found


def shipped_studies() -> dict[str, Path]:
    """The study files of the package by name, in order: inside the wheel, or beside the package."""
    return shipped.studies()


def check_question(base: database.Database, study: spec.Study) -> None:
    """StudyError with the difference when the storage knows this name under another question."""
    record = base.read_study(study.name)
    if record is None:
        return
    before = _stored(record).question()
    changes = spec.difference(before, study.question())
    if changes:
        listed = "".join(f"\n  {change}" for change in changes)
        raise StudyError(
            f"study '{study.name}' asks another question than when it began:{listed}\n"
            "restore the file, or give the study another name to ask anew"
        )


def kept_teacher(base: database.Database, name: str, digest: str) -> bytes | None:
    """The weights of a study's teacher with this sha256, from the storage; None if not kept."""
    for file, found in base.file_digests(name).items():
        if found == digest:
            return base.read_file(name, file)
    return None


def stored(base: database.Database, name: str) -> tuple[database.StudyRow, spec.Study]:
    """A study as it is stored; StorageError when the database does not hold it."""
    record = base.read_study(name)
    if record is None:
        raise database.unknown_study(base.url, name)
    return record, _stored(record)


def checkpoints_of(record: database.StudyRow) -> str:
    """The name of the folder that holds a study's checkpoints.

    It is of this very study: another one of the same name must not go on from them.
    """
    return f"{record.name}-{spec.fingerprint([record.name, record.created])[:8]}"


def reruns_of(record: database.StudyRow) -> str:
    """The folder, below that of all checkpoints, of leading trials that are trained again."""
    return f"{checkpoints_of(record)}/reruns"


def _stored(record: database.StudyRow) -> spec.Study:
    return study_file.check(spec.Study, record.question, f"study '{record.name}' in the storage")


def register(
    base: database.Database,
    study: spec.Study,
    trials: int | None = None,
    searched: spec.Study | None = None,
) -> None:
    """Bring a study and its budget into the database; a second time changes the budget only.

    The budget follows `trials` when given, else a file whose own `search.trials` has changed. What
    `search.from` names is queued as far as it lies in the space of `searched`, by default of the
    study itself. StudyError when it names none that has found anything.
    """
    check_question(base, study)
    budget = budget_of(base, study, trials)
    points = warm_start.points(base, searched or study) if _is_new(base, study.name) else []
    optuna.create_study(
        study_name=study.name,
        storage=base.storage,
        directions=space.directions(study),
        load_if_exists=True,
    )
    base.write_study(study.name, study.model_dump(mode="json"), budget)
    if points:
        _queue_once(base, study, points)  # before there is a slot that somebody could claim
    # the budget first: once the question is stored, the file no longer looks changed
    slots.Slots(base, study.name).set_budget(budget)
    base.set_question(study.name, study.model_dump(mode="json"))


def resume(url: str, study: spec.Study, trials: int | None = None) -> bool:
    """Register a study that has begun, for its budget; False, and nothing, when it has not."""
    with closing(database.connect(url)) as base:
        if base.read_study(study.name) is None:
            return False
        register(base, study, trials)
        return True


def is_spent(base: database.Database, name: str) -> bool:
    """Whether a study has begun and its budget is spent."""
    counts = slots.Slots(base, name).counts()
    return counts.total > 0 and counts.done == counts.total


def is_finished(base: database.Database, study: spec.Study, trials: int | None = None) -> bool:
    """Whether the budget, as this call would leave it, is spent already; writes nothing."""
    check_question(base, study)
    budget = budget_of(base, study, trials)
    if base.read_study(study.name) is None:
        return False
    counts = slots.Slots(base, study.name).counts()
    return counts.done >= budget and counts.done == counts.total


def _is_new(base: database.Database, name: str) -> bool:
    """Whether the study has no slots yet, as when an earlier registration was interrupted."""
    return slots.Slots(base, name).counts().total == 0


def _queue_once(base: database.Database, study: spec.Study, points: list[warm_start.Point]) -> None:
    """Queue what another study has found, unless another process has done it by now."""

    def queue() -> None:
        with base.transaction() as connection:

            def note(facts: dict[str, Any]) -> dict[str, Any]:
                if warm_start.FACT in facts:
                    return facts
                queued.append_in(connection, study.name, points)
                found = {"study": study.search.warm_start, "points": len(points)}
                return facts | {warm_start.FACT: found}

            base.settle_facts_in(connection, study.name, note)

    base.patience(queue)


def budget_of(base: database.Database, study: spec.Study, trials: int | None = None) -> int:
    """How many trials a registration would leave a study with; StudyError for too large a grid."""
    record = base.read_study(study.name)
    if trials is not None:
        spec.check_budget(study, trials)
        return trials
    if record is None or record.question["search"]["trials"] != study.search.trials:
        return study.search.trials
    return record.trials
