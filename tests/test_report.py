"""A report says what the database says, in the figures of `igkd best`, of a study in any state."""

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from igkd_search import (
    latency_table,
    paper,
    report,
    report_page,
    report_text,
    results,
    slots,
    uncertainty,
)
from igkd_search.errors import StorageError
from igkd_search.fenced import FencedStorage
from tests import measured, reports
from tests.test_floors import house_imports, imported_names, tree_of

DOCS = Path(__file__).resolve().parents[1] / "docs" / "report.md"


def content(kind: str) -> dict[str, Any]:
    return reports.made(kind).content


def test_its_figures_are_those_of_the_best(tmp_path: Path) -> None:
    base = reports.study(tmp_path, "mixed")
    summary = json.loads(json.dumps(results.summary(base, "s")))
    found = report.read(base, "s").content
    base.close()
    assert found["summary"] == summary
    answer, best, student = found["answer"], summary["best"], summary["student"]
    assert (answer["trial"], answer["accuracy"]) == (best["number"], best["accuracy"])
    assert answer["parameters"] == best["parameters"]
    assert answer["compression"] == student["compression"] == 4.0
    timed = answer["latency"]["onnxruntime"]
    assert timed["student"] == student["latency"]["onnxruntime"]
    assert timed["teacher"] == summary["teacher"]["latency"]["onnxruntime"]
    assert timed["ratio"] == 4.0
    assert answer["macs"] == {"teacher": 4000, "student": 1000, "ratio": 4.0}


def test_an_accuracy_has_the_interval_of_the_images_it_was_counted_on() -> None:
    answer = content("mixed")["answer"]
    low, high = uncertainty.of_accuracy(answer["accuracy"], 200)
    assert (answer["interval"]["low"], answer["interval"]["high"]) == (low, high)
    assert answer["teacher_interval"]["low"] < 0.97 < answer["teacher_interval"]["high"]
    rows = {row.number: row for row in reports.made("mixed").rows}
    inside = [rows[number].accuracy or 0.0 for number in answer["contenders"]]
    assert answer["contenders"][0] == answer["trial"]
    assert inside == sorted(inside, reverse=True) and min(inside) >= low
    assert "12 complete trials" in answer["flattery"]


@pytest.mark.parametrize(("architecture", "shown"), [("small", True), ("tiny", False)])
def test_kept_timings_are_shown_while_their_student_wins(
    tmp_path: Path, architecture: str, shown: bool
) -> None:
    base = reports.study(tmp_path, "mixed")
    kept = measured.found(study="s", trial=0, architecture=architecture)
    latency_table.keep(base, "s", kept)
    assert report.read(base, "s").content["timings"] == (kept if shown else None)
    base.close()


@pytest.mark.parametrize("kind", reports.KINDS)
def test_it_is_plain_json_whatever_the_study(kind: str) -> None:
    found = content(kind)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["schema_version"] == report.SCHEMA_VERSION == 1


def test_what_is_not_finite_is_null() -> None:
    curves = content("mixed")["curves"]["trials"]
    assert [0.2, None] in [each["accuracy"] for each in curves]


@pytest.mark.parametrize("kind", ["empty", "running", "failed"])
def test_without_a_complete_trial_there_is_no_answer(kind: str) -> None:
    found = content(kind)
    assert found["answer"] is None and found["students"] == []
    assert not found["status"]["ended"]
    assert len(found["trials"]) == (0 if kind == "empty" else 1)


def test_trials_over_the_latency_budget_are_no_answer() -> None:
    found = content("over")
    assert (found["answer"], found["ranking"], found["students"]) == (None, [], [])
    assert [each["feasible"] for each in found["trials"]] == [False, False]


def test_an_accuracy_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    base = reports.study(tmp_path, "mixed")
    reports.add(base, slots.Slots(base, "s"), TrialState.COMPLETE, [0.5], [float("inf")])
    found = report.read(base, "s")
    base.close()
    assert found.content["ranking"] == content("mixed")["ranking"]
    assert found.content["answer"]["trial"] == content("mixed")["answer"]["trial"]
    assert report_page.render(found) and report_text.render(found.content)


