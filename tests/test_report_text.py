"""The report as Markdown: its tables are whole, and no text of a study breaks out of them."""

import pytest

from igkd_search import amounts, report_text
from tests import measured, reports


@pytest.mark.parametrize("kind", reports.KINDS)
def test_tables_have_as_many_cells_in_every_line(kind: str) -> None:
    text = report_text.render(reports.made(kind).content)
    assert text.startswith("# s: ") and text.endswith("</details>\n")
    width = 0
    for line in text.splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert not (width and cells) or width == cells, line
        width = cells


def test_it_holds_the_figures_of_the_answer() -> None:
    content = reports.made("mixed").content
    text, answer = report_text.render(content), content["answer"]
    assert f"| {amounts.percent(answer['accuracy'])} (" in text
    assert "| latency, ONNX Runtime | 4.00 ms | 1.00 ms | 4.00\u00d7 |" in text
    assert "| parameters | 400 | 100 | 4.00\u00d7 |" in text
    assert f"`{answer['parameters']['kd_weight']}`" in text
    assert "igkd export s -o best.toml\nigkd train best.toml -o final/" in text
    assert text.count("\n| ") > 30 and "partly by luck" in text


def test_without_a_winner_it_says_so() -> None:
    text = report_text.render(reports.made("empty").content)
    assert text.splitlines()[0] == "# s: no trial is complete yet"
    assert "igkd export" not in text


def test_a_reason_stays_within_its_cell() -> None:
    text = report_text.render(reports.made("failed").content)
    assert "| 0 | diverged | loss &lt;b>nan&lt;/b> \\| at step 3 |" in text


def test_of_a_pareto_study_the_front_is_listed() -> None:
    text = report_text.render(reports.made("pareto").content)
    part = text.split("## Front")[1]
    assert part.index("| 1 | 90.00% |") < part.index("| 0 | 70.00% |")
    assert "| 2 |" not in part


def test_latency_is_the_whole_table_or_that_of_the_search() -> None:
    content = reports.made("mixed").content
    part = report_text.render(content).split("## Latency")[1].split("\n<details>")[0]
    assert "| ONNX Runtime | 1 | 1 | 4.00 (0.100) | 1.00 (0.100) | 4.00\u00d7 | 30 |" in part
    assert "igkd latency s" in part and "before the search" in part
    text = report_text.render({**content, "timings": measured.found()})
    part = text.split("## Latency")[1].split("\n<details>")[0]
    assert "| ONNX Runtime int8 | 64 | 2 | 100 (10.0) | 60.0 (6.00) |" in part
    assert "peak of activations" in part and "Example CPU" in part
    assert "igkd latency" not in part
