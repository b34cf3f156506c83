"""Which part of the method does what: the arms of a final training compared, in numbers and words.

Two questions, each with a Holm correction of its own. Is an arm better than the reference? And is
it its parts that do it: is an arm better than the same with a part that was made meaningless (a
control), or left out? One correction over both would make every control that somebody adds a price
for the arms that it keeps honest.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from igkd_search import ablation_figure, ablation_text, comparison, figures

DIFFERENCE = 0.002
"""0.2 points: the difference that the number of seeds is given for."""
Accuracies = Mapping[str, Sequence[float]]


def summarise(
    accuracies: Accuracies,
    *,
    images: int,
    tuned: int | None,
    winner: str | None = None,
    chosen: bool = True,
) -> dict[str, Any]:
    """All that the test accuracies of the arms say, as plain JSON; docs/ablation.md has every key.

    Accuracies are shares of 1, one a seed, in the same order of seeds in every arm; an arm is its
    parts joined by +, each with its control after a colon. `images` are those of the test set,
    `tuned` the trials of each arm's own search, and None where all use the settings of `winner`,
    which were `chosen` among those of several trials, or fixed before the only one.
    """
    assert accuracies and all(accuracies.values()), accuracies
    reference = "baseline" if "baseline" in accuracies else next(iter(accuracies))
    first = _compared(
        [{"arm": arm, "against": reference} for arm in accuracies if arm != reference], accuracies
    )
    found: dict[str, Any] = {
        "reference": reference,
        "level": comparison.LEVEL,
        "tuned": tuned,
        "winner": winner,
        "chosen": chosen,
        "arms": {
            arm: {"accuracies": list(values), **comparison.described(values)}
            for arm, values in accuracies.items()
        },
        "differences": first,
        "contrasts": _compared(list(_contrasts(list(accuracies))), accuracies),
        "test": _test_set(accuracies[reference], images),
        "seeds_needed": _seeds_needed(accuracies, len(first)),
    }
    return {**found, "words": ablation_text.words(found)}


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables and what they say, to stand below a heading of any document."""
    return ablation_text.markdown(found)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG, SVG or PDF, as the name says; StorageError if that fails."""
    figures.save(ablation_figure.draw(found), path)


def _compared(pairs: list[dict[str, str]], accuracies: Accuracies) -> list[dict[str, Any]]:
    """Each pair with its comparison, corrected over all of them that could be made."""
    made = [comparison.compare(accuracies[one["arm"]], accuracies[one["against"]]) for one in pairs]
    corrected = comparison.holm([each.p for each in made])
    return [
        {**pair, **each.as_dict(), "p_holm": p_holm}
        for pair, each, p_holm in zip(pairs, made, corrected, strict=True)
    ]


def _contrasts(arms: Sequence[str]) -> list[dict[str, str]]:
    """Every arm beside the same with one part made meaningless, or left out, where that is one."""
    named = {frozenset(arm.split("+")): arm for arm in arms}
    found = []
    for parts, arm in named.items():
        for part in sorted(part for part in parts if ":" in part):
            if real := named.get(parts - {part} | {part.split(":")[0]}):
                found.append({"arm": real, "against": arm, "kind": "control", "part": part})
        if not any(":" in part for part in parts):
            for part in sorted(parts):
                if less := named.get(parts - {part}):
                    found.append({"arm": arm, "against": less, "kind": "part", "part": part})
    return sorted(found, key=lambda one: (one["kind"], arms.index(one["arm"])))


def _test_set(reference: Sequence[float], images: int) -> dict[str, Any]:
    """How much of an accuracy is the luck of which images are in the test set."""
    # two right and two wrong ones more (Agresti and Coull 1998): all right is luck too
    share = (statistics.fmean(reference) * images + 2) / (images + 4)
    return {"images": images, "sd": (share * (1 - share) / images) ** 0.5, "image": 1 / images}


def _seeds_needed(accuracies: Accuracies, comparisons: int) -> dict[str, Any] | None:
    """How many seeds an arm show DIFFERENCE, as far as the spread is known; None if it is not.

    Controls are left out where there are others: what is taught nonsense spreads like nothing else.
    """
    real = [values for arm, values in accuracies.items() if ":" not in arm]
    spread = comparison.pooled(real or list(accuracies.values()))
    if spread is None or spread.sd == 0:
        return None
    level = comparison.LEVEL / max(comparisons, 1)
    return {
        "difference": DIFFERENCE,
        "power": comparison.POWER,
        "spread": asdict(spread),
        "n": comparison.seeds_needed(DIFFERENCE, spread.sd),
        "low": comparison.seeds_needed(DIFFERENCE, spread.low),
        "high": comparison.seeds_needed(DIFFERENCE, spread.high),
        "n_holm": comparison.seeds_needed(DIFFERENCE, spread.sd, level),
    }
