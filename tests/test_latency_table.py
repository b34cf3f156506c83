"""Laws of what is shown of timings: every row, every cost, and what makes them doubtful."""

from pathlib import Path
from typing import Any

from igkd_search import database, latency_table
from tests import measured


def test_every_row_is_shown_with_its_spread() -> None:
    rows = latency_table.timing_rows(measured.found())
    assert rows[1] == ["ONNX Runtime", "1", "1", "3.82 (0.382)", "2.16 (0.216)", "1.77\u00d7", "30"]
    assert rows[2][:3] == ["ONNX Runtime int8", "64", "2"]
    assert rows[0][0] == "PyTorch eager"


def test_costs_are_shown_as_people_read_them() -> None:
    assert latency_table.cost_rows(measured.found()) == [
        ["parameters", "2,236,682", "543,498", "4.12\u00d7"],
        ["multiply-accumulates", "6,710,046", "1,630,494", "4.12\u00d7"],
        ["peak of activations", "3.2 kB", "1.5 kB", "2.10\u00d7"],
        ["file, ONNX fp32", "8.9 MB", "2.2 MB", "4.12\u00d7"],
        ["file, ONNX int8", "2.2 MB", "543 kB", "4.12\u00d7"],
    ]


def test_a_file_that_only_one_has_is_left_out() -> None:
    found = measured.found()
    del found["models"]["teacher"]["files"]["int8"]
    assert latency_table.cost_rows(found)[-1][0] == "file, ONNX fp32"


def test_what_is_doubtful_is_said() -> None:
    found = measured.found()
    quiet = latency_table.notes(found)
    assert quiet == {
        "machine": "Example CPU, 2 cores of 8, Linux x86_64",
        "versions": "torch 2.9.0, onnxruntime 1.20.0, python 3.12.1",
        "int8": "calibrated on training rows",
        "no torch.compile": "InvalidCxxCompiler: no working compiler",
    }
    found["machine"] |= {"cores_used_by_others": 0.9, "quiet": False}
    assert "0.9 cores" in latency_table.notes(found)["not quiet"]


def test_markdown_holds_both_tables_and_what_is_said() -> None:
    text = latency_table.markdown(measured.found())
    assert "| engine | batch | threads | teacher | student | ratio | n |\n| --- | ---:" in text
    assert "| ONNX Runtime | 1 | 1 | 3.82 (0.382) | 2.16 (0.216) | 1.77\u00d7 | 30 |" in text
    assert "| parameters | 2,236,682 | 543,498 | 4.12\u00d7 |" in text
    assert "median (interquartile range)" in text
    assert text.endswith("- no torch.compile: InvalidCxxCompiler: no working compiler")


def test_a_study_keeps_the_last_table(tmp_path: Path) -> None:
    base = database.connect(f"sqlite:///{tmp_path / 'igkd.db'}")
    base.write_study("s", {}, 1)
    assert latency_table.kept(base, "s") is None
    for trial in (1, 2):
        found: dict[str, Any] = measured.found(trial=trial)
        latency_table.keep(base, "s", found)
        assert latency_table.kept(base, "s") == found
    base.replace_files("s", {latency_table.FILE: b"no document"})
    assert latency_table.kept(base, "s") is None
    base.close()
