"""Rows and summary of a study of every kind of trial; the winner is Optuna's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from igkd_search import database, registry, results, slots, spec, study_file
from igkd_search.errors import StorageError
from tests.databases import prepared_url

FACTS = {
    "teacher_accuracy": 0.97,
    "latency": {
        "teacher": {
            "parameters": 400,
            "macs": 4000,
            "onnxruntime": {"median_ms": 4.0},
            "pytorch": {"median_ms": 8.0},
        },
        "small": {
            "parameters": 100,
            "macs": 1000,
            "onnxruntime": {"median_ms": 1.0},
            "pytorch": {"median_ms": 2.0},
        },
    },
    "machine": {"cpu": "any"},
    "rows": {"fit": 60},
    "class_names": ["cat", "dog", "eel"],
    "seconds": 12.5,
}


@pytest.fixture
def base(tmp_path: Path) -> Iterator[database.Database]:
    search = {"trials": 6, "space": {"kd_weight": {"low": 0.0, "high": 1.0}}}
    plain = {"name": "s", "trial": {"epochs": 3}, "search": search}
    opened = database.connect(prepared_url("sqlite", tmp_path))
    registry.register(opened, study_file.check(spec.Study, plain, "test"))
    opened.update_facts("s", **FACTS)
    yield opened
    opened.close()


def add(
    base: database.Database,
    state: TrialState,
    accuracies: list[float],
    kd_weight: float = 0.5,
    **attributes: str | float,
) -> None:
    """One trial that showed these accuracies and ended, or goes on, in this state."""
    number = len(results.rows(results.open_study(base, "s")))
    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    trial = optuna.trial.create_trial(
        state=state,
        value=accuracies[-1] if state == TrialState.COMPLETE else None,
        params={"kd_weight": kd_weight},
        distributions={"kd_weight": distribution},
        intermediate_values=dict(enumerate(accuracies, start=1)),
        user_attrs={
            "slot": number,
            "attempts": 1,
            "seed": 11,
            "proposed_by": "model" if number else "start",
            "architecture": "small",
            **attributes,
        },
    )
    results.open_study(base, "s").add_trial(trial)


@pytest.fixture
def mixed(base: database.Database) -> database.Database:
    """Five trials: pruned at 0.99, complete with 0.8 and 0.9, failed, running; one slot open."""
    add(base, TrialState.PRUNED, [0.99])
    add(base, TrialState.COMPLETE, [0.5, 0.85, 0.8])
    add(base, TrialState.COMPLETE, [0.5, 0.7, 0.9], kd_weight=0.25)
    add(base, TrialState.FAIL, [0.1], cause="diverged", reason="loss nan")
    table = slots.Slots(base, "s")
    for outcome in ("pruned", "complete", "complete", "failed:diverged"):
        claim = table.claim()
        assert claim is not None
        table.finish(claim, outcome)
    assert table.claim() is not None
    add(base, TrialState.RUNNING, [0.3, 0.4])
    return base


def test_the_winner_is_the_best_trial_of_optuna(mixed: database.Database) -> None:
    winner = results.best(results.open_study(mixed, "s"))
    theirs = optuna.load_study(study_name="s", storage=mixed.url).best_trial
    assert winner is not None
    assert (winner.number, winner.accuracy) == (theirs.number, theirs.value) == (2, 0.9)
    assert winner.parameters == theirs.params == {"kd_weight": 0.25}


def test_a_pruned_trial_never_wins_and_without_a_complete_one_nobody_does(
    base: database.Database,
) -> None:
    add(base, TrialState.PRUNED, [0.99])
    add(base, TrialState.FAIL, [0.9])
    assert results.best(results.open_study(base, "s")) is None
    found = results.summary(base, "s")
    assert (found["best"], found["student"]) == (None, None)


def test_rows_tell_every_trial_as_it_is(mixed: database.Database) -> None:
    found = results.rows(results.open_study(mixed, "s"))
    assert [row.number for row in found] == [row.slot for row in found] == [0, 1, 2, 3, 4]
    states = ["pruned", "complete", "complete", "failed", "running"]
    assert [row.state for row in found] == states
    assert [row.accuracy for row in found] == [0.99, 0.8, 0.9, 0.1, 0.4]
    assert [row.epochs for row in found] == [1, 3, 3, 1, 2]
    assert [row.cause for row in found] == [None, None, None, "diverged", None]
    assert [row.seconds is None for row in found] == [False] * 4 + [True]
    assert found[3].reason == "loss nan"
    assert {row.seed for row in found} == {11}
    assert found[0].proposed_by == "start"


def test_rows_are_plain_json(mixed: database.Database) -> None:
    for row in results.rows(results.open_study(mixed, "s")):
        assert json.loads(json.dumps(row.as_dict())) == row.as_dict()


def test_a_trial_that_has_not_begun_has_nothing_to_show(base: database.Database) -> None:
    results.open_study(base, "s").enqueue_trial({}, user_attrs={"slot": 0})
    [row] = results.rows(results.open_study(base, "s"))
    assert (row.state, row.accuracy, row.epochs, row.attempts) == ("waiting", None, 0, 0)
    assert (row.parameters, row.seconds, row.cause) == ({}, None, None)


def test_the_summary_sets_the_winner_beside_its_teacher(mixed: database.Database) -> None:
    found = results.summary(mixed, "s")
    assert json.loads(json.dumps(found)) == found
    assert found["best"]["number"] == 2
    assert found["teacher"]["accuracy"] == 0.97
    assert found["teacher"]["latency"]["pytorch"]["median_ms"] == 8.0
    student = found["student"]
    assert (student["accuracy"], student["parameters"], student["macs"]) == (0.9, 100, 1000)
    assert student["latency"]["onnxruntime"]["median_ms"] == 1.0
    assert student["compression"] == 4.0
    wanted = {"budget": 6, "complete": 2, "pruned": 1, "failed": 1}
    assert wanted.items() <= found["trials"].items()
    assert found["epochs"] == {"trained": 10, "without_pruning": 12}
    assert (found["seconds"], found["rows"]) == (12.5, {"fit": 60})


CONFUSION = [[3, 1, 0], [0, 4, 0], [0, 0, 0]]
SHARES = [0.75, 1.0, None]


def keep_answers(base: database.Database, name: str = "trial-00000/confusion-0.json") -> str:
    kept = {"confusion": CONFUSION, "class_accuracy": SHARES}
    base.keep_file("s", name, json.dumps(kept).encode())
    return name


def test_the_summary_says_how_the_winner_answers_each_class(base: database.Database) -> None:
    numbers = {"calibration_error": 0.02, "raw_accuracy": 0.85}
    add(base, TrialState.COMPLETE, [0.9], confusion_file=keep_answers(base), **numbers)
    student = results.summary(base, "s")["student"]
    assert numbers.items() <= student.items()
    assert student["confusion"] == CONFUSION
    assert student["class_accuracy"] == {"cat": 0.75, "dog": 1.0, "eel": None}
    (row,) = results.rows(results.open_study(base, "s"))
    assert numbers.items() <= row.attributes.items()


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
def test_classes_without_names_are_numbers(
    base: database.Database, names: list[str] | None
) -> None:
    base.settle_facts("s", lambda facts: {**FACTS, "class_names": names} if names else {})
    add(base, TrialState.COMPLETE, [0.9], confusion_file=keep_answers(base))
    found = results.summary(base, "s")["student"]["class_accuracy"]
    assert found == {"0": 0.75, "1": 1.0, "2": None}


@pytest.mark.parametrize("attributes", [{}, {"confusion_file": "trial-00000/confusion-1.json"}])
def test_a_trial_of_which_no_answers_were_kept_is_shown_without(
    base: database.Database, attributes: dict[str, Any]
) -> None:
    # an older study's; or one that was copied without its files
    add(base, TrialState.COMPLETE, [0.9], **attributes)
    student = results.summary(base, "s")["student"]
    wanted = ("calibration_error", "raw_accuracy", "class_accuracy", "confusion")
    assert [student[name] for name in wanted] == [None] * 4


def test_all_of_it_can_be_read_without_writing(mixed: database.Database) -> None:
    add(mixed, TrialState.COMPLETE, [0.95], confusion_file=keep_answers(mixed))
    reader = database.connect(mixed.url, read_only=True)
    assert results.summary(reader, "s") == results.summary(mixed, "s")
    reader.close()


def test_an_unknown_study_is_named(base: database.Database) -> None:
    with pytest.raises(StorageError, match=r"no study 'S' at .*igkd run STUDY"):
        results.open_study(base, "S")
    with pytest.raises(StorageError):
        results.summary(base, "S")


# --- two objectives


@pytest.fixture
def pareto(tmp_path: Path) -> Iterator[database.Database]:
    search = {
        "trials": 8,
        "objectives": ["accuracy", "latency_ms"],
        "space": {"removed_blocks": {"choices": [3, 5, 7]}},
    }
    opened = database.connect(prepared_url("sqlite", tmp_path))
    registry.register(opened, study_file.check(spec.Study, {"name": "s", "search": search}, "test"))
    opened.update_facts("s", **FACTS)
    yield opened
    opened.close()


def add_point(
    base: database.Database,
    accuracy: float,
    latency_ms: float,
    state: TrialState = TrialState.COMPLETE,
) -> None:
    """One trial of two objectives, told by its attributes: nothing can be reported."""
    study = results.open_study(base, "s")
    shown = {"accuracy": accuracy, "epochs": 3, "latency_ms": latency_ms, "architecture": "small"}
    trial = optuna.trial.create_trial(
        state=state,
        values=[accuracy, latency_ms] if state == TrialState.COMPLETE else None,
        params={"removed_blocks": 5},
        distributions={"removed_blocks": optuna.distributions.CategoricalDistribution([3, 5, 7])},
        user_attrs={"slot": len(study.trials), "attempts": 1, "seed": 11, **shown},
    )
    study.add_trial(trial)


def test_the_front_is_what_no_trial_beats_in_both(pareto: database.Database) -> None:
    for point in [(0.7, 1.0), (0.9, 3.0), (0.8, 3.5), (0.8, 2.0), (0.9, 3.0)]:
        add_point(pareto, *point)
    add_point(pareto, 0.99, 0.5, TrialState.FAIL)
    study = results.open_study(pareto, "s")
    front = results.front(study)
    # the most accurate first; of equal ones the first to be
    assert [(row.number, row.accuracy) for row in front] == [(1, 0.9), (3, 0.8), (0, 0.7)]
    assert results.best(study) == front[0]
    assert results.is_pareto(study)
    found = results.summary(pareto, "s")
    assert json.loads(json.dumps(found)) == found
    assert found["best"] == front[0].as_dict()
    assert found["front"] == [row.as_dict() for row in front]
    assert found["student"]["latency"]["onnxruntime"]["median_ms"] == 1.0
    assert found["epochs"]["trained"] == 18
    rows = results.rows(study)
    assert [(row.state, row.accuracy, row.epochs) for row in rows][-1] == ("failed", 0.99, 3)


def test_a_pareto_study_without_a_complete_trial_has_no_best(pareto: database.Database) -> None:
    add_point(pareto, 0.9, 1.0, TrialState.RUNNING)
    study = results.open_study(pareto, "s")
    assert results.best(study) is None and results.front(study) == []
    assert results.summary(pareto, "s")["front"] == []


def test_a_study_of_one_objective_has_no_front(mixed: database.Database) -> None:
    assert not results.is_pareto(results.open_study(mixed, "s"))
    assert results.summary(mixed, "s")["front"] is None


def test_why_nobody_wins_is_said_as_it_is() -> None:
    row = results.Row.__new__(results.Row)  # only what is looked at
    for name, value in {"state": "complete", "feasible": False}.items():
        object.__setattr__(row, name, value)
    assert results.no_winner([], {}) == "no trial is complete yet"
    said = results.no_winner([row], {"min_speedup": 3})
    assert said.startswith("none of the complete trials is at least 3 times as fast")
