"""What an ablation shows and what it does not, in words and in Markdown, from its numbers alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from igkd_search import amounts

_CONTROLS = {
    "ig:dim": ("laying a map, beyond darkening the image,", "only darkens"),
    "ig:random": ("keeping a map's values in their places", "scatters them"),
    "ig:shuffled": ("laying each image's own map", "lays another image's"),
    "kd:shuffled": ("teaching each image's own targets", "teaches another image's"),
}
"""Control -> what the real part does that it does not, and what it does."""
_FEW = 5  # seeds below which nobody can see whether accuracies are normal


def words(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is shown, what is not, what the parts do, and the limits of it, as sentences."""
    tested = [one for one in found["differences"] if one["p"] is not None]
    shown = [one for one in tested if is_shown(one, found)]
    open_ = [one for one in tested if not is_shown(one, found)]
    return {
        "shown": [f"{_claim(one, found, 'differences')}." for one in shown],
        "not_shown": [
            *(f"{_upper(_claim(one, found, 'differences'))}." for one in open_),
            *_untested(found["differences"], found),
        ],
        "parts": [
            *(_part(one, found) for one in found["contrasts"] if one["p"] is not None),
            *_untested(found["contrasts"], found),
        ],
        "limits": list(_limits(found)),
    }


TITLES = {
    "shown": "Shown",
    "not_shown": "Not shown, which is not the same as shown to be equal",
    "parts": "What the parts do",
    "limits": "Limits",
}
"""Key of `words` -> what stands above them."""


