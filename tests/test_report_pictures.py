"""Which pictures are shown: the winner's, overlays of a spread of others, no more than fit."""

from typing import Any

import pytest

from igkd_search import artifacts, report_pictures
from tests import trials

CURVES = "learning_curves.png"


def rows(count: int) -> list[Any]:
    shown = [{"overlay_probability": number / 100} for number in range(count)]
    return [trials.row(number, 0.9, parameters=each) for number, each in enumerate(shown)]


def keep(patch: pytest.MonkeyPatch, content: bytes, *without: int) -> None:
    """Pretend that every trial but some has kept curves and overlays."""

    def of_trial(base: Any, study: str, number: int) -> dict[str, bytes]:
        return {} if number in without else {CURVES: content, report_pictures.OVERLAYS: content}

    patch.setattr(artifacts, "of_trial", of_trial)


def choose(count: int, best: int | None = 7) -> list[tuple[int, str]]:
    base: Any = None
    return list(
        report_pictures.choose(base, "s", rows(count), None if best is None else {"number": best})
    )


def test_the_winner_comes_first_and_others_by_their_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(monkeypatch, b"png")
    found = choose(100)
    assert found[:2] == [(7, CURVES), (7, report_pictures.OVERLAYS)]
    others = [number for number, file in found[2:] if file == report_pictures.OVERLAYS]
    assert len(others) == len(found) - 2 == report_pictures.OTHERS
    assert others == sorted(others) and (others[0], others[-1]) == (0, 99)


def test_what_keeps_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, b"png", 0, 7)
    assert [number for number, _ in choose(100)] == [25, 50, 75, 99]
    keep(monkeypatch, b"png", *range(100))
    assert choose(100) == choose(0, None) == []


def test_no_more_than_fit_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, bytes(report_pictures.MOST_BYTES // 3))
    assert len(choose(100)) == 3


def test_trials_that_have_not_ended_show_nothing() -> None:
    unfinished = [trials.row(number, None, "running") for number in range(9)]
    assert report_pictures.spread(unfinished, 5) == []
