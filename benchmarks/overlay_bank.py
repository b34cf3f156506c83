"""Claim: the overlay bank is built faster than by Captum as the paper runs it, with maps as good.

Ours: what `igkd prepare` does with 20 Gauss-Legendre steps: one backward of the summed label
logits, BatchNorm folded, batches sized by memory and speed. Theirs: Captum's defaults as the
paper's code calls them: 50 steps, batches of 8 images, fp32. Both on the same teacher and images,
to maps in [0, 1]; ours must correlate with a 256-step reference at 0.99 or more (128 with --quick).
The target is 2.5 on a CPU and 5 on a GPU.

    python benchmarks/overlay_bank.py [--quick] [--data FOLDER]
"""

import tempfile
from pathlib import Path

import measure
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from igkd_search import attribution, datasets, devices, overlay_bank, spec, teacher, vault

PAPER_STEPS, PAPER_BATCH = 50, 8


def main() -> None:
    options = measure.arguments(__doc__.splitlines()[0])
    device = torch.device(options.device)
    # an image of 32x32 costs what sixteen of 8x8 do
    count, reference_steps = (32, 128) if options.quick or options.data else (128, 256)
    study = measure.study_of(options, teacher_epochs=6 if options.quick else 12)
    data = datasets.load(study.data, Path())
    devices.use_threads(data.image_shape)
    with tempfile.TemporaryDirectory() as folder:
        master = teacher.obtain(study.teacher, data, vault.Vault(Path(folder)), device).network
    rows = datasets.sample_rows(len(data.labels), count)
    images = datasets.reader_of(data, device).unaugmented(torch.from_numpy(rows).to(device))
    labels = torch.from_numpy(data.labels[rows]).to(device)

    def ours() -> Tensor:
        maps = overlay_bank.draw(study.overlays, data, master, device, rows)
        return torch.from_numpy(maps)

    def theirs() -> Tensor:
        method = IntegratedGradients(master)
        parts = [
            method.attribute(image, torch.zeros_like(image), label, n_steps=PAPER_STEPS)
            for image, label in zip(
                torch.split(images, PAPER_BATCH), torch.split(labels, PAPER_BATCH), strict=True
            )
        ]
        return attribution.to_maps(torch.cat(parts)).cpu()

    finer = spec.Overlays(steps=reference_steps, dtype="fp16")
    reference = torch.from_numpy(overlay_bank.draw(finer, data, master, device, rows))
    correlation, paper = (
        attribution.correlate(maps, reference).mean().item() for maps in (ours(), theirs())
    )
    times = measure.alternate(ours, theirs, options.repeats)
    measure.conclude(
        "overlay bank against Captum as the paper runs it",
        *times,
        target=5.0 if device.type == "cuda" else 2.5,
        device=str(device),
        images=len(rows),
        image_size=data.image_shape[1],
        steps=study.overlays.steps,
        reference_steps=reference_steps,
        map_correlation=round(correlation, 4),
        map_correlation_of_theirs=round(paper, 4),
        conditions={"map correlation >= 0.99": correlation >= 0.99},
    )


if __name__ == "__main__":
    main()
