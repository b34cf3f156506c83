"""Claim: an epoch with the bank of targets is faster than one with a live teacher, same logits.

Both sides train the study's student for one epoch on the same materials and the same views; the
largest difference between the bank's logits and the live teacher's is printed. The target is 1.3.

    python benchmarks/targets.py [--quick] [--data FOLDER]
"""

import dataclasses
import tempfile
from pathlib import Path

import measure
import numpy as np
import torch

from igkd_search import datasets, logits_bank, materials, spec, training


def main() -> None:
    options = measure.arguments(__doc__.splitlines()[0])
    device = torch.device(options.device)
    study = measure.study_of(options, teacher_epochs=6 if options.quick else 12)
    # the maps do not matter here, but take a while; of large images a few views are enough
    few = spec.MaterialsOptions(views=None if options.data is None else 4, targets="bank")
    overlays = study.overlays.model_copy(update={"steps": 2})
    study = study.model_copy(update={"overlays": overlays, "materials": few})
    with tempfile.TemporaryDirectory() as folder:
        shared = materials.prepare(study, Path(folder), device)
        stock = training.Stock.of(shared, study, device)
        difference = largest_difference(shared, device)
    # the same views without a bank: both sides draw and look up alike, one asks the teacher
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
    reader = datasets.reader_of(shared.data, device)
    rows = np.arange(len(shared.data.labels))
    places = rows % shared.targets.shape[1]
    views = places if shared.chosen_views is None else shared.chosen_views[rows, places]
    on_device = [torch.from_numpy(array).to(device) for array in (rows, views)]
    live = logits_bank.live_logits(shared.teacher.network, reader, *on_device).cpu()
    stored = torch.tensor(shared.targets[rows, places]).float()
    return (stored - live).abs().max().item()


if __name__ == "__main__":
    main()
