"""Which pictures are shown: the winner's, overlays of a spread of others, no more than fit."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from igkd_search import artifacts, report_pictures
from igkd_search.report_pictures import CURVES, OVERLAYS
from tests import trials


def rows(count: int) -> list[Any]:
    shown = [{"overlay_probability": number / 100} for number in range(count)]
    return [trials.row(number, 0.9, parameters=each) for number, each in enumerate(shown)]


def keep(patch: pytest.MonkeyPatch, letters: int, *without: int) -> None:
    """Pretend that every trial but some has kept curves, and overlays of so many letters."""

    def documents_of(base: Any, study: str, number: int, kinds: list[str]) -> dict[str, Any]:
        kept: dict[str, Any] = {
            CURVES: {key: [1] for key in ("epoch", "loss", "validation_loss")},
            OVERLAYS: {
                "rows": {"view": "x" * letters},
                "labels": [],
                "overlaid": [],
                "control": "",
            },
        }
        return {} if number in without else {kind: kept[kind] for kind in kinds}

    patch.setattr(artifacts, "documents_of", documents_of)


def choose(count: int, best: int | None = 7) -> list[tuple[int, str]]:
    base: Any = None
    winner = None if best is None else {"number": best}
    return list(report_pictures.choose(base, "s", rows(count), winner))


def test_the_winner_comes_first_and_others_by_their_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(monkeypatch, 9)
    found = choose(100)
    assert found[:2] == [(7, CURVES), (7, OVERLAYS)]
    others = [number for number, file in found[2:] if file == OVERLAYS]
    assert len(others) == len(found) - 2 == report_pictures.OTHERS
    assert others == sorted(others) and (others[0], others[-1]) == (0, 99)


def test_what_keeps_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, 9, 0, 7)
    assert [number for number, _ in choose(100)] == [25, 50, 75, 99]
    keep(monkeypatch, 9, *range(100))
    assert choose(100) == choose(0, None) == []


def test_no_more_than_fit_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, report_pictures.MOST_LETTERS // 3)
    assert len(choose(100)) == 1 + 3


def test_what_another_release_kept_in_its_own_way_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strange = {CURVES: {"steps": 3}, OVERLAYS: {"rows": {}}}
    monkeypatch.setattr(artifacts, "documents_of", lambda *_: strange)
    assert choose(100) == []


def test_trials_that_have_not_ended_show_nothing() -> None:
    unfinished = [trials.row(number, None, "running") for number in range(9)]
    assert report_pictures.spread(unfinished, 5) == []


def test_maps_are_coloured_and_other_rows_left_as_they_are() -> None:
    shades = Image.new("L", (256, 1))
    shades.putdata(range(256))
    written = io.BytesIO()
    shades.save(written, "PNG")
    row = base64.b64encode(written.getvalue()).decode()
    document = {"rows": dict.fromkeys(("view", "map", "seen"), row), "control": "none"}
    view, heat, seen = report_pictures.strips(document)
    assert view["url"] == seen["url"] == f"data:image/png;base64,{row}"
    with Image.open(io.BytesIO(base64.b64decode(heat["url"].split(",")[1]))) as image:
        coloured = image.convert("RGB")
    pixels = [coloured.getpixel((x, 0)) for x in range(256)]
    assert (pixels[0], pixels[255]) == ((0, 0, 4), (252, 255, 164))
    lightness = [299 * r + 587 * g + 114 * b for r, g, b in pixels]  # type: ignore[misc]
    assert lightness == sorted(lightness)


@pytest.mark.parametrize(
    ("control", "says"), [("none", "teacher's map"), ("dim", "map, not used"), ("random", "map, ")]
)
def test_a_control_is_not_called_the_teachers_map(control: str, says: str) -> None:
    written = io.BytesIO()
    Image.new("L", (8, 8)).save(written, "PNG")
    row = base64.b64encode(written.getvalue()).decode()
    document = {"rows": dict.fromkeys(("view", "map", "seen"), row), "control": control}
    assert report_pictures.strips(document)[1]["says"].startswith(says)
