"""Claim: TPE + Hyperband is as good as random search after a quarter of its epochs.

Random search without pruning has so many trials; every other method may spend as many epochs. Its
ratio is the epochs of random search to the epoch by which its own best complete trial is as good as
the best that random search has found with the same seed; 4 is a quarter. Where it never is, the
ratio is below 1 and counts as the least. Slots have the same seeds in all methods, so each begins
with the same configurations by chance. What is searched is kept in --home, and the same command
goes on.

    python benchmarks/search.py [--quick] [--data FOLDER] [--workers 2] [--home DIR] [--output DIR]
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from searchers import METHODS, Search, side_by_side, work_off

from igkd_search import figures, processes, registry, spec

CLAIM = "epochs of random search to those of TPE + Hyperband until it is as good"
CLAIMED, REFERENCE, TARGET = "tpe-hyperband", "random", 4.0

Curve = Sequence[tuple[int, float]]
"""[epochs spent, best accuracy] wherever it rises."""
Needed = Sequence[int | None]
"""The epochs that each repeat took; None where it never was as good."""

DIGITS: dict[str, dict[str, Any]] = {
    # few rows to learn from and a student of 16,042 parameters: larger ones all come to 99 %
    "data": {"limit": 1000, "validation": 0.6},
    "teacher": {"epochs": 30, "minimum_accuracy": 0.5},
    "trial": {"removed_blocks": 15, "epochs": 18, "batch_size": 32},
    "search": {"trials": 24},
}
SUBSET: dict[str, dict[str, Any]] = {
    # what an hour of two cores allows: an image of 16x16 costs five times one of the digits; 600
    # images to learn from, and 1,800 to judge by, since near 30 % one of 600 scatters by 1.9 points
    "data": {"limit": 2400, "validation": 0.75},
    "teacher": {"minimum_accuracy": 0.15},
    "trial": {"removed_blocks": 13, "resolution": 16, "epochs": 9, "batch_size": 32},
    "search": {"trials": 16},
}
WIDER = {
    "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-1, "log": True},
}
"""Ranges wide enough that the best does not lie at an end."""
QUICK: dict[str, dict[str, Any]] = {
    "data": {"limit": 400, "validation": 0.4},
    "teacher": {
        "width": 0.25,
        "epochs": 8,
        "batch_size": 16,
        "ema_decay": 0.8,
        "minimum_accuracy": 0.0,
    },
    "overlays": {"steps": 1},
    "trial": {"epochs": 3},
    "search": {"trials": 3},
}


def main() -> None:
    options = arguments()
    searches = asked(options)
    with measure.home(options.home) as home:
        try:
            if options.workers > 1 and not options.only_search:
                side_by_side(searches, home, options.workers)
            else:
                processes.die_with_parent()
                work_off(searches, home, options.device)
        except KeyboardInterrupt as stopped:
            print(f"{stopped}: the same command with --home goes on", file=sys.stderr)
            sys.exit(130)
        if not options.only_search:
            conclude(searches, [each.shown(home) for each in searches], options)


def arguments() -> argparse.Namespace:
    parser = measure.parser_of_trainings(__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, help="of random search; what it costs all may spend")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--only-search", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if REFERENCE not in options.methods:
        parser.error(f"--methods: {REFERENCE} is what the others are measured against")
    measure.use_one_thread()
    return options


def asked(options: argparse.Namespace) -> list[Search]:
    """Every search, those of a seed together."""
    question, repeats = study_of(options), 1 if options.quick else options.repeats
    return [
        Search.of(method, seed, question, options.device)
        for seed in range(repeats)
        for method in METHODS
        if method in options.methods
    ]


def study_of(options: argparse.Namespace) -> spec.Study:
    """What all methods search: a shipped study whose students are quick and not all alike."""
    name, size = ("digits", DIGITS) if options.data is None else ("cifar10_subset", SUBSET)
    space = registry.find(name).search.model_dump(mode="json")["space"]
    trials = {} if options.trials is None else {"trials": options.trials}
    asked: dict[str, dict[str, Any]] = {
        "search": {"space": space | WIDER, "start": [], **trials},
        "materials": {"targets": "bank"},
        # an epoch is some ten steps here: an average would show what was ten epochs ago
        "trial": {"ema_decay": 0.0},
    }
    return measure.altered(name, options.data, size, QUICK if options.quick else {}, asked)


def conclude(
    searches: Sequence[Search], shown: Sequence[dict[str, Any]], options: argparse.Namespace
) -> None:
    """Print the table, write picture and curves, end with the line of JSON."""
    epochs, study = searches[0].epochs, study_of(options)
    found: dict[str, list[dict[str, Any]]] = {}
    for search, each in zip(searches, shown, strict=True):
        found.setdefault(search.method, []).append(each)
    goals = [each["best"] for each in found[REFERENCE]]
    methods = {name: summary(rows, goals, epochs) for name, rows in found.items()}
    again = by_other_seeds(found[REFERENCE], epochs)
    print_table(methods, again, epochs)
    more = {
        "study": study.name,
        "epochs": epochs,
        "epochs_a_trial": study.trial.epochs,
        "trials_of_random": study.search.trials,
        "student": spec.Architecture.of(study.trial, study.teacher.architecture).name,
        "quick": options.quick,
        "methods": methods,
        "random_with_other_seeds": again,
    }
    if options.output is not None:
        write(options.output, more, found)
    unknown = {"ratio": None, "target": TARGET, "holds": None, "n": 0, "spread": None}
    line = {key: methods.get(CLAIMED, unknown)[key] for key in unknown}
    measure.report(CLAIM, line, str(options.device), **more)


def summary(rows: Sequence[dict[str, Any]], goals: Sequence[float], epochs: int) -> dict[str, Any]:
    """What the repeats of one method came to; `goals` are what random search has found."""
    needed = [epochs_until(row["curve"], goal) for row, goal in zip(rows, goals, strict=True)]
    best = [row["best"] for row in rows]
    return {
        **ratio_of(needed, epochs),
        "epochs_needed": needed,
        "best": [round(each, 5) for each in best],
        "best_mean": round(statistics.fmean(best), 5),
        "best_sd": round(statistics.stdev(best), 5) if len(best) > 1 else None,
        "trials": [row["trials"] for row in rows],
        "proposed_by": [row["proposed_by"] for row in rows],
    }


def by_other_seeds(rows: Sequence[dict[str, Any]], epochs: int) -> dict[str, Any] | None:
    """How soon random search is as good as itself with each other seed: what chance alone gives."""
    pairs = [(row, other) for row in rows for other in rows if row is not other]
    needed = [epochs_until(row["curve"], other["best"]) for row, other in pairs]
    return {**ratio_of(needed, epochs), "epochs_needed": needed} if needed else None


def epochs_until(curve: Curve, goal: float) -> int | None:
    """The epochs by which the best is as good as `goal`, or None."""
    return next((spent for spent, best in curve if best >= goal), None)


def ratio_of(needed: Needed, epochs: int) -> dict[str, Any]:
    """The epochs there are to those that were needed; None is one below 1, of who never came."""
    ratios = sorted(epochs / each if each is not None else 0.0 for each in needed)
    middle, shown = statistics.median_low(ratios), [round(each, 3) or None for each in ratios]
    return {
        "ratio": round(middle, 3) or None,
        "target": TARGET,
        "holds": middle >= TARGET,
        "n": len(ratios),
        "spread": [shown[0], shown[-1]],
        "reached": sum(each is not None for each in needed),
    }


def print_table(
    methods: Mapping[str, Mapping[str, Any]], again: Mapping[str, Any] | None, epochs: int
) -> None:
    """A line a method."""
    print(f"\n{'of ' + str(epochs) + ' epochs':<24}{'as good as random after':>30}{'reached':>12}")
    for name, row in methods.items():
        best = f"{row['best_mean']:.2%}"
        sd = "" if row["best_sd"] is None else f" +- {100 * row['best_sd']:.2f}"
        ends = [ended.get("complete", 0) for ended in row["trials"]]
        trials = sum(sum(ended.values()) for ended in row["trials"]) / len(ends)
        print(
            f"{METHODS[name].title:<24}{in_words(row, epochs):>30}"
            f"{row['reached']:>6} of {row['n']:<3} best {best}{sd}; "
            f"{trials:.0f} trials, {sum(ends) / len(ends):.0f} complete"
        )
    if again is not None:
        title = "random by other seeds"
        print(f"{title:<24}{in_words(again, epochs):>30}{again['reached']:>6} of {again['n']:<3}")


def in_words(row: Mapping[str, Any], epochs: int) -> str:
    """The epochs that were needed: median and range."""
    needed = sorted(epochs + 1 if each is None else each for each in row["epochs_needed"])
    told = [
        f"> {epochs}" if each > epochs else str(each)
        for each in (statistics.median_high(needed), needed[0], needed[-1])
    ]
    return "{} ({} to {})".format(*told)


def write(folder: Path, more: Mapping[str, Any], found: Mapping[str, list[dict[str, Any]]]) -> None:
    """The picture, and the curves beside what they came to."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"search-{more['study']}"
    curves = {method: [row["curve"] for row in rows] for method, rows in found.items()}
    spent = {method: [row["epochs"] for row in rows] for method, rows in found.items()}
    told = json.dumps({**more, "epochs_spent": spent, "curves": curves}, indent=1)
    (folder / f"{name}.json").write_text(told + "\n")
    figures.save(draw(curves, more), folder / f"{name}.png")


