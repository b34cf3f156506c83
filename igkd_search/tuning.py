"""A search of its own for each arm of an ablation, so that none is judged by another's settings.

Each arm searches the parameters it has, with as many trials, as many epochs and the same sampler,
on the same fit and validation rows, without pruning; the exported values are its first trial. The
searches are studies of a database of their own, in the folder of the final training.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from igkd_search import arms, database, launch, registry, results, space, spec, study_file, vault
from igkd_search.errors import ProcessError, StorageError, StudyError

log = logging.getLogger(__name__)

Search = Callable[[database.Database, spec.Study], str]
"""Spends the budget of a study of a database; why it ended."""


def fields(arm: arms.Arm, search: spec.Search | None) -> dict[str, spec.Range]:
    """What an arm searches: the space without what it lacks, and without the student's shape.

    Another student would be another question than what a part of the method adds.
    """
    if search is None:
        return {}
    out = arm.lacks() | set(spec.SHAPE)
    return {name: span for name, span in search.space.items() if name not in out}


def study_of(arm: arms.Arm, exported: spec.Exported, trials: int) -> spec.Study | None:
    """The study of an arm; None when it has nothing to search."""
    asked, found = arms.apply(arm, exported), fields(arm, exported.search)
    search = exported.search
    if search is None or not found:
        return None
    start = {name: getattr(asked.trial, name) for name in found}
    start = {name: value for name, value in start.items() if found[name].contains(value)}
    # a grid has no more points than its values, nsga2 wants hundreds, cmaes two numbers
    known = search.sampler in ("tpe", "gp", "random", "qmc")
    sampler: dict[str, Any] = {"sampler": search.sampler if known else "tpe"}
    if known:
        sampler["sampler_options"] = search.sampler_options.model_dump(mode="json")
    plain = {
        # the arm is what tells them apart
        "name": f"{exported.provenance.study[: 79 - len(arm.slug)]}-{arm.slug}",
        **{name: getattr(asked, name).model_dump(mode="json") for name in spec.Run.model_fields},
        "search": {
            "trials": trials,
            **sampler,
            "pruner": "none",
            "seed": search.seed,
            "space": {
                name: span.model_dump(mode="json", exclude_none=True)
                for name, span in found.items()
            },
            "start": [start] if start else [],
        },
    }
    return study_file.check(spec.Study, plain, f"the search of arm {arm}")


def settle(
    asked: Sequence[arms.Arm],
    exported: spec.Exported,
    trials: int,
    folder: Path,
    home: Path,
    device: str | None = None,
) -> dict[arms.Arm, dict[str, Any]]:
    """Search for each arm, and say what each has found, as plain JSON; finished searches stand.

    parameters holds what the winner has, validation_accuracy how it did; both are None and empty
    for an arm that has nothing to search. ProcessError when a search was stopped before its end.
    """
    if exported.search is None:
        raise StudyError(
            "--tune-arms: the file does not say what was searched, for an older igkd-search wrote "
            "it; export it again"
        )
    with StorageError.when_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    base = database.connect(f"sqlite:///{folder / 'igkd.db'}")
    try:
        return {arm: _settle(arm, exported, trials, folder, base, home, device) for arm in asked}
    finally:
        base.close()


def tuned(exported: spec.Exported, found: Mapping[str, Any]) -> spec.Exported:
    """The configuration of an arm with what its own search has found."""
    trial = exported.trial.model_copy(update=dict(found["parameters"]))
    return exported.model_copy(update={"trial": trial})


def _settle(
    arm: arms.Arm,
    exported: spec.Exported,
    trials: int,
    folder: Path,
    base: database.Database,
    home: Path,
    device: str | None,
) -> dict[str, Any]:
    study = study_of(arm, exported, trials)
    if study is None:
        log.info("arm %s: nothing of what was searched is its own; it keeps the settings", arm)
        return {"parameters": {}, "validation_accuracy": None}
    written = study_file.as_toml(study.model_dump(mode="json"))
    vault.write_whole(folder / f"{arm.slug}.toml", written.encode())
    _check(base, study, arm, folder)
    if not registry.is_finished(base, study, None):
        log.info("arm %s: searching %s in %d trials", arm, ", ".join(study.search.space), trials)
        ended = launch.search(base, study, home, None, None, device)
        if ended.startswith("SIG"):
            raise KeyboardInterrupt
        if ended != "budget":
            raise ProcessError(f"the search of arm {arm} was stopped ({ended}); nothing is lost")
    winner = results.best(results.open_study(base, study.name))
    if winner is None:
        raise StudyError(
            f"arm {arm}: no trial of its search is complete; look at them with 'igkd trials "
            f"{study.name} --storage {base.url}'"
        )
    return {
        "parameters": space.fields(study, winner.parameters),
        "validation_accuracy": winner.accuracy,
        "trial": winner.number,
    }


def _check(base: database.Database, study: spec.Study, arm: arms.Arm, folder: Path) -> None:
    """StudyError where the folder holds a search of this arm that asked something else."""
    record = base.read_study(study.name)
    if record is None:
        return
    if record.trials != study.search.trials:
        raise StudyError(
            f"{folder}: arm {arm} has a search of {record.trials} trials here; type --tune-arms "
            f"{record.trials}, or give an empty folder with -o"
        )
    _, before = registry.stored(base, study.name)
    if before.question() != study.question():
        raise StudyError(
            f"{folder}: arm {arm} was searched under another configuration or [search]; restore "
            "the file, or give an empty folder with -o"
        )
