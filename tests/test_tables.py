"""What people read: the winner beside the teacher, what was spent, and what failed."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from igkd_search import console, findings, inventory, results, tables

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

ANSWERS = {"calibration_error": 0.0213, "class_accuracy": {"cat": 0.914, "dog": 0.97, "eel": None}}


@pytest.fixture(autouse=True)
def fresh_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})


def summary(**changes: Any) -> dict[str, Any]:
    found = {
        "study": "s",
        "teacher": {"accuracy": 0.99, **COST},
        "student": {"accuracy": 0.98, **ANSWERS, **HALF},
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
    assert "calibration error 2.1%" in lines
    assert "weakest class, cat 91.4%" in lines


def test_a_summary_of_an_older_study_leaves_out_what_was_not_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nothing = dict.fromkeys(ANSWERS)
    tables.print_summary(summary(student={"accuracy": 0.98, **nothing, **HALF}))
    out = capsys.readouterr().out
    assert "98.0%" in out and "calibration" not in out and "weakest" not in out


def test_a_long_name_of_a_class_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = {"n02123045 tabby, tabby cat, a cat with stripes": 0.5, "dog": 0.75}
    student = {"accuracy": 0.98, **ANSWERS, **HALF, "class_accuracy": accuracy}
    tables.print_summary(summary(student=student))
    lines = capsys.readouterr().out.splitlines()
    assert any("weakest class, n02123045 tabby, tabb... " in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) < 80


def test_a_summary_without_a_winner_names_the_failures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.print_summary(summary(best=None, student=None))
    out = capsys.readouterr().out
    assert "no trial has completed yet" in out
    assert "1 diverged" in out and "igkd trials s" in out


def point(number: int, accuracy: float, latency_ms: float) -> dict[str, Any]:
    attributes = {"latency_ms": latency_ms, "architecture": "small"}
    parameters = {"temperature": 2.5, "kd_weight": 0.01, "overlay_probability": 0.1}
    found = row(number, accuracy=accuracy, attributes=attributes, parameters=parameters)
    return found.as_dict()


def test_a_front_is_a_table_of_trade_offs(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_summary(summary(front=[point(3, 0.98, 0.5), point(1, 0.93, 0.25)]))
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "front: no trial beats these" in lines
    assert "3 98.0% 0.5 ms 0.01 0.1 2.5" in lines
    assert lines.index("3 98.0% 0.5 ms 0.01 0.1 2.5") < lines.index("1 93.0% 0.25 ms 0.01 0.1 2.5")
    assert max(len(line.rstrip()) for line in out.splitlines()) < 80
    tables.print_summary(summary(front=None))
    assert "front" not in capsys.readouterr().out


def test_latencies_are_a_column_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    def trials(*latencies: float) -> str:
        tables.print_trials(
            [row(i, attributes={"latency_ms": ms}) for i, ms in enumerate(latencies)]
        )
        return capsys.readouterr().out

    assert "latency" not in trials(1.5, 1.5)
    assert "1.5 ms" in trials(1.5, 2.0) and "latency" in trials(1.5, 2.0)


def test_columns_without_content_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_trials([row(0), row(1)])
    out = capsys.readouterr().out
    assert "attempts" not in out and "failure" not in out
    tables.print_trials([row(0), row(1, attempts=2)])
    assert "attempts" in capsys.readouterr().out


def test_failed_trials_are_listed_with_cause_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [
        row(1, state="failed", cause="diverged", reason="diverged: loss nan at\nstep 3 of 5"),
        row(2, state="failed", cause="bug", reason="ValueError('[what now]')"),
        row(3, state="failed"),  # by somebody else, in the dashboard say
    ]
    tables.print_trials([row(0), *failed])
    before, mark, causes = capsys.readouterr().out.partition("causes of failure\n")
    assert mark and before.count("failed") == 3
    assert causes.splitlines() == [
        "  trial 1  diverged: loss nan at step 3 of 5",
        "  trial 2  bug: ValueError('[what now]')",
    ]


def entry(kind: str, size: int, *used_by: str, state: inventory.State = "finished") -> Any:
    age = timedelta(hours=2, minutes=30)
    created, path = datetime.now(UTC) - age, Path("vault") / kind / "0123456789abcdef"
    return inventory.Entry(path, kind, path.name, size, created, {}, state, used_by)


def test_materials_show_size_age_and_who_uses_them(capsys: pytest.CaptureFixture[str]) -> None:
    entries = (
        entry("targets", 162_000_000, "digits", "second"),
        entry("teacher", 9_100_000),
        entry("teacher", 30, state="building"),
    )
    tables.print_materials(inventory.Inventory(Path("vault"), entries, ()))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "targets 0123456789abcdef 162 MB 2 h digits, second finished" in lines
    assert "teacher 0123456789abcdef 9.1 MB 2 h finished" in lines
    assert "total 3 entries, 171 MB in vault" in lines
    # not what is being built
    assert "unused 1 entry, 9.1 MB; igkd materials --prune removes them" in lines


def test_what_was_pruned_is_told_with_what_it_freed(capsys: pytest.CaptureFixture[str]) -> None:
    left = inventory.Inventory(Path("vault"), (entry("teacher", 5, "digits"),), ())
    tables.print_materials(left, [entry("targets", 162_000_000), entry("onnx", 2_000_000)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        "removed 2 entries, 164 MB freed",
        "targets/0123456789abcdef 162 MB",
        "onnx/0123456789abcdef 2.0 MB",
    ]
    tables.print_materials(left, [])
    out = capsys.readouterr().out
    assert "nothing to remove" in out and "unused" not in out


def test_a_study_that_does_not_say_what_it_uses_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_materials(inventory.Inventory(Path("vault"), (entry("teacher", 5),), ("old",)))
    out = capsys.readouterr().out
    assert "what is used by old; igkd prepare says" in out and "--prune" not in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (7199, "1 h"), (86399, "23 h"), (432000, "5 d")],
)
def test_ages_are_in_their_largest_whole_unit(seconds: float, text: str) -> None:
    assert tables._age(seconds) == text


def test_findings_are_a_table_and_advice_for_what_is_not_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.print_findings(
        [
            findings.ok("python", "3.11"),
            findings.warning("clock", "9 s off [by much]", "timedatectl"),
            findings.fault("home", "read-only", "--home FOLDER"),
        ]
    )
    table, advice = capsys.readouterr().out.split("what to type")
    rows = [line.split(maxsplit=2) for line in table.splitlines() if line.strip()]
    assert ["python", "ok", "3.11"] in [[cell.strip() for cell in row] for row in rows]
    assert any(row[1:2] == ["WARNING"] and "[by much]" in row[2] for row in rows)
    assert [line.split(maxsplit=1) for line in advice.splitlines() if line.strip()] == [
        ["clock", "timedatectl"],
        ["home", "--home FOLDER"],
    ]


def test_where_all_is_well_there_is_nothing_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_findings([findings.ok("python", "3.11")])
    out = capsys.readouterr().out
    assert "all is well" in out and "what to type" not in out


def test_a_summary_says_how_far_accuracies_can_be_trusted_and_where_to_look_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.print_summary(summary(rows={"validation": 287}))
    out = capsys.readouterr().out
    assert re.search(r"95% interval, 287 images +97.0 to 99.6% +95.\d to 99.\d%", out)
    for typed in ("igkd report s -o report/", "igkd dashboard", "igkd export s -o best.toml"):
        assert typed in out
    assert out.isascii() and max(map(len, out.splitlines())) <= 80


def test_latency_that_was_measured_beside_others_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy = {"quiet": False, "cores_used_by_others": 1.52}
    tables.print_summary(summary(machine=busy))
    assert "measured while other processes used 1.5 cores: too long" in capsys.readouterr().out
    tables.print_summary(summary(machine={"quiet": True}))
    tables.print_summary(summary())
    assert "measured while" not in capsys.readouterr().out
