"""The page asks the network for nothing, is small, safe from its texts, and can be read by all."""

import base64
import gzip
import io
import json
import random
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from igkd_search import charts, report_page, report_pictures
from tests import measured, reports, trials


@cache
def page(kind: str) -> str:
    return report_page.render(reports.made(kind))


class Outline(HTMLParser):
    """Tags with their attributes in order, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("kind", reports.KINDS)
def test_nothing_is_asked_of_the_network(kind: str) -> None:
    outline = Outline(page(kind))
    for _, attributes in outline.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), value
    style = page(kind).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    (policy,) = [each for each in outline.all("meta") if "http-equiv" in each]
    assert (policy["content"] or "").startswith("default-src 'none'")


@pytest.mark.parametrize("kind", reports.KINDS)
def test_headings_are_in_order_and_everything_has_a_name(kind: str) -> None:
    outline = Outline(page(kind))
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert outline.all("html")[0]["lang"] == "en"
    for name in ("header", "nav", "main", "footer"):
        assert len(outline.all(name)) == 1
    ids = [each["id"] for _, each in outline.tags if each.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids
    assert all(each.get("alt") for each in outline.all("img"))
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(each.get("scope") for each in outline.all("th"))


def test_the_first_screen_holds_the_figures_of_the_best() -> None:
    outline = Outline(page("mixed"))
    head = page("mixed").split("</header>")[0]
    values = [float(each["value"] or "nan") for each in Outline(head).all("data")]
    answer = reports.made("mixed").content["answer"]
    timed = answer["latency"]["onnxruntime"]
    wanted = [answer["accuracy"], answer["teacher_accuracy"], answer["compression"], timed["ratio"]]
    wanted += [timed["student"]["median_ms"], timed["teacher"]["median_ms"]]
    wanted += [answer["macs"]["student"], *answer["parameters"].values()]
    assert set(wanted) <= set(values)
    assert "igkd export s -o best.toml" in outline.text


@pytest.mark.parametrize("kind", ["empty", "running", "failed"])
def test_without_a_complete_trial_the_page_says_so(kind: str) -> None:
    text = Outline(page(kind)).text
    assert "No trial is complete yet" in text
    assert "igkd export" not in text


def test_a_study_that_keeps_no_pictures_says_so() -> None:
    assert "No trial has kept images of its overlays" in Outline(page("mixed")).text


def test_the_front_of_a_pareto_study_is_a_table() -> None:
    assert "no trial beats these in both" in Outline(page("pareto")).text


def test_no_text_of_a_study_becomes_markup() -> None:
    found = reports.made("failed")
    attack = "</script><img src=x onerror=alert(1)>"
    content = json.loads(json.dumps(found.content).replace("diverged", attack.replace('"', "")))
    content["study"] = attack
    drawn = report_page.render(replace(found, content=content))
    assert attack not in drawn and "<img" not in drawn
    assert "&lt;/script&gt;" in drawn


def test_plotly_is_in_it_once_and_is_that_of_the_package() -> None:
    (packed,) = re.findall(r'id="plotly">([^<]+)<', page("empty"))
    script = gzip.decompress(base64.b64decode(packed))
    assert script.startswith(b"/**\n* plotly.js") and len(script) > 3_000_000
    assert page("empty") == report_page.render(reports.made("empty"))


def test_the_largest_page_is_below_five_megabytes() -> None:
    found, rows = reports.made("mixed"), trials.many(1000)
    curve = {"state": "pruned", "epochs": list(range(1, 101)), "accuracy": [0.12345] * 100}
    content: dict[str, Any] = {
        **found.content,
        "curves": {
            "epochs": 100,
            "of": 1000,
            "trials": [{"trial": number, **curve} for number in range(151)],
        },
        "failures": found.content["failures"] * 1000,
        "pictures": [
            {"trial": 0, "kind": "overlays", "overlay_probability": 0, "overlay_strength": 0.5}
        ],
    }
    # as many letters as `report_pictures` lets through
    noise = Image.frombytes("RGB", (640, 270), random.Random(0).randbytes(640 * 270 * 3))
    pictures = {(0, "overlays"): overlays(noise)}
    assert len(pictures[0, "overlays"]["rows"]["view"]) * 3 > report_pictures.MOST_LETTERS
    drawn = report_page.render(replace(found, content=content, rows=rows, pictures=pictures))
    assert 3_500_000 < len(drawn.encode()) < 5_000_000
    assert drawn.count("<tr>") < 200


def overlays(image: Image.Image) -> dict[str, Any]:
    """A document of overlays whose rows are all this picture."""
    written = io.BytesIO()
    image.save(written, "PNG")
    row = base64.b64encode(written.getvalue()).decode()
    return {
        "rows": dict.fromkeys(("view", "map", "seen"), row),
        "labels": [0, 1],
        "overlaid": [True, False],
        "control": "none",
    }


def test_what_trials_have_kept_is_shown_with_a_text_for_every_picture() -> None:
    found = reports.made("mixed")
    best = found.content["answer"]["trial"]
    named = {"overlay_probability": 0.1, "overlay_strength": 0.5}
    listed = [{"trial": best, "kind": kind, **named} for kind in ("learning_curves", "overlays")]
    kept = {"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "validation_loss": [2.0, 0.5, 0.75]}
    pictures: dict[tuple[int, str], Any] = {
        (best, "learning_curves"): kept,
        (best, "overlays"): overlays(Image.new("RGB", (16, 8))),
    }
    content = {**found.content, "pictures": listed}
    outline = Outline(report_page.render(replace(found, content=content, pictures=pictures)))
    assert len(outline.all("img")) == 3 and all(each["alt"] for each in outline.all("img"))
    assert "lowest on validation after epoch 2 of 3" in outline.text
    assert "2 training images, 1 of them overlaid; overlaid ones are shown first" in outline.text
    assert all(
        "says nothing of the probability" in (each["alt"] or "") for each in outline.all("img")
    )
    assert "has kept" not in outline.text


def test_a_slower_larger_student_is_not_called_faster() -> None:
    found = reports.made("mixed")
    content = json.loads(json.dumps(found.content))
    content["answer"]["latency"]["onnxruntime"]["ratio"] = content["answer"]["macs"]["ratio"] = 0.5
    content["answer"]["compression"] = None
    text = Outline(report_page.render(replace(found, content=content))).text
    assert "2.00\u00d7 slower" in text and "2.00\u00d7 more" in text
    assert "compression igkd" not in text


def test_every_colour_has_one_for_the_dark() -> None:
    roles = [charts.COMPLETE, charts.PRUNED, charts.FAILED, charts.BEST]
    roles += [charts.TEACHER, charts.PAPER, charts.MUTED, charts.EMPTY]
    assert set(roles) <= set(report_page.DARK)
    used = {
        colour for kind in reports.KINDS for colour in re.findall('"(#[0-9a-f]{6})"', page(kind))
    }
    assert used <= {*report_page.DARK, *report_page.DARK.values()} | {"#222222", "#c9c7c1"} | {
        *("#3d3f45", "#2a2f38", "#ffffff", "#4a505c", "#c9c6bd", "#191a1c")
    }


def test_latency_is_the_whole_table_or_that_of_the_search() -> None:
    made = reports.made("mixed")
    plain = Outline(page("mixed")).text
    assert "PyTorch eager 1 1 8.00 (0.200) 2.00 (0.200) 4.00\u00d7 30" in plain
    assert "igkd latency s measures the winner" in plain
    whole = replace(made, content={**made.content, "timings": measured.found()})
    text = Outline(report_page.render(whole)).text
    assert "ONNX Runtime int8 64 2 100 (10.0) 60.0 (6.00) 1.67\u00d7 30" in text
    assert "File, ONNX int8 2.2 MB 543 kB" in text and "Machine: Example CPU" in text
    assert "igkd latency s" not in text
    # no winner, no latency
    assert 'id="latency"' not in page("empty") and "#latency" not in page("empty")
