"""What people read: the winner beside the teacher, what was spent, and what failed."""

from pathlib import Path
from typing import Any

import pytest

from igkd_search import console, results, tables

COST = {
    "parameters": 400,
    "macs": 3000,
    "latency": {"onnxruntime": {"median_ms": 2.0}, "pytorch": {"median_ms": 9.0}},
}
HALF = {
    "parameters": 100,
    "macs": 1500,
    "latency": {"onnxruntime": {"median_ms": 0.5}, "pytorch": {"median_ms": 6.0}},
}


@pytest.fixture(autouse=True)
def fresh_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})


def summary(**changes: Any) -> dict[str, Any]:
    found = {
        "study": "s",
        "teacher": {"accuracy": 0.99, **COST},
        "student": {"accuracy": 0.98, **HALF},
        "best": {"number": 3, "accuracy": 0.98, "parameters": {"temperature": 2.5}},
        "trials": {"budget": 4, "complete": 2, "pruned": 1, "failed": 1},
        "proposed_by": {"model": 3, "start": 1},
        "failures": {"diverged": 1},
        "epochs": {"trained": 20, "without_pruning": 32},
        "seconds": 61.0,
    }
    return {**found, **changes}


def row(number: int, **changes: Any) -> results.Row:
    found: dict[str, Any] = {
        "number": number,
        "slot": number,
        "state": "complete",
        "parameters": {"kd_weight": 0.5},
        "accuracy": 0.5,
        "epochs": 2,
        "attempts": 1,
        "proposed_by": "chance",
        "seed": 1,
        "seconds": 1.0,
        "cause": None,
        "reason": None,
        "attributes": {},
    }
    return results.Row(**{**found, **changes})


def test_the_summary_shows_ratios_of_teacher_to_student(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.print_summary(summary())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "validation accuracy 99.0% 98.0%" in lines
    assert "latency, ONNX Runtime 2 ms 0.5 ms 4.00x" in lines
    assert "latency, PyTorch 9 ms 6 ms 1.50x" in lines
    assert "parameters, compression 400 100 4.00x" in lines
    assert "multiply-accumulates 3,000 1,500 2.00x" in lines
    assert "temperature 2.5" in lines
    assert "trials 2 complete, 1 pruned, 1 failed, of 4" in lines
    assert "proposed by 3 model, 1 start" in lines
    assert "time 1 min 1 s" in lines


def test_a_summary_without_a_winner_names_the_failures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.print_summary(summary(best=None, student=None))
    out = capsys.readouterr().out
    assert "no trial has completed yet" in out
    assert "1 diverged" in out and "igkd trials s" in out


def test_columns_without_content_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_trials([row(0), row(1)])
    assert "cause" not in capsys.readouterr().out
    tables.print_trials([row(0), row(1, state="failed", cause="diverged", attempts=2)])
    out = capsys.readouterr().out
    assert "cause" in out and "diverged" in out and "attempts" in out


def test_the_final_table_says_how_often_the_test_set_was_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engines = {"onnxruntime": {"median_ms": 2.0}, "pytorch": {"median_ms": 9.0}}
    cost = {"parameters": 400, "macs": 3000, **engines}
    result = {
        "teacher": {"accuracy": 0.99, **cost},
        "student": {"accuracy": {"mean": 0.975, "sd": 0.01, "n": 3}, **cost},
        "test": {"images": 360, "reads": 2},
    }
    tables.print_final(result, tmp_path)
    out = capsys.readouterr().out
    assert "360 images, read 2 times" in out
    assert "97.5 +- 1.0%" in out and "99.0%" in out and "3 seeds" in out
