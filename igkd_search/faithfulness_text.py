"""How far a student's attributions agree with its teacher's, in words, from the figures alone."""

from collections.abc import Mapping
from typing import Any


def words(found: Mapping[str, Any]) -> list[str]:
    """What the figures say, each beside what chance gives, and what they do not say."""
    own, other = found["agreement"]["own_image"], found["agreement"]["another_image"]
    said = ["The maps have no order of pixels: nothing can be compared."]
    if own["pearson"] is not None:
        said = [_agreement_in_words(own, other), _overlap_in_words(own, other, found["top"])]
    return [
        *said,
        *(_curve_in_words(name, found[name]) for name in ("deletion", "insertion")),
        "Intervals are over images of this one student, not over seeds. A student that agrees with "
        "its teacher may share its faults, and an image with pixels replaced is like none that "
        "either has seen: compare the orders with each other.",
    ]


def _agreement_in_words(own: Mapping[str, Any], other: Mapping[str, Any] | None) -> str:
    correlation = own["rank_correlation"]
    beside = other and other["rank_correlation"]
    against = f"; with the teacher's map of another image it is {_mean(beside)}" if beside else ""
    return (
        "The rank correlation of the student's map with the teacher's map of the same image is "
        f"{_mean(correlation)}{against}."
    )


def _overlap_in_words(
    own: Mapping[str, Any], other: Mapping[str, Any] | None, top: Mapping[str, Any]
) -> str:
    beside = other and other["top_overlap"]
    against = f", {beside['mean']:.0%} with the teacher's map of another image" if beside else ""
    return (
        f"Of the {top['share']:.0%} of pixels that the student's map puts first, "
        f"{own['top_overlap']['mean']:.0%} are among the teacher's too{against}; random order "
        f"gives {top['chance']:.0%}."
    )


def _curve_in_words(name: str, curves: Mapping[str, Any]) -> str:
    own, theirs = curves["student"], curves["teacher"]
    low, gain = own["gain"]["low"], _mean(own["gain"], 3)
    verdict = f"is not shown to be better than random order: the gain is {gain}"
    if low is not None and low > 0:
        verdict = f"is better than random order, by {gain}"
    wanted = "less" if name == "deletion" else "more"
    return (
        f"{name.capitalize()} ({wanted} is better): the area below the student's probability of "
        f"the label is {own['area']['mean']:.3f} in the order of its own map, "
        f"{theirs['area']['mean']:.3f} in the order of the teacher's, "
        f"{curves['random']['area']['mean']:.3f} in random order. Its own map {verdict}."
    )


def _mean(found: Mapping[str, Any], digits: int = 2) -> str:
    """A mean with its interval, as text."""
    shown = f"{found['mean']:.{digits}f}"
    if found["low"] is None:
        return f"{shown}, n = {found['n']}"
    ends = f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"
    return f"{shown} (95% interval {ends}, n = {found['n']})"


BY_ARM = {
    "rank_correlation": "rank correlation",
    "another_image": "with another image's",
    "top_overlap": "top overlap",
    "insertion_gain": "insertion gain",
    "deletion_gain": "deletion gain",
}
"""What is said of each arm, over its seeds: key -> the head of its column."""


def by_arm(arms: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row for each arm of a result: its name, then mean and sd over seeds of every figure."""
    return [
        [name, *(_over_seeds(arm["faithfulness"][figure]) for figure in BY_ARM)]
        for name, arm in arms.items()
    ]


def _over_seeds(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.2f}" + (f" +- {found['sd']:.2f}" if found["sd"] is not None else "")