def test_without_the_number_of_images_nothing_is_within_an_interval(tmp_path: Path) -> None:
    base = reports.study(tmp_path, "mixed")
    base.update_facts("s", rows={})
    found = report.read(base, "s")
    base.close()
    assert found.content["answer"]["contenders"] is None
    assert "has no interval" in report_page.render(found)


def test_a_running_study_says_how_far_it_is() -> None:
    status = content("running")["status"]
    assert status["budget"] == {"trials": 18, "done": 0, "running": 1, "open": 17, "queued": 0}
    (trial,) = status["running"]
    assert (trial["trial"], trial["epochs"]) == (0, 2)


def test_failures_have_their_cause_and_reason() -> None:
    (failure,) = content("failed")["failures"]
    assert (failure["trial"], failure["cause"]) == (0, "diverged")
    assert failure["reason"].startswith("loss")


def test_a_pareto_study_has_its_front_and_its_students() -> None:
    found = content("pareto")
    assert [row["number"] for row in found["summary"]["front"]] == [1, 0]
    students = [(each["architecture"], each["trial"]) for each in found["students"]]
    assert students == [("small", 1), ("tiny", 0)]
    assert [each["compression"] for each in found["students"]] == [4.0, 8.0]


def test_what_was_spent_is_counted() -> None:
    spent = content("mixed")["spent"]
    epochs = spent["epochs"]
    assert epochs["saved"] == epochs["without_pruning"] - epochs["trained"]
    assert (spent["workers"], spent["deaths"]) == (1, 0)
    (host,) = spent["hosts"]
    assert host["attempts"] == 16


def test_few_curves_are_kept_of_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "MOST_CURVES", 4)
    base = reports.study(tmp_path, "mixed")
    first, again = (report.read(base, "s").content["curves"] for _ in range(2))
    base.close()
    numbers = [each["trial"] for each in first["trials"]]
    assert first == again
    assert len(numbers) == 5 and first["of"] == 16
    assert numbers[0] == content("mixed")["answer"]["trial"]
    assert numbers[1:] == sorted(numbers[1:])


def test_no_finished_trial_is_read_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # a thousand trials of a hundred epochs take seconds to be read
    base, read = reports.study(tmp_path, "mixed"), Counter[int]()
    inner = FencedStorage._get_trials

    def counting(*arguments: Any, **named: Any) -> Any:
        found = inner(*arguments, **named)
        read.update(trial.number for trial in found if trial.state.is_finished())
        return found

    monkeypatch.setattr(FencedStorage, "_get_trials", counting)
    report.read(base, "s")
    base.close()
    assert len(read) == 15 and set(read.values()) == {1}


def test_the_garbage_collector_is_given_back(tmp_path: Path) -> None:
    base = reports.study(tmp_path, "empty")
    with pytest.raises(StorageError):
        report.read(base, "other")
    base.close()
    assert gc.isenabled()


def test_the_paper_is_beside_it() -> None:
    found = content("empty")["paper"]
    assert len(found["students"]) == 8
    assert found["students"][1]["compression"] == paper.MEASURED.compression


def test_provenance_is_enough_to_ask_again() -> None:
    found = content("mixed")["provenance"]
    assert found["fingerprints"] == reports.FACTS["fingerprints"]
    assert 'name = "s"' in found["question_toml"]
    assert found["seeds"]["best_trial"] == 11


def test_an_unknown_study_is_named(tmp_path: Path) -> None:
    base = reports.study(tmp_path, "empty")
    with pytest.raises(StorageError, match="no study 'other'"):
        report.read(base, "other")
    base.close()


def test_the_documentation_names_every_key() -> None:
    text, found = DOCS.read_text("utf-8"), content("mixed")
    keys = set(found) | {key for part in found.values() if isinstance(part, dict) for key in part}
    keys |= {key for name in ("trials", "students", "failures") for key in found[name][0]}
    missing = {key for key in keys if f"`{key}`" not in text}
    # those of `summary` are of `igkd best -f json`
    assert missing - set(found["summary"]) == set()


def test_no_torch_is_needed() -> None:
    left, seen = {"report", "report_page", "report_text"}, set[str]()
    while left:
        module = left.pop()
        seen.add(module)
        left |= house_imports(module) - seen
    for module in seen:
        names = {name.split(".")[0] for name in imported_names(list(tree_of(module).body))}
        assert "torch" not in names, module
