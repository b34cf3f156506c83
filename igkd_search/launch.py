"""Start a search: prepare its materials, bring it into the database, run workers."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from igkd_search import (
    compiling,
    database,
    datasets,
    devices,
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
    study: spec.Study,
    home: Path,
    base: database.Database | None = None,
    device: str | None = None,
) -> datasets.Dataset | None:
    """Everything that can be wrong with a question, before anything is written.

    Returns the data, unless they would have to be downloaded or decoded first. A teacher's file may
    be absent where `base` keeps it. StudyError, DataError or MaterialError say what is wrong, be it
    with `device` (devices.choose).
    """
    devices.choose(device)
    compiling.asked()
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
    device: str | None = None,
) -> None:
    """Prepare what is missing, then run one worker in this process until the budget is spent."""
    began = time.monotonic()
    chosen = devices.choose(device)
    try:
        shared = prepare(base, study, home, trials, data, device)
        stock = training.Stock.of(shared, study, chosen, planned_epochs=_planned(base, study))

        def train(
            config: spec.TrialConfig, seed: int, save_to: Path, resume_from: Path | None
        ) -> Iterator[training.EpochResult]:
            return training.train(
                config,
                stock,
                seed,
                save_to=save_to,
                resume_from=resume_from,
                checkpoint_every=study.search.checkpoint_every,
            )

        told = describe(study, shared, str(chosen))

        def attributes(config: spec.TrialConfig) -> Mapping[str, worker.Attribute]:
            return {**told(config), "step": stock.steps.kind}

        worker.Worker(study, base, home / "checkpoints", train, attributes).run()
    finally:
        spend(base, study.name, time.monotonic() - began)


def _planned(base: database.Database, study: spec.Study) -> int:
    """The most epochs that the budget in the database buys."""
    record = base.read_study(study.name)
    return (record.trials if record else study.search.trials) * study.trial.epochs


def prepare(
    base: database.Database,
    study: spec.Study,
    home: Path,
    trials: int | None = None,
    data: datasets.Dataset | None = None,
    device: str | None = None,
) -> materials.Materials:
    """Build the materials, then write the study and what they are into the database.

    StudyError when the question or the materials are others than when the study began. The study is
    written after its materials, so that a file whose teacher fails can still be changed; only the
    teacher's weights are kept before the banks are built from them.
    """
    chosen = devices.choose(device)
    # until the study names its entries in the database, nobody may prune them
    with users.using(home / "vault"):
        return _prepare(base, study, home, trials, data, chosen)


def _prepare(
    base: database.Database,
    study: spec.Study,
    home: Path,
    trials: int | None,
    data: datasets.Dataset | None,
    device: torch.device,
) -> materials.Materials:
    registry.check_question(base, study)
    before = base.read_study(study.name)
    facts = {} if before is None else before.facts
    known = facts.get("fingerprints", {})
    data = data if data is not None else datasets.load(study.data, home)
    keeper.check_same(study.name, known, {"data": data.fingerprint})
    kept_at = keeper.Keeper(base, study.name, known)
    begun = _as_begun(study, facts)
    measured = _latency_of(facts)
    shared = materials.prepare(begun, home, device, data, kept_at, measured)
    registry.register(base, study, trials)
    settled = base.settle_facts(study.name, lambda stored: _settled(study, home, shared, stored))
    return dataclasses.replace(shared, latency=_latency_of(settled))


def _settled(
    study: spec.Study, home: Path, shared: materials.Materials, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts that stand: those of whoever began the study, which these materials must match.

    Another host may have begun it while this one was building; law 11 lets the first figures of an
    architecture stand, whatever this host measured.
    """
    keeper.check_same(study.name, stored.get("fingerprints", {}), shared.fingerprints)
    weights = shared.teacher.weights
    teacher_file = str(weights.relative_to(home) if weights.is_relative_to(home) else weights)
    # what another host found, or an earlier preparation, stays named
    entries = sorted({*stored.get("entries", []), *shared.entries})
    found = {**shared.facts(), "teacher_file": teacher_file}
    return {**found, **stored, "entries": entries}


def _latency_of(facts: Mapping[str, Any]) -> dict[str, materials.Latency]:
    table = facts.get("latency", {})
    return {name: materials.Latency.from_dict(row) for name, row in table.items()}


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
