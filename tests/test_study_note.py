"""A study in words: right at every stage of a search, and nothing a user wrote means anything."""

from typing import Any

import pytest

from igkd_search import spec, study_file, study_note
from igkd_search.database import StudyRow

COST = {"parameters": 2_000_000, "macs": 5_000_000, "latency": {"onnxruntime": {"median_ms": 1.0}}}
SMALLER = {"parameters": 500_000, "macs": None, "latency": {"onnxruntime": {"median_ms": 0.25}}}

PARETO = {
    "objectives": ["accuracy", "latency_ms"],
    "pruner": "none",
    "space": {"removed_blocks": {"choices": [3, 5]}},
}


def record(facts: dict[str, Any] | None = None, **sections: Any) -> StudyRow:
    plain: dict[str, Any] = {"name": "s", "search": {"space": {"kd_weight": {"low": 0, "high": 1}}}}
    for name, section in sections.items():
        plain[name] = {**plain.get(name, {}), **section}
    question = study_file.check(spec.Study, plain, "test").model_dump(mode="json")
    return StudyRow("s", question, 20, facts or {}, "2026")


def summary(**changes: Any) -> dict[str, Any]:
    """Of a study that has not begun."""
    plain = {
        "teacher": {"accuracy": None, "parameters": None, "macs": None, "latency": {}},
        "trials": {"budget": 20, "complete": 0, "pruned": 0, "failed": 0},
        "rows": None,
        "best": None,
        "student": None,
    }
    return {**plain, **changes}


FINISHED = summary(
    teacher={"accuracy": 0.9, **COST},
    student={"accuracy": 0.95, **SMALLER},
    trials={"budget": 20, "complete": 5, "pruned": 14, "failed": 1, "retried": 3},
    rows={"fit": 800, "validation": 200, "classes": 10},
    best={"number": 3, "accuracy": 0.95, "parameters": {"kd_weight": 0.123456, "optimizer": "sgd"}},
)


def test_before_the_first_trial_it_asks_and_says_so() -> None:
    note = study_note.markdown(summary(), record())
    assert note.startswith("**No trial has completed yet**: no trial has begun, of a budget of 20.")
    assert "| teacher | `mobilenet_v2`, 20 epochs |" in note
    assert "| varied | `kd_weight` `[0, 1]` |" in note
    assert "igkd export" not in note
    assert "best student" not in note
    assert "fingerprint |\n" not in note


def test_at_the_end_it_says_what_was_found_and_what_to_type() -> None:
    note = study_note.markdown(FINISHED, record({"fingerprints": {"data": "ab" * 32}}))
    assert (
        "**Best so far: 95.0%** of the validation images (200, so 91.0% to 97.3% at 95 %)" in note
    )
    assert (
        "trial 3 with `kd_weight = 0.123`, `optimizer = sgd`. 5 complete, 14 pruned, 1 failed"
        in (note)
    )
    assert "| latency, ONNX Runtime (ms) | 1 | 0.25 | 4.00x |" in note
    assert "| parameters | 2.00 M | 0.50 M | 4.00x |" in note
    assert "| MACs | 5.00 M |  |  |" in note
    assert "PyTorch" not in note
    assert f"| images and labels | `{'ab' * 8}` |" in note
    for command in ("igkd export s -o best.toml", "igkd train best.toml -o final/"):
        assert f"`{command}`" in note


@pytest.mark.parametrize(
    ("search", "sought"),
    [
        ({"latency_budget_ms": 0.5}, "after the last epoch, within 0.5 ms an image"),
        ({"min_speedup": 10}, "last epoch, at least 10 times as fast as the teacher"),
        (PARETO, "the best trade-offs of"),
        ({**PARETO, "min_speedup": 3}, "latency, at least 3 times as fast as the teacher"),
    ],
)
def test_what_is_sought_is_said(search: dict[str, Any], sought: str) -> None:
    assert sought in study_note.markdown(FINISHED, record(search=search))


def test_controls_and_files_are_named() -> None:
    asked = record(
        data={"source": "folder", "path": "images | <b>`x`"}, overlays={"control": "random"}
    )
    note = study_note.markdown(summary(), asked)
    assert "control `random`" in note
    assert r"| data | `folder` in `` images \| <b>`x` `` |" in note


def test_every_table_has_one_width() -> None:
    for found in (summary(), FINISHED):
        for block in study_note.markdown(found, record()).split("\n\n"):
            rows = [line for line in block.splitlines() if line.startswith("|")]
            assert len({line.replace(r"\|", "").count("|") for line in rows}) <= 1