def is_shown(one: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a comparison shows a difference, after Holm's correction."""
    return one["p_holm"] is not None and bool(one["p_holm"] <= found["level"])


def points(share: float, sign: bool = False) -> str:
    """A difference of accuracies in percentage points; zero has no sign."""
    shown = f"{100 * share:+.2f}" if sign else f"{100 * share:.2f}"
    return "0.00" if shown in ("-0.00", "+0.00") else shown


def p_value(p: float | None) -> str:
    """Three decimals; never 0.000, and four where three would be the level that p is below."""
    if p is None:
        return ""
    if p < 0.001:
        return "<0.001"
    return f"{p:.4f}" if 0.0495 <= p < 0.05 else f"{p:.3f}"


def says_p(p: float) -> str:
    """As a formula: p = 0.004, p < 0.001."""
    shown = p_value(p)
    return f"p < {shown[1:]}" if shown.startswith("<") else f"p = {shown}"


def accuracy(arm: Mapping[str, Any]) -> str:
    """Mean and spread in percent."""
    return amounts.spread(arm["mean"], arm["sd"])


def interval(one: Mapping[str, Any]) -> str:
    """Both ends of a difference's interval in points; one that is nearly zero keeps its sign."""
    if one["low"] is None:
        return ""
    ends = ((one[end], points(one[end], True)) for end in ("low", "high"))
    low, high = (f"{100 * end:+.1g}" if end and shown == "0.00" else shown for end, shown in ends)
    return f"{low} to {high}"


def _untested(family: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Iterable[str]:
    """A sentence for all comparisons that could not be made for the same reason."""
    for reason in dict.fromkeys(one["reason"] for one in family if one["reason"]):
        left = [one for one in family if one["reason"] == reason]
        against = {one["against"] for one in left}
        pairs = [
            one["arm"] if len(against) == 1 else f"{one['arm']} against {one['against']}"
            for one in left
        ]
        to = f" against {left[0]['against']}" if len(against) == 1 else ""
        seeds = amounts.listed(list(dict.fromkeys(_seeds(one, found) for one in left)))
        yield f"Nothing can be said of {amounts.listed(pairs)}{to} ({seeds}): {reason}."


def _claim(one: Mapping[str, Any], found: Mapping[str, Any], family: str, which: str = "") -> str:
    """What a test says of one difference, without a full stop; `which` describes the other arm."""
    arm, against = one["arm"], f"{one['against']}{which and f', which {which}'}"
    made = sum(each["p"] is not None for each in found[family])
    over = f" after Holm over {made} comparisons" if made > 1 else ""
    trust = f"{says_p(one['p_holm'])}{over}, {_seeds(one, found)}"
    if not is_shown(one, found):
        by, ends = points(one["difference"], True), interval(one)
        lone = "; its interval alone leaves out 0" if one["p"] <= found["level"] else ""
        return (
            f"no difference of {arm} to {against}{which and ','} is shown ({by} points, "
            f"95% interval {ends}, {trust}{lone})"
        )
    side = "above" if one["difference"] > 0 else "below"
    low, high = sorted(abs(one[end]) for end in ("low", "high"))
    return (
        f"{arm} is {points(abs(one['difference']))} points {side} {against} (95% interval "
        f"{points(low)} to {points(high)}, {trust})"
    )


def _seeds(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    ours, theirs = (found["arms"][one[side]]["n"] for side in ("arm", "against"))
    return f"n = {ours}" if ours == theirs else f"n = {ours} and {theirs}"


def _part(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What a contrast says about a part, before the numbers that say so."""
    part, which = one["part"], ""
    does = f"adding {part} to {one['against']}"
    if one["kind"] == "control":
        fallback = (f"{part.split(':')[0]} as it is meant", f"is the control {part}")
        does, which = _CONTROLS.get(part, fallback)
    claim = _claim(one, found, "contrasts", which)
    if not is_shown(one, found):
        return f"Whether {does} helps stays open: {claim}."
    return f"{_upper(does)} {'helps' if one['difference'] > 0 else 'harms'}: {claim}."


def _upper(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _limits(found: Mapping[str, Any]) -> Iterable[str]:
    yield _settings(found)
    yield from _seeds_needed(found)
    least = min(arm["n"] for arm in found["arms"].values())
    if 1 < least < _FEW:
        yield (
            f"At n = {least} intervals and p hold only if accuracies are normally distributed over "
            "seeds, which so few cannot show."
        )
    if any(arm["high"] is not None and arm["high"] > 1 for arm in found["arms"].values()):
        yield (
            "The interval of a mean reaches beyond 100%: so near to it accuracies are not normally "
            "distributed, and intervals and p are rough. A harder test set would tell arms apart "
            "better."
        )
    test = found["test"]
    at = points(found["arms"][found["reference"]]["mean"])
    yield (
        f"All arms are counted on the same {test['images']:,} test images, of which one is "
        f"{points(test['image'])} points. Another test set of that size would move an accuracy of "
        f"{at}% by about {points(test['sd'])} points (sd), all arms together in part: intervals "
        "and p are about the seeds, and do not hold that."
    )
    yield "All of it is of one teacher and one training set."


def _settings(found: Mapping[str, Any]) -> str:
    if found["tuned"] is not None:
        return (
            "Each arm has settings of its own, from a search of "
            f"{amounts.several(found['tuned'], 'trial')} over the parameters it has; all train for "
            "the same epochs."
        )
    if not found["chosen"]:
        return (
            "All arms use the same settings, which were fixed before any of them was trained and "
            "may suit one better than another. --tune-arms N gives each its own."
        )
    winner = found["winner"]
    whose = f"were found for {winner or 'one of them'}: that favours {winner or 'this one'}"
    return f"All arms use the winner's settings, which {whose}. --tune-arms N gives each its own."


def _seeds_needed(found: Mapping[str, Any]) -> Iterable[str]:
    needed = found["seeds_needed"]
    if needed is None:
        yield "How many seeds a small difference needs is not known, since no spread was seen."
        return
    spread, gap = needed["spread"], points(needed["difference"])
    family = len(found["differences"])
    holm = f", {_count(needed['n_holm'])} to stand among {family}" if family > 1 else ""
    less = " (less than one test image)" if needed["difference"] < found["test"]["image"] else ""
    yield (
        f"A difference of {gap} points{less} would need {_count(needed['n'])} seeds an arm to be "
        f"shown by one comparison{holm} (5% level, {needed['power']:.0%} power), at the spread "
        f"that was seen: sd {points(spread['sd'])} points within arms that are no control. That "
        f"sd is known from {amounts.several(spread['df'], 'degree')} of freedom only (95% interval "
        f"{points(spread['low'])} to {points(spread['high'])} points), so it may be anything from "
        f"{_count(needed['low'])} to {_count(needed['high'])} seeds."
    )


def _count(number: int | None) -> str:
    return "more than a million" if number is None else f"{number:,}"


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables and what they say."""
    parts = [_arms_table(found)]
    if found["contrasts"]:
        parts.append(_contrast_table(found))
    for key, title in TITLES.items():
        if found["words"][key]:
            parts.append(f"**{title}**")
            parts.append("\n".join(f"- {sentence}" for sentence in found["words"][key]))
    return "\n\n".join(parts) + "\n"


_COLUMNS = ["95% interval", "t", "df", "p", "p (Holm)"]


def _arms_table(found: Mapping[str, Any]) -> str:
    against = {one["arm"]: one for one in found["differences"]}
    rows = [
        [name, accuracy(arm), str(arm["n"]), *_cells(against.get(name))]
        for name, arm in found["arms"].items()
    ]
    head = ["arm", "test accuracy, %", "n", f"points above {found['reference']}", *_COLUMNS]
    return table(head, rows)


def _contrast_table(found: Mapping[str, Any]) -> str:
    rows = [[one["arm"], one["against"], *_cells(one)] for one in found["contrasts"]]
    return table(["arm", "against", "points above it", *_COLUMNS], rows)


def _cells(one: Mapping[str, Any] | None) -> list[str]:
    if one is None:
        return [""] * (1 + len(_COLUMNS))
    t, df = ("" if one[key] is None else f"{one[key]:.2f}" for key in ("t", "df"))
    return [
        points(one["difference"], True),
        interval(one),
        t,
        df,
        p_value(one["p"]),
        p_value(one["p_holm"]),
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = ["---", *("--:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])
