"""Claim: an epoch with the bank of targets is faster than one with a live teacher, same logits.

Both sides train the student of studies/digits.toml for one epoch on the same materials; the largest
difference between the bank's logits and the live teacher's is printed. The target is 1.3.

    python benchmarks/targets.py [--quick]
"""

import dataclasses
import tempfile
from pathlib import Path

import measure
import torch

from igkd_search import banks, materials, registry, training


def main() -> None:
    options = measure.arguments(__doc__.splitlines()[0])
    device = torch.device(options.device)
    study = registry.find("digits")
    recipe = study.teacher.model_copy(
        update={"epochs": 2 if options.quick else 20, "minimum_accuracy": 0.0}
    )
    # the maps do not matter here, but take a while
    overlays = study.overlays.model_copy(update={"steps": 2})
    study = study.model_copy(update={"teacher": recipe, "overlays": overlays})
    with tempfile.TemporaryDirectory() as folder:
        shared = materials.prepare(study, Path(folder), device)
        stock = training.Stock.of(shared, study, device)
        difference = largest_difference(shared, device)
    live = dataclasses.replace(stock, targets=None)
    config = study.trial.model_copy(update={"epochs": 1, "kd_weight": 0.5})
    times = measure.alternate(
        lambda: list(training.train(config, stock, 0)),
        lambda: list(training.train(config, live, 0)),
        options.repeats,
    )
    measure.conclude(
        "bank of targets against a live teacher",
        *times,
        target=1.3,
        device=str(device),
        largest_logit_difference=difference,
    )


def largest_difference(shared: materials.Materials, device: torch.device) -> float:
    """Between bank and live teacher over all rows, each in one view."""
    assert shared.targets is not None
    reader = banks.reader_of(shared.data, device)
    rows = torch.arange(len(shared.data.labels), device=device)
    views = rows % reader.kinds.count
    live = banks.live_logits(shared.teacher.network, reader, rows, views).cpu()
    stored = torch.tensor(shared.targets[rows.cpu().numpy(), views.cpu().numpy()]).float()
    return (stored - live).abs().max().item()


if __name__ == "__main__":
    main()
