"""Claim: soft targets help only where they are the image's own; another image's ruin a student.

Validation accuracy against KD weight, with each image's own targets and with those of another image
(`materials.targets = "shuffled"`, which is what a bank in the order of a shuffled loader holds).
The ratio is aligned to shuffled at the largest weight. The test part is not read. What is trained
is kept in --home, and the same command goes on.

    python benchmarks/alignment.py [--quick] [--data FOLDER] [--workers 2] [--output DIR]
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import statistics
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import measure
import torch
from matplotlib.figure import Figure

from igkd_search import figures, materials, memory, registry, spec, training, vault

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
TEMPERATURE = 2.5  # the paper's
TARGET = 2.0
QUICK: dict[str, dict[str, Any]] = {
    "teacher": {"epochs": 6, "minimum_accuracy": 0.0},
    "overlays": {"steps": 1},
    "trial": {"epochs": 2},
}
_COLOURS = {"bank": "#0072b2", "shuffled": "#d55e00"}
_NAMES = {"bank": "own targets", "shuffled": "another image's targets"}

Targets = Literal["bank", "shuffled"]


class Point(NamedTuple):
    """One training."""

    targets: Targets
    kd_weight: float
    repeat: int

    @property
    def name(self) -> str:
        """That of its file."""
        return f"{self.targets}-{self.kd_weight:g}-{self.repeat}"


def main() -> None:
    options = measure.parser_of_trainings(__doc__.splitlines()[0]).parse_args()
    measure.use_one_thread()
    study, repeats = _study(options), 1 if options.quick else options.repeats
    weights = (0.0, 0.9) if options.quick else WEIGHTS
    with measure.home(options.home) as home:
        # once, before several look for it; maps are not laid here
        shared = materials.prepare(study, home, torch.device(options.device))
        found = _accuracies(_points(weights, repeats), study, home, options)
    conclude(found, weights, study, len(shared.data.validation_rows), options)


def _study(options: argparse.Namespace) -> spec.Study:
    """The settings of an ablation that were fixed beforehand, without overlays."""
    name = "digits_ablation" if options.data is None else "cifar10_subset_ablation"
    fixed = registry.find(name).search.start[0]
    kept = {key: value for key, value in fixed.items() if key == "learning_rate"}
    point = {**kept, "overlay_probability": 0.0, "temperature": TEMPERATURE}
    return measure.altered(name, options.data, {"trial": point}, QUICK if options.quick else {})


def _points(weights: tuple[float, ...], repeats: int) -> list[Point]:
    """Every training; without soft targets there is nothing to shuffle."""
    kinds: tuple[Targets, ...] = ("bank", "shuffled")
    return [
        Point(targets, weight, repeat)
        for repeat in range(repeats)
        for targets in kinds
        for weight in weights
        if weight or targets == "bank"
    ]


def _accuracies(
    points: list[Point], study: spec.Study, home: Path, options: argparse.Namespace
) -> dict[Point, float]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, context) as pool:
        plain = study.model_dump(mode="json")
        asked = {
            pool.submit(accuracy_of, point, plain, home, options.device): point for point in points
        }
        found = {}
        for done in concurrent.futures.as_completed(asked):
            point = asked[done]
            found[point] = done.result()
            print(
                f"{len(found)}/{len(points)}  {_NAMES[point.targets]}, KD weight "
                f"{point.kd_weight:g}: {found[point]:.1%}",
                flush=True,
            )
    return {point: found[point] for point in points}


def accuracy_of(point: Point, plain: Mapping[str, Any], home: Path, device: str) -> float:
    """Validation accuracy after the last epoch; read from the home folder where it is known."""
    study = spec.Study.model_validate(plain)
    config = study.trial.model_copy(update={"kd_weight": point.kd_weight})
    asked = [config.model_dump(mode="json"), study.question(), point, device]
    kept = home / "alignment" / f"{point.name}-{spec.fingerprint(asked)[:8]}.json"
    if not kept.exists():
        memory.keep_freed()
        stock = _stock(json.dumps(plain), point.targets, home, device)
        # the repeats of all points begin with the same weights and see the same views
        *_, last = training.train(config, stock, spec.trial_seed(study.search.seed, point.repeat))
        kept.parent.mkdir(parents=True, exist_ok=True)
        vault.write_whole(kept, json.dumps(last.accuracy).encode())
    accuracy: float = json.loads(kept.read_bytes())
    return accuracy


@lru_cache(maxsize=2)
def _stock(plain: str, targets: Targets, home: Path, device: str) -> training.Stock:
    study = spec.Study.model_validate(json.loads(plain))
    options = study.materials.model_copy(update={"targets": targets})
    study = study.model_copy(update={"materials": options})
    where = torch.device(device)
    return training.Stock.of(materials.prepare(study, home, where), study, where)


def conclude(
    found: Mapping[Point, float],
    weights: tuple[float, ...],
    study: spec.Study,
    images: int,
    options: argparse.Namespace,
) -> None:
    """Print the table, write picture and figures, end with the line of JSON."""
    curves = {
        targets: {weight: _of(found, targets, weight) for weight in weights}
        for targets in ("bank", "shuffled")
    }
    print(f"\n{'KD weight':<12}{_NAMES['bank']:>22}{_NAMES['shuffled']:>28}")
    for weight in weights:
        own, other = (_said(curves[targets][weight]) for targets in ("bank", "shuffled"))
        print(f"{weight:<12g}{own:>22}{other:>28}")
    last = weights[-1]
    pairs = zip(curves["bank"][last], curves["shuffled"][last], strict=True)
    ratios = [own / max(other, 1 / images) for own, other in pairs]
    more = {
        "study": study.name,
        "kd_weight": last,
        "temperature": TEMPERATURE,
        "epochs": study.trial.epochs,
        "validation_images": images,
        "accuracies": {
            name: {f"{weight:g}": curve for weight, curve in each.items()}
            for name, each in curves.items()
        },
    }
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(curves, study).savefig(options.output / "alignment.png", dpi=150)
        (options.output / "alignment.json").write_text(json.dumps(more, indent=1) + "\n")
    ratio = statistics.median(ratios)
    line = {
        "ratio": round(ratio, 3),
        "target": TARGET,
        "holds": ratio >= TARGET,
        "n": len(ratios),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    claim = "accuracy with own targets against another image's"
    measure.report(claim, line, str(options.device), **more)


def _of(found: Mapping[Point, float], targets: str, weight: float) -> list[float]:
    kind = targets if weight else "bank"
    return [
        value
        for point, value in found.items()
        if point.targets == kind and point.kd_weight == weight
    ]


def _said(values: list[float]) -> str:
    spread = f" +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread} %"


def draw(curves: Mapping[str, Mapping[float, list[float]]], study: spec.Study) -> Figure:
    """Accuracy against KD weight: a line through the means, a ring for each training."""
    figure = figures.blank(6.4, 4.0)
    axes = figure.subplots()
    for targets, curve in curves.items():
        colour = _COLOURS[targets]
        means = [100 * statistics.fmean(values) for values in curve.values()]
        axes.plot(list(curve), means, "-o", color=colour, lw=2, ms=5, label=_NAMES[targets])
        for weight, values in curve.items():
            rings = [100 * value for value in values]
            axes.plot([weight] * len(rings), rings, "o", ms=5, mfc="none", mec=colour, alpha=0.7)
    axes.set_xlabel("KD weight")
    axes.set_ylabel("validation accuracy, %")
    axes.set_ylim(0, 102)
    axes.set_xticks(list(WEIGHTS))
    told = f"{study.name}: T = {TEMPERATURE:g}, {study.trial.epochs} epochs"
    seeds = max(len(values) for curve in curves.values() for values in curve.values())
    axes.set_title(f"{told}; lines: mean of {seeds} seeds; rings: each", fontsize=10)
    figures.dress(axes)
    axes.legend(frameon=False, loc="lower left")
    return figure


if __name__ == "__main__":
    main()
