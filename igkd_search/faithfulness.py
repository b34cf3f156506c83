"""How well a student's own attributions agree with its teacher's, and with what it really uses.

The method lays maps of what the teacher looks at over training images; whether the student then
looks there too is measured here, on images that neither was trained on. Every figure stands beside
what chance gives: the teacher's map of another image, since maps of all images resemble each other
(objects are in the middle), and pixels in random order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from igkd_search import (
    attribution,
    comparison,
    controls,
    deletion,
    evaluation,
    faithfulness_figure,
    faithfulness_text,
    figures,
    memory,
)

TOP = 0.1
"""The share of pixels that counts as what a network looks at most."""


def measure(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    mean: Tensor,
    sd: Tensor,
    seed: int,
    baseline: str = "mean",
    rule: str = "gausslegendre",
    reduction: str = "sum",
    theirs: Tensor | None = None,
) -> dict[str, Any]:
    """Agreement of maps, and deletion and insertion curves, as plain JSON (docs/faithfulness.md).

    Normalised images (B, C, H, W) and labels (B,) on the device of both networks, which are in eval
    mode; `mean` and `sd` (C,) are those of normalisation. Both explain the label's logit, by so
    many `steps` of Integrated Gradients from one of attribution.BASELINES. `theirs` are the
    teacher's maps, where they were drawn for another student of it.
    """
    assert len(images) == len(labels) > 0
    settings: dict[str, Any] = {
        "steps": steps,
        "baseline": baseline,
        "rule": rule,
        "reduction": reduction,
    }
    baselines = attribution.BASELINES[baseline](images, mean, sd)
    ours = draw_maps(student, images, labels, mean=mean, sd=sd, **settings)
    if theirs is None:
        theirs = draw_maps(teacher, images, labels, mean=mean, sd=sd, **settings)
    orders = {
        "student": deletion.ranks(ours),
        "teacher": deletion.ranks(theirs),
        "random": deletion.random_ranks(ours.shape, seed),
    }
    other = torch.from_numpy(controls.other_rows([np.arange(len(images))], seed))
    found: dict[str, Any] = {
        "images": len(images),
        "seed": seed,
        **settings,
        "top": {"share": TOP, "chance": _top(ours) / ours[0].numel()},
        "agreement": {
            "own_image": agreement(ours, theirs),
            "another_image": agreement(ours, theirs[other]) if len(images) > 1 else None,
        },
        "fractions": list(deletion.FRACTIONS),
        **{
            name: _curves(name, student, images, labels, baselines, orders)
            for name in deletion.CURVES
        },
    }
    return {**found, "words": faithfulness_text.words(found)}


def draw_maps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    mean: Tensor,
    sd: Tensor,
    baseline: str = "mean",
    rule: str = "gausslegendre",
    reduction: str = "sum",
) -> Tensor:
    """A network's maps (B, H, W) of images, on the CPU, with what `measure` is told.

    As many are made at once as memory allows.
    """
    folded = attribution.fold_norms(model, images[:1])
    baselines = attribution.BASELINES[baseline](images, mean, sd)
    fastest = evaluation.chunk_of(images.device, images[0, 0].numel())
    batch = memory.Batch(memory.fitting_batch(folded, images[:1], fastest))

    def drawn(size: int) -> Tensor:
        chunks = (torch.split(each, max(1, size // steps)) for each in (images, labels, baselines))
        parts = []
        for some, label, base in zip(*chunks, strict=True):
            values = attribution.attribute(
                folded,
                some,
                label,
                steps=steps,
                rule=rule,
                baselines=base,
                internal_batch_size=size,
            ).values
            parts.append(attribution.to_maps(values, reduction).cpu())
        return torch.cat(parts)

    return batch.attempt(drawn)


def agreement(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """How two maps (B, H, W) of an image agree: mean, sd and n of each measure over images.

    Spearman's rank correlation, ties averaged; Pearson's; the share of either's top pixels that are
    the other's too. An image of which either map is constant, thus without any order, is left out.
    """
    known = (_span(ours) > 0) & (_span(theirs) > 0)
    ours, theirs = ours[known], theirs[known]
    if not len(ours):
        return dict.fromkeys(("rank_correlation", "pearson", "top_overlap"))
    ranked = (
        torch.from_numpy(rankdata(maps.flatten(1).numpy(), axis=1)) for maps in (ours, theirs)
    )
    count = _top(ours)
    tops = [deletion.ranks(maps) < count for maps in (ours, theirs)]
    return {
        "rank_correlation": _stats(attribution.correlate(*ranked)),
        "pearson": _stats(attribution.correlate(ours, theirs)),
        "top_overlap": _stats((tops[0] & tops[1]).flatten(1).sum(1) / count),
    }


def _span(maps: Tensor) -> Tensor:
    return maps.amax((1, 2)) - maps.amin((1, 2))


def _top(maps: Tensor) -> int:
    """How many pixels of a map (B, H, W) are its top."""
    return max(1, round(TOP * maps[0].numel()))


def _stats(values: Tensor) -> dict[str, Any]:
    """Mean, sd and n of one value an image (B,), and the 95 % interval of the mean."""
    return comparison.described(values.double().tolist())


def _curves(
    name: str,
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    baselines: Tensor,
    orders: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The student's mean curve and area in each order, and what that gains over random order."""
    drawn = {
        order: deletion.curves(student, images, labels, baselines, place, name)
        for order, place in orders.items()
    }
    areas = {order: deletion.areas(curve) for order, curve in drawn.items()}
    better = -1 if name == "deletion" else 1  # a good order loses the label soon, or finds it soon
    return {
        order: {
            "mean": curve.double().mean(0).tolist(),
            "area": _stats(areas[order]),
            # of the same images, so of differences
            "gain": None
            if order == "random"
            else _stats(better * (areas[order] - areas["random"])),
        }
        for order, curve in drawn.items()
    }


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the curves as PNG, SVG or PDF, as the name says; StorageError if that fails."""
    figures.save(faithfulness_figure.draw(found), path)
