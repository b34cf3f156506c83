"""Claim: the overlay bank is built faster than by Captum as the paper runs it, with the same maps.

Ours: 20 Gauss-Legendre steps, one backward of the summed label logits, large batches. Theirs:
Captum's defaults as the paper's code calls them: 50 steps, batches of 8 images, fp32. Both on the
same teacher and images; the maps of ours must correlate with a 256-step reference at 0.99 or more
(128 with --quick). The target is 2.5 on a CPU and 5 on a GPU.

    python benchmarks/overlay_bank.py [--quick]
"""

import tempfile
from pathlib import Path

import measure
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from igkd_search import attribution, banks, datasets, registry, teacher, vault

STEPS, PAPER_STEPS, PAPER_BATCH = 20, 50, 8


def main() -> None:
    options = measure.arguments(__doc__.splitlines()[0])
    device = torch.device(options.device)
    count, reference_steps = (8, 128) if options.quick else (256, 256)
    study = registry.find("digits")
    data = datasets.load(study.data, Path())
    recipe = study.teacher.model_copy(update={"epochs": 6 if options.quick else 20})
    recipe = recipe.model_copy(update={"minimum_accuracy": 0.0})
    with tempfile.TemporaryDirectory() as folder:
        master = teacher.obtain(recipe, data, vault.Vault(Path(folder)), device).network
    rows = torch.arange(count, device=device)
    images = banks.reader_of(data, device).unaugmented(rows)
    labels = torch.from_numpy(data.labels[:count]).to(device)

    def ours() -> Tensor:
        shard = max(1, 1024 // STEPS)
        return torch.cat(
            [
                attribution.attribute(master, image, label, steps=STEPS).values
                for image, label in zip(images.split(shard), labels.split(shard), strict=True)
            ]
        )

    def theirs() -> Tensor:
        method = IntegratedGradients(master)
        return torch.cat(
            [
                method.attribute(image, torch.zeros_like(image), label, n_steps=PAPER_STEPS)
                for image, label in zip(
                    images.split(PAPER_BATCH), labels.split(PAPER_BATCH), strict=True
                )
            ]
        )

    reference = attribution.attribute(
        master, images, labels, steps=reference_steps, internal_batch_size=1024
    )
    correlation = correlate(
        attribution.to_maps(ours()), attribution.to_maps(reference.values)
    ).median()
    times = measure.alternate(ours, theirs, options.repeats)
    measure.conclude(
        "overlay bank against Captum as the paper runs it",
        *times,
        target=5.0 if device.type == "cuda" else 2.5,
        device=str(device),
        images=count,
        image_size=data.image_shape[1],
        reference_steps=reference_steps,
        map_correlation=round(correlation.item(), 4),
        conditions={"map correlation >= 0.99": bool(correlation >= 0.99)},
    )


def correlate(ours: Tensor, theirs: Tensor) -> Tensor:
    """Pearson correlation of each pair of maps (B, H, W), (B,)."""
    centred = [maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (ours, theirs)]
    return torch.nn.functional.cosine_similarity(*centred)


if __name__ == "__main__":
    main()