def draw(curves: Mapping[str, Sequence[Curve]], more: Mapping[str, Any]) -> Figure:
    """Best accuracy so far against epochs, each method in a panel beside random search."""
    epochs = int(more["epochs"])
    shown = [name for name in curves if name != REFERENCE] or [REFERENCE]
    figure = figures.blank(0.9 + 3.1 * len(shown), 3.9)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, shown, strict=True):
        for name in dict.fromkeys([REFERENCE, method]):
            draw_method(axes, name, curves[name], epochs)
        axes.set_xlim(0, epochs)
        figures.dress(axes)
        axes.legend(frameon=False, loc="lower right")
    panels[0].set_ylim(*limits(list(curves.values()), epochs))
    panels[0].set_ylabel("best validation accuracy so far, %")
    trial = f"{more['epochs_a_trial']} a complete trial"
    figure.supxlabel(f"epochs spent, of all trials ({trial})", fontsize="medium")
    repeats = len(curves[REFERENCE])
    drawn = "one repeat" if repeats == 1 else f"median and range of {repeats} repeats"
    figure.suptitle(f"{more['study']}: {drawn}", fontsize=10)
    return figure


def limits(methods: Sequence[Sequence[Curve]], epochs: int) -> tuple[float, float]:
    """From the medians at a quarter of the epochs to the end: first trials may be at chance."""
    at_first = [statistics.median(best_at(each, epochs // 4) for each in one) for one in methods]
    at_last = [best_at(each, epochs) for one in methods for each in one]
    low, high = 100 * min(at_first), 100 * max(at_last)
    margin = max(0.06 * (high - low), 0.1)
    return low - margin, high + margin


def draw_method(axes: Axes, method: str, repeats: Sequence[Curve], epochs: int) -> None:
    """A line from where every repeat has a complete trial."""
    drawn = METHODS[method]
    first = max(curve[0][0] if curve else epochs for curve in repeats)
    places = range(first, epochs + 1)
    columns = [[100 * best_at(curve, place) for curve in repeats] for place in places]
    low, high = ([end(column) for column in columns] for end in (min, max))
    middle = [statistics.median(column) for column in columns]
    axes.fill_between(places, low, high, step="post", color=drawn.colour, alpha=0.16, lw=0)
    axes.step(places, middle, where="post", color=drawn.colour, lw=2, label=drawn.title)


def best_at(curve: Curve, epochs: int) -> float:
    """The best accuracy after so many epochs; 0 before the first complete trial."""
    return max((best for spent, best in curve if spent <= epochs), default=0.0)


if __name__ == "__main__":
    main()
