"""What charts show is said in words, with the figures in them."""

import copy

import pytest

from igkd_search import report_captions, report_charts
from tests import reports


@pytest.mark.parametrize("kind", reports.KINDS)
def test_every_chart_has_its_title_and_finding(kind: str) -> None:
    found = reports.made(kind)
    drawn = report_charts.draw(found.content, found.rows)
    captions = report_captions.of(found.content, list(drawn))
    assert list(captions) == list(drawn)
    for caption in captions.values():
        assert caption.title and caption.finding.endswith(".")


def test_findings_hold_the_figures() -> None:
    found = reports.made("mixed")
    drawn = report_charts.draw(found.content, found.rows)
    said = {
        name: caption.finding
        for name, caption in report_captions.of(found.content, list(drawn)).items()
    }
    assert "93.00%" in said["history"] and "12 complete trials" in said["history"]
    assert "1.00 ms" in said["front"] and "4.00 ms" in said["front"]
    assert "KD weight" in said["importances"]
    assert "4.00\u00d7" in said["compression"] and "92.02%" in said["compression"]
    epochs = found.content["spent"]["epochs"]
    assert f"{epochs['saved']} saved" in said["saved"]


def test_the_weakest_class_is_named() -> None:
    content = copy.deepcopy(reports.made("mixed").content)
    student = content["summary"]["student"]
    student |= {"confusion": [[3, 1], [0, 4]], "class_accuracy": {"cat": 0.75, "dog": 1.0}}
    said = report_captions.of(content, ["confusion"])["confusion"].finding
    assert said == (
        "The weakest class is cat with 75.00%; most often cat is taken for dog: 1 of 4 images."
    )
    student |= {"confusion": [[4, 0], [0, 4]]}
    assert "Every image" in report_captions.of(content, ["confusion"])["confusion"].finding


def test_without_a_trial_within_the_budget_it_is_said() -> None:
    found = reports.made("over").content
    assert (
        "none is within the bounds on latency"
        in report_captions.of(found, ["front"])["front"].finding
    )
    assert report_captions.no_answer(found).endswith("complete trials is within 0.25 ms an image")


@pytest.mark.parametrize(
    ("count", "inside", "says"),
    [
        (1, [0], "nothing to compare"),
        (3, None, "no interval"),
        (3, [0], "luck of the seed"),
        (3, [0, 1], "2 of 3 complete trials"),
    ],
)
def test_how_far_to_trust_is_said(count: int, inside: list[int] | None, says: str) -> None:
    assert says in report_captions.trust({"complete": count, "contenders": inside})


def test_the_question_is_a_sentence() -> None:
    wanted = "Which KD weight and overlay strength make the best student of mobilenet_v2 without"
    assert report_captions.question(reports.made("mixed").content).startswith(wanted)
    assert "trade-off" in report_captions.question(reports.made("pareto").content)
    content = copy.deepcopy(reports.made("mixed").content)
    content["provenance"]["question"]["trial"] |= {"width": 0.5, "resolution": 16}
    said = report_captions.question(content)
    assert "student of mobilenet_v2 of width 0.5 at 16x16 pixels without its last" in said


def test_progress_is_said_of_a_search_at_every_moment() -> None:
    content = copy.deepcopy(reports.made("running").content)
    assert "0 of 18 trials done, and nobody is at work" in report_captions.progress(content)
    content["status"] |= {"workers": {"training": 2}, "seconds": {"left": 90, "searched": 1}}
    said = report_captions.progress(content)
    assert said.startswith("The search is running: 0 of 18 trials done, 2 workers at work")
    assert said.endswith("about 1 min 30 s left.")
    content["status"] |= {"ended": True, "stopped": "search.hours = 1 are spent"}
    assert report_captions.progress(content).endswith("search.hours = 1 are spent.")


@pytest.mark.parametrize(
    ("number", "said"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (21, "21st")]
)
def test_places_are_counted(number: int, said: str) -> None:
    assert report_captions._ordinal(number) == said
