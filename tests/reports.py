"""Studies of every kind in a database, made without training, and the reports of them."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from igkd_search import database, registry, report, results, slots, spec, study_file
from igkd_search.slots import Slots
from tests.databases import prepared_url

FACTS: dict[str, Any] = {
    "teacher_accuracy": 0.97,
    "latency": {
        name: {
            "parameters": parameters,
            "macs": 10 * parameters,
            "onnxruntime": {"median_ms": ms, "iqr_ms": 0.1, "n": 30},
            "pytorch": {"median_ms": 2 * ms, "iqr_ms": 0.2, "n": 30},
        }
        for name, parameters, ms in (("teacher", 400, 4.0), ("small", 100, 1.0), ("tiny", 50, 0.5))
    },
    "machine": {"cpu": "any", "cores": 2},
    "rows": {"fit": 800, "validation": 200},
    "fingerprints": {"data": "ab" * 32},
    "class_names": ["cat", "dog"],
    "targets": "bank",
    "seconds": 12.5,
}
KINDS = ("empty", "running", "failed", "mixed", "pareto", "over")


@cache
def made(kind: str) -> report.Report:
    """The report of one kind of study; what it holds is read, never changed."""
    with tempfile.TemporaryDirectory() as folder:
        base = study(Path(folder), kind)
        found = report.read(base, "s")
        base.close()
    return found


def study(folder: Path, kind: str) -> database.Database:
    """A database with a study named s of this kind.

    over has two complete trials, both above the latency budget.
    mixed has twelve complete trials, some pruned and failed ones, and one that runs.
    """
    base = database.connect(prepared_url("sqlite", folder))
    space: dict[str, Any] = {
        "kd_weight": {"low": 0.0, "high": 1.0},
        "overlay_strength": {"choices": [0.3, 0.5]},
    }
    search: dict[str, Any] = {"trials": 18, "space": space}
    if kind == "pareto":
        search["objectives"] = ["accuracy", "latency_ms"]
        space["removed_blocks"] = {"choices": [3, 5]}
    if kind == "over":
        search["latency_budget_ms"] = 0.25
    plain = {"name": "s", "trial": {"epochs": 3}, "search": search}
    registry.register(base, study_file.check(spec.Study, plain, "test"))
    base.update_facts("s", **(FACTS if kind != "empty" else {}))
    table = slots.Slots(base, "s")
    told: dict[str, Any]
    if kind == "running":
        add(base, table, TrialState.RUNNING, [0.3, 0.4])
    if kind in ("failed", "mixed"):
        reason = "loss <b>nan</b> | at step 3"
        add(base, table, TrialState.FAIL, [0.1], cause="diverged", reason=reason)
    if kind == "mixed":
        for number in range(12):
            shown = [0.5, 0.7, round(0.9 + number % 7 / 200, 4)]
            add(base, table, TrialState.COMPLETE, shown, kd_weight=number / 12)
        add(base, table, TrialState.PRUNED, [0.4])
        add(base, table, TrialState.PRUNED, [0.2, float("nan")])
        add(base, table, TrialState.RUNNING, [0.3])
    if kind == "over":
        for accuracy, ms, name in [(0.9, 1.0, "small"), (0.8, 0.5, "tiny")]:
            told = {"architecture": name, "latency_ms": ms}
            add(base, table, TrialState.COMPLETE, [0.5, accuracy], excess=ms - 0.25, **told)
    if kind == "pareto":
        for accuracy, ms, name in [(0.7, 0.5, "tiny"), (0.9, 1.0, "small"), (0.6, 1.0, "small")]:
            told = {"accuracy": accuracy, "latency_ms": ms, "epochs": 3}
            told["architecture"] = name
            add(base, table, TrialState.COMPLETE, [], [accuracy, ms], **told)
    return base


def add(
    base: database.Database,
    table: Slots,
    state: TrialState,
    accuracies: list[float],
    values: list[float] | None = None,
    kd_weight: float = 0.5,
    excess: float | None = None,
    **attributes: Any,
) -> None:
    """One trial that showed these accuracies and ended, or goes on, in this state."""
    claim = table.claim()
    assert claim is not None
    if state == TrialState.COMPLETE:
        values = values or accuracies[-1:]
    trial = optuna.trial.create_trial(
        state=state,
        values=values,
        params={"kd_weight": kd_weight, "overlay_strength": 0.5},
        distributions={
            "kd_weight": optuna.distributions.FloatDistribution(0.0, 1.0),
            "overlay_strength": optuna.distributions.CategoricalDistribution([0.3, 0.5]),
        },
        intermediate_values=dict(enumerate(accuracies, start=1)),
        user_attrs={
            "slot": claim.slot,
            "attempts": 1,
            "seed": 11,
            "proposed_by": "model",
            "architecture": "small",
            "latency_ms": 1.0,
            "device": "cpu",
            **attributes,
        },
    )
    if excess is not None:
        trial.set_constraint("latency_ms", excess)
    results.open_study(base, "s").add_trial(trial)
    if state.is_finished():
        failed = state == TrialState.FAIL
        table.finish(claim, f"failed:{attributes['cause']}" if failed else state.name.lower())
