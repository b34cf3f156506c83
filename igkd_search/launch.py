"""Start a search: prepare its materials, bring it into the database, run a worker of it."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from igkd_search import (
    compiling,
    connections,
    database,
    datasets,
    devices,
    draining,
    feasible,
    keeper,
    materials,
    outcomes,
    pictures,
    registry,
    searches,
    slots,
    spec,
    teacher,
    training,
    users,
    warm_start,
    worker,
    workers,
)
from igkd_search.errors import StudyError

log = logging.getLogger(__name__)


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
    if base is None or base.read_study(study.name) is None:
        warm_start.check(base, study)
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
    drain: draining.Drain | None = None,
) -> str:
    """Prepare what is missing, then run one worker in this process until the budget is spent.

    Returns why it ended: "budget", or in words who or what had it end before.
    """
    stops = searches.read(base, study.name).stops
    with spending(base, study.name):
        shared = prepare(base, study, home, trials, data, device)
    return work(base, study, home, shared, device, drain, stops)


def join(
    base: database.Database,
    study: spec.Study,
    home: Path,
    device: str | None = None,
    drain: draining.Drain | None = None,
    stops: int | None = None,
) -> str:
    """Work as one more worker of a study that has begun, wherever that was; as `search`.

    Its materials are found under `home`, or built here from the teacher in the database. The
    budget is not touched. `stops` is how often the study had been asked to stop when this worker
    was wanted, by default now. StudyError when the study has not begun.
    """
    if base.read_study(study.name) is None:
        raise StudyError(
            f"study '{study.name}' has not begun: type 'igkd run {study.name}' once, or 'igkd "
            f"prepare {study.name}', with the same --storage"
        )
    stops = searches.read(base, study.name).stops if stops is None else stops
    connections.check_room(base, 1)
    with spending(base, study.name):
        shared = prepare(base, study, home, device=device, register=False)
    return work(base, study, home, shared, device, drain, stops)


def work(
    base: database.Database,
    study: spec.Study,
    home: Path,
    shared: materials.Materials,
    device: str | None = None,
    drain: draining.Drain | None = None,
    stops: int | None = None,
) -> str:
    """Run one worker in this process on materials that are there; as `search`."""
    drain = drain or draining.Drain()
    try:
        with drain.on_signals():
            return hire(base, study, home, shared, device, drain, stops).run()
    except draining.Leaving as interruption:  # before the worker was at work
        return f"{drain.reason}: {interruption}"


def hire(
    base: database.Database,
    study: spec.Study,
    home: Path,
    shared: materials.Materials,
    device: str | None,
    drain: draining.Drain,
    stops: int | None = None,
    table: slots.Slots | None = None,
) -> worker.Worker:
    """One worker for a study whose materials are there.

    StudyError when no student keeps the study's bounds on latency.
    """
    chosen = devices.choose(device)
    study, left = feasible.within(study, _milliseconds(shared.latency))
    for line in left:
        log.info("not searched: %s", line)
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
            leaving=drain.asked.is_set,
        )

    told = describe(study, shared, str(chosen))

    def attributes(config: spec.TrialConfig) -> Mapping[str, outcomes.Attribute]:
        return {**told(config), "step": stock.steps.kind}

    def show(config: spec.TrialConfig, seed: int) -> bytes:
        return pictures.seen(config, stock, seed, study.overlays.control)

    return worker.Worker(
        study,
        base,
        home / "checkpoints",
        train,
        attributes,
        table,
        drain=drain,
        machine=_machine(chosen),
        stops=stops,
        show=show,
    )


def _machine(device: torch.device) -> workers.Machine:
    versions = {name: metadata.version(name) for name in ("igkd-search", "torch", "optuna")}
    return workers.Machine(str(device), devices.uuid_of(device), versions)


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
    register: bool = True,
) -> materials.Materials:
    """Build the materials, then write the study and what they are into the database.

    Without `register` the study and its budget are there already, and stay as they are.
    StudyError when the question or the materials are others than when the study began. The study is
    written after its materials, so that a file whose teacher fails can still be changed; only the
    teacher's weights are kept before the banks are built from them.
    """
    chosen = devices.choose(device)
    # until the study names its entries in the database, nobody may prune them
    with users.using(home / "vault"):
        return _prepare(base, study, home, trials, data, chosen, register)


def teach(
    base: database.Database,
    study: spec.Study,
    home: Path,
    data: datasets.Dataset | None = None,
    device: str | None = None,
) -> teacher.Teacher:
    """Train or find the teacher alone and keep it in the database; `prepare` goes on from there.

    The study is not registered by it, so its file can still be changed. Errors as of `prepare`.
    """
    chosen = devices.choose(device)
    with users.using(home / "vault"):
        registry.check_question(base, study)
        data = data if data is not None else datasets.load(study.data, home)
        kept_at = keeper.Keeper.of(base, study.name)
        keeper.check_same(study.name, kept_at.known, {"data": data.fingerprint})
        return materials.teach(study, home, chosen, data, kept_at)


def _prepare(
    base: database.Database,
    study: spec.Study,
    home: Path,
    trials: int | None,
    data: datasets.Dataset | None,
    device: torch.device,
    register: bool,
) -> materials.Materials:
    registry.check_question(base, study)
    before = base.read_study(study.name)
    if before is None:
        warm_start.check(base, study)
    facts = {} if before is None else before.facts
    known = facts.get("fingerprints", {})
    data = data if data is not None else datasets.load(study.data, home)
    keeper.check_same(study.name, known, {"data": data.fingerprint})
    kept_at = keeper.Keeper(base, study.name, known)
    begun = _as_begun(study, facts)
    measured = _latency_of(facts)
    judge = partial(_check_bounds, study) if study.search.is_bounded else None
    shared = materials.prepare(begun, home, device, data, kept_at, measured, judge)
    searched, _ = feasible.within(study, _milliseconds(shared.latency))
    if register:
        spec.check_budget(searched, registry.budget_of(base, study, trials))
        registry.register(base, study, trials, searched)
    settled = base.settle_facts(study.name, lambda stored: _settled(study, home, shared, stored))
    return dataclasses.replace(shared, latency=_latency_of(settled))


def _check_bounds(study: spec.Study, table: Mapping[str, materials.Latency]) -> None:
    """StudyError when no student keeps the bounds of the search."""
    feasible.within(study, _milliseconds(table))


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


def _milliseconds(table: Mapping[str, materials.Latency]) -> dict[str, float]:
    """The figure of each architecture that bounds on latency are about."""
    return {name: row.timing.onnxruntime.median_ms for name, row in table.items()}


def _as_begun(study: spec.Study, facts: Mapping[str, Any]) -> spec.Study:
    """The study with the targets it began with: another budget must not change `auto`'s choice."""
    if "targets" not in facts:
        return study
    options = study.materials.model_copy(update={"targets": facts["targets"]})
    return study.model_copy(update={"materials": options})


def describe(study: spec.Study, shared: materials.Materials, device: str) -> worker.Describe:
    """What each trial carries about its student: architecture, latency, size."""
    teacher, latency_ms = shared.latency["teacher"], _milliseconds(shared.latency)

    def of(config: spec.TrialConfig) -> Mapping[str, outcomes.Attribute]:
        name = spec.Architecture.of(config, study.teacher.architecture).name
        student = shared.latency[name]
        return {
            "architecture": name,
            "parameters": student.parameters,
            "compression": round(teacher.parameters / student.parameters, 4),
            "latency_ms": student.timing.onnxruntime.median_ms,
            "speedup": feasible.speedup_of(name, latency_ms),
            "device": device,
            "threads": shared.threads,
        }

    return of


@contextmanager
def spending(base: database.Database, name: str) -> Iterator[None]:
    """Add the wall-clock seconds of the body to what the preparation of a study has taken."""
    began = time.monotonic()
    try:
        yield
    finally:
        if base.read_study(name) is not None:
            seconds = time.monotonic() - began

            def added(facts: dict[str, Any]) -> dict[str, Any]:
                return facts | {"seconds": round(facts.get("seconds", 0.0) + seconds, 1)}

            base.settle_facts(name, added)
