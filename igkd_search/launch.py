"""Start a search: prepare its materials, bring it into the database, run workers."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from igkd_search import (
    database,
    datasets,
    fitting,
    keeper,
    materials,
    models,
    registry,
    spec,
    training,
    users,
    worker,
)


def check(
    study: spec.Study, home: Path, base: database.Database | None = None
) -> datasets.Dataset | None:
    """Everything that can be wrong with a question, before anything is written.

    Returns the data, unless they would have to be downloaded or decoded first. A teacher's file may
    be absent where `base` keeps it. StudyError, DataError or MaterialError say what is wrong.
    """
    fitting.default_device()
    materials.check(study, None if base is None else keeper.Keeper.of(base, study.name))
    if study.data.source in datasets.CACHED:
        datasets.check(study.data, home)
        return None
    data = datasets.load(study.data, home)
    materials.check_images(study, data)
    return data


def search(
    base: database.Database,
    study: spec.Study,
    home: Path,
    trials: int | None = None,
    data: datasets.Dataset | None = None,
) -> None:
    """Prepare what is missing, then run one worker in this process until the budget is spent."""
    began = time.monotonic()
    device = fitting.default_device()
    try:
        shared = prepare(base, study, home, trials, data)
        stock = training.Stock.of(shared, study, device)

        def train(
            config: spec.TrialConfig, seed: int, save_to: Path, resume_from: Path | None
        ) -> Iterator[training.EpochResult]:
            return training.train(config, stock, seed, save_to=save_to, resume_from=resume_from)

        attributes = describe(study, shared, str(device))
        worker.Worker(study, base, home / "checkpoints", train, attributes).run()
    finally:
        spend(base, study.name, time.monotonic() - began)


def prepare(
    base: database.Database,
    study: spec.Study,
    home: Path,
    trials: int | None = None,
    data: datasets.Dataset | None = None,
) -> materials.Materials:
    """Build the materials, then write the study and what they are into the database.

    StudyError when the question or the materials are others than when the study began. The study is
    written after its materials, so that a file whose teacher fails can still be changed; only the
    teacher's weights are kept before the banks are built from them.
    """
    # until the study names its entries in the database, nobody may prune them
    with users.using(home / "vault"):
        return _prepare(base, study, home, trials, data)


def _prepare(
    base: database.Database,
    study: spec.Study,
    home: Path,
    trials: int | None,
    data: datasets.Dataset | None,
) -> materials.Materials:
    registry.check_question(base, study)
    before = base.read_study(study.name)
    facts = {} if before is None else before.facts
    known = facts.get("fingerprints", {})
    data = data if data is not None else datasets.load(study.data, home)
    keeper.check_same(study.name, known, {"data": data.fingerprint})
    kept_at = keeper.Keeper(base, study.name, known)
    device = fitting.default_device()
    shared = materials.prepare(_as_begun(study, facts), home, device, data, kept_at)
    keeper.check_same(study.name, known, {"teacher": shared.fingerprints["teacher"]})
    registry.register(base, study, trials)
    teacher_file = str(shared.teacher.weights)
    if shared.teacher.weights.is_relative_to(home):
        teacher_file = str(shared.teacher.weights.relative_to(home))
    # law 11: the figure of an architecture is measured once and kept, whatever this host measures
    kept: dict[str, Any] = {name: facts[name] for name in ("latency", "machine") if name in facts}
    # what another host found, or an earlier preparation, stays named
    registered = base.read_study(study.name)
    assert registered is not None
    entries = sorted({*registered.facts.get("entries", []), *shared.entries})
    found: dict[str, Any] = {
        **shared.facts(),
        **kept,
        "teacher_file": teacher_file,
        "entries": entries,
    }
    base.update_facts(study.name, **found)
    if "latency" not in kept:
        return shared
    table = {name: materials.Latency.from_dict(row) for name, row in kept["latency"].items()}
    return dataclasses.replace(shared, latency=table)


def _as_begun(study: spec.Study, facts: Mapping[str, Any]) -> spec.Study:
    """The study with the targets it began with: another budget must not change `auto`'s choice."""
    if "targets" not in facts:
        return study
    options = study.materials.model_copy(update={"targets": facts["targets"]})
    return study.model_copy(update={"materials": options})


def describe(study: spec.Study, shared: materials.Materials, device: str) -> worker.Describe:
    """What each trial carries about its student: architecture, latency, size."""
    teacher = shared.latency["teacher"]

    def of(config: spec.TrialConfig) -> Mapping[str, worker.Attribute]:
        name = models.Architecture.of(config, study.teacher.architecture).name
        student = shared.latency[name]
        return {
            "architecture": name,
            "parameters": student.parameters,
            "compression": round(teacher.parameters / student.parameters, 4),
            "latency_ms": student.timing.onnxruntime.median_ms,
            "device": device,
            "threads": shared.threads,
        }

    return of


def spend(base: database.Database, name: str, seconds: float) -> None:
    """Add wall-clock seconds to what a study has taken so far."""
    record = base.read_study(name)
    if record is not None:
        base.update_facts(name, seconds=round(record.facts.get("seconds", 0.0) + seconds, 1))
