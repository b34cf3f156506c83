"""Words claim what was shown and nothing else: what is not shown is not called equal."""

from typing import Any

import pytest

from igkd_search import ablation_text
from tests.test_ablation import FOUND, summary


def test_what_is_shown_and_what_is_not() -> None:
    words = summary()["words"]
    kd = next(line for line in words["shown"] if line.startswith("kd is"))
    assert kd == (
        "kd is 1.00 points above baseline (95% interval 0.70 to 1.30, p < 0.001 after Holm over 6 "
        "comparisons, n = 4)."
    )
    (lost,) = (line for line in words["shown"] if line.startswith("kd:shuffled is"))
    assert "points below baseline (95% interval 2.7" in lost
    assert words["not_shown"] == [
        "No difference of ig to baseline is shown (+0.08 points, 95% interval -0.29 to +0.44, "
        "p = 0.629 after Holm over 6 comparisons, n = 4)."
    ]


def test_no_sentence_says_that_arms_are_equal() -> None:
    said = [line for lines in summary()["words"].values() for line in lines]
    assert not [line for line in said if "equal" in line or "no effect" in line]
    assert "not the same as" in ablation_text.TITLES["not_shown"]


def test_what_the_controls_say() -> None:
    parts = summary()["words"]["parts"]
    begins = [
        "Teaching each image's own targets helps: kd is 5.",
        "Whether laying each image's own map helps stays open: no difference of kd+ig to "
        "kd+ig:shuffled, which lays another image's, is shown (+0.05 points",
        "Laying a map, beyond darkening the image, helps: kd+ig is 1.10 points above kd+ig:dim, "
        "which only darkens (95%",
        "Adding ig to kd helps: kd+ig is 0.52 points above kd (",
        "Adding kd to ig helps",
    ]
    assert len(parts) == len(begins)
    for line, begin in zip(parts, begins, strict=True):
        assert line.startswith(begin), line


def test_a_control_that_is_better_is_not_called_open() -> None:
    found = summary({"ig": [0.90, 0.901, 0.902], "ig:random": [0.95, 0.951, 0.952]})
    (line,) = found["words"]["parts"]
    assert line.startswith("Keeping a map's values in their places harms: ig is 5.00 points below")


def test_a_control_of_its_own_kind_is_named() -> None:
    found = summary({"at": [0.90, 0.901, 0.902], "at:upside_down": [0.95, 0.951, 0.952]})
    (line,) = found["words"]["parts"]
    assert "below at:upside_down, which is the control at:upside_down" in line


def test_one_comparison_is_not_corrected() -> None:
    (line,) = summary({"baseline": FOUND["baseline"], "kd": FOUND["kd"]})["words"]["shown"]
    assert "Holm" not in line


def test_an_interval_without_zero_that_the_correction_takes_back_is_explained() -> None:
    arms = {"baseline": [0.9, 0.902, 0.904], "a": [0.905, 0.908, 0.910]}
    copies = {name: [0.9, 0.903, 0.904] for name in "bcde"}
    alone = summary(arms)["words"]["shown"]
    among = summary({**arms, **copies})["words"]["not_shown"]
    assert len(alone) == 1 and "alone leaves out 0" in among[0]


def test_one_seed_is_said_once() -> None:
    words = summary({arm: values[:1] for arm, values in FOUND.items()})["words"]
    assert words["shown"] == [] and len(words["not_shown"]) == len(words["parts"]) == 1
    assert words["not_shown"][0].startswith("Nothing can be said of kd, ig, kd+ig,")
    assert "no spread was seen" in " ".join(words["limits"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuned": 20}, "from a search of 20 trials over the parameters it has"),
        ({}, "which were found for one of them: that favours this one"),
        ({"winner": "kd+ig"}, "which were found for kd+ig: that favours kd+ig"),
        ({"winner": "kd+ig", "chosen": False}, "which were fixed before any of them was trained"),
    ],
)
def test_whose_settings_they_are(changes: dict[str, Any], said: str) -> None:
    assert said in summary(**changes)["words"]["limits"][0]


def test_the_limits_are_named() -> None:
    said = " ".join(summary(images=360)["words"]["limits"])
    assert "same 360 test images, of which one is 0.28 points" in said
    assert "sd 0.19 points within arms that are no control" in said
    assert "A difference of 0.20 points (less than one test image) would need" in said
    assert "to stand among 6 (5% level" in said
    assert "At n = 4" in said


def test_an_interval_beyond_everything_right_is_pointed_out() -> None:
    near = {"baseline": [0.981, 0.997, 0.992], "kd": [0.967, 0.978, 0.983]}
    said = " ".join(summary(near)["words"]["limits"])
    assert "beyond 100%" in said and "less than one test image" not in said
    assert "beyond 100%" not in " ".join(summary()["words"]["limits"])


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0123, "+1.23"), (-0.0123, "-1.23"), (-0.00001, "0.00"), (0, "0.00")]
)
def test_points(share: float, shown: str) -> None:
    assert ablation_text.points(share, sign=True) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(None, ""), (0.0004, "<0.001"), (0.001, "0.001"), (0.05, "0.050"), (0.0499, "0.0499")],
)
def test_p_is_never_zero_nor_at_the_level_that_it_is_below(p: float | None, shown: str) -> None:
    assert ablation_text.p_value(p) == shown


def test_markdown_holds_both_tables_and_every_sentence() -> None:
    found = summary()
    lines = ablation_text.markdown(found).splitlines()
    arm_rows = [line for line in lines if line.startswith("| kd+ig ")]
    assert len(arm_rows) == 1 + 4  # its own, and its contrasts
    assert len({line.count("|") for line in lines[:9]}) == 1
    for sentences in found["words"].values():
        assert {f"- {sentence}" for sentence in sentences} <= set(lines)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (-0.0426, -0.00003, "-4.26 to -0.003"),
        (0.0, 0.0123, "0.00 to +1.23"),
        (None, None, ""),
    ],
)
def test_an_end_near_zero_shows_on_which_side_it_is(
    low: float | None, high: float | None, shown: str
) -> None:
    assert ablation_text.interval({"low": low, "high": high}) == shown
