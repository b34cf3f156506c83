"""An ablation holds the comparisons it must, with the numbers of scipy and statsmodels."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests

from igkd_search import ablation
from igkd_search.comparison import NO_INTERVAL, NO_SPREAD

FOUND = {
    "baseline": [0.910, 0.912, 0.914, 0.911],
    "kd": [0.920, 0.921, 0.924, 0.922],
    "ig": [0.911, 0.915, 0.910, 0.914],
    "kd+ig": [0.925, 0.929, 0.928, 0.926],
    "kd+ig:shuffled": [0.924, 0.928, 0.929, 0.925],
    "kd+ig:dim": [0.916, 0.914, 0.915, 0.919],
    "kd:shuffled": [0.880, 0.870, 0.860, 0.875],
}


def summary(accuracies: dict[str, list[float]] = FOUND, **changes: Any) -> dict[str, Any]:
    return ablation.summarise(accuracies, **{"images": 10_000, "tuned": None, **changes})


def test_every_arm_is_compared_to_the_baseline_and_corrected_over_all() -> None:
    found = summary()
    known = {
        arm: ttest_ind(values, FOUND["baseline"], equal_var=False)
        for arm, values in FOUND.items()
        if arm != "baseline"
    }
    corrected = multipletests([float(one.pvalue) for one in known.values()], method="holm")[1]
    assert [one["arm"] for one in found["differences"]] == list(known)
    for one, p_holm in zip(found["differences"], corrected, strict=True):
        theirs = known[one["arm"]]
        assert [one["t"], one["df"], one["p"], one["p_holm"]] == pytest.approx(
            [theirs.statistic, theirs.df, theirs.pvalue, p_holm]
        )


def test_arms_stand_beside_their_controls_and_beside_less() -> None:
    found = {
        (one["arm"], one["against"]): (one["kind"], one["part"]) for one in summary()["contrasts"]
    }
    assert found == {
        ("kd", "kd:shuffled"): ("control", "kd:shuffled"),
        ("kd+ig", "kd+ig:shuffled"): ("control", "ig:shuffled"),
        ("kd+ig", "kd+ig:dim"): ("control", "ig:dim"),
        ("kd+ig", "kd"): ("part", "ig"),
        ("kd+ig", "ig"): ("part", "kd"),
    }


def test_contrasts_are_corrected_among_themselves() -> None:
    contrasts = summary()["contrasts"]
    corrected = multipletests([one["p"] for one in contrasts], method="holm")[1]
    assert [one["p_holm"] for one in contrasts] == pytest.approx(list(corrected))
    # so a control more makes no difference to the baseline harder to show
    without = summary({arm: values for arm, values in FOUND.items() if arm != "kd+ig:dim"})
    assert len(without["differences"]) == 5 and len(without["contrasts"]) == 4


def test_two_controls_at_once_stand_beside_those_with_one() -> None:
    arms = ["kd:shuffled+ig:dim", "ig+kd:shuffled", "kd+ig:dim"]
    found = summary({arm: [0.9, 0.91] for arm in arms})["contrasts"]
    assert {(one["arm"], one["against"]) for one in found} == {
        ("ig+kd:shuffled", "kd:shuffled+ig:dim"),
        ("kd+ig:dim", "kd:shuffled+ig:dim"),
    }


def test_the_reference_is_the_baseline_wherever_it_stands_else_the_first_arm() -> None:
    turned = dict(reversed(FOUND.items()))
    assert summary(turned)["reference"] == "baseline"
    found = summary({"kd": FOUND["kd"], "ig": FOUND["ig"]})
    assert (found["reference"], [one["arm"] for one in found["differences"]]) == ("kd", ["ig"])


def test_what_cannot_be_tested_says_so_and_is_not_counted() -> None:
    found = summary({"baseline": FOUND["baseline"], "kd": FOUND["kd"], "ig": [0.91]})
    kd, ig = found["differences"]
    assert kd["p_holm"] == kd["p"]
    assert (ig["p_holm"], ig["low"], ig["reason"]) == (None, None, NO_INTERVAL)
    assert found["arms"]["ig"]["sd"] is None
    same = summary({"baseline": [0.9, 0.9], "kd": [0.95, 0.95]})
    assert same["differences"][0]["reason"] == NO_SPREAD
    assert same["seeds_needed"] is None
    assert same["arms"]["kd"]["sd"] == 0.0


def test_an_arm_alone_is_summarised() -> None:
    found = summary({"kd+ig": [0.9]})
    assert (found["reference"], found["differences"], found["contrasts"]) == ("kd+ig", [], [])
    assert ablation.markdown(found).startswith("| arm |")


def test_it_is_plain_json() -> None:
    found = summary(tuned=20)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["test"] == {
        "images": 10_000,
        "image": 1e-4,
        "sd": pytest.approx(0.00283, rel=0.01),
    }
    needed = found["seeds_needed"]
    assert needed["low"] < needed["n"] < needed["high"] and needed["n"] < needed["n_holm"]


@pytest.mark.parametrize("count", [1, 4])
def test_the_picture_is_written_in_the_format_that_the_name_says(
    tmp_path: Path, count: int
) -> None:
    found = summary({arm: values[:count] for arm, values in FOUND.items()})
    ablation.draw(found, tmp_path / "ablation.png")
    ablation.draw(found, tmp_path / "ablation.svg")
    with Image.open(tmp_path / "ablation.png") as picture:
        assert picture.width > 1200
    assert (tmp_path / "ablation.svg").read_bytes().startswith(b"<?xml")
