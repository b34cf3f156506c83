"""What people read at the end: the student beside the teacher, its arms, what was tried again."""

from pathlib import Path

import pytest

from igkd_search import ablation, console, final_tables, spec
from tests import tiny


@pytest.fixture(autouse=True)
def fresh_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setattr(console, "_FILE_WIDTH", 80)


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
    final_tables.print_final(result, tmp_path)
    out = capsys.readouterr().out
    assert "360 images, read up to 2 times by each model" in out
    assert "97.50 +- 1.00%" in out and "99.00%" in out and "3 seeds" in out


def test_an_ablation_fits_eighty_columns_in_plain_letters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arms = {
        "baseline": [0.910, 0.912, 0.914],
        "kd+ig": [0.925, 0.929, 0.928],
        "kd+ig:shuffled": [0.871, 0.925, 0.910],
    }
    final_tables.print_ablation(ablation.summarise(arms, images=10_000, tuned=None))
    out = capsys.readouterr().out
    assert out.isascii() and max(map(len, out.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "arm accuracy, % n difference 95% interval p p (Holm)" in lines
    assert "baseline 91.20 +- 0.20 3" in lines
    assert "kd+ig 92.73 +- 0.21 3 +1.53 +1.07 to +2.00 <0.001 0.002" in lines
    assert "- kd+ig is 1.53 points above baseline (95% interval 1.07 to 2.00, p = 0.002" in lines


def test_what_is_shipped_is_told_beside_the_mean_and_int8_beside_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cost = {"parameters": 4, "macs": 3, "onnxruntime": {"median_ms": 2.0}}
    cost["pytorch"] = {"median_ms": 9.0}
    accuracy = {"mean": 0.975, "sd": None, "n": 1}
    for name in ("student.onnx", "example.py"):
        (tmp_path / name).touch()
    result = {
        "teacher": {"accuracy": 0.99, **cost},
        "student": {"accuracy": accuracy, "shipped": {"accuracy": 0.9812}, **cost},
        "deployment": {"int8": {"accuracy": 0.9789}},
        "test": {"images": 360, "reads": 1},
    }
    final_tables.print_final(result, tmp_path)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "shipped, the first seed 98.12%" in lines
    assert "shipped, int8 97.89%" in lines
    assert f"try it python {tmp_path / 'example.py'} image.png" in " ".join(lines)
    assert "read once by each model" in " ".join(lines)


def test_leading_trials_that_were_tried_again_are_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = [
        spec.Rerun(trial=14, searched=0.98, accuracies=[0.97, 0.95]),
        spec.Rerun(trial=3, searched=0.99, accuracies=[0.94]),
    ]
    shown = spec.Validation(images=100, accuracy=0.98, low=0.9, high=0.99, complete=7, reruns=again)
    exported = tiny.exported(spec.Run()).model_copy(update={"validation": shown})
    final_tables.print_exported(exported, Path("best.toml"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "14 98.00% 96.00 +- 1.41% 2" in lines
    assert "3 99.00% 94.00% 1" in lines
    assert "train it igkd train best.toml -o final/" in lines
