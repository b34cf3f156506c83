"""Claim: our training loop costs little more than the bare step, and far less than the paper's.

Three sides train the study's student (MobileNetV2 without its last 5 blocks) at one batch size.
Only training steps are measured, no validation and no checkpoint:

- ours: an epoch of `training.train`, as trials run it: draws, views, maps, soft targets, EMA
- bare: forward, cross entropy, backward and step of the same model by the same optimizer, eager, on
  one batch that lies on the device; ours may take 5 % longer on a CPU, 10 % on a GPU
- the paper's: `paper_loop.py`, with each number of --loader-workers, the fastest of which counts;
  the target is 10 times its images/s on a GPU, and there is none on a CPU

Images are random ones of 32x32 (`random_stock.py`), for the digits are 8x8; with --data they are
CIFAR-10's. The digits' size, where operators wait for their dispatch, is a further figure of the
JSON. A GPU also trains an epoch of 50,000 images, at the paper's batch and at that of
`studies/cifar10.toml`.

    python benchmarks/training_loop.py [--quick] [--data FOLDER]
    python benchmarks/training_loop.py --workers 1,2,4    # processes at once on one device
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import packing
import paper_loop
import random_stock
import torch
from torch.nn import functional

from igkd_search import devices, fitting, memory, small_maps, spec, training

CLAIM = "overhead of the training loop over the bare step (ours / bare - 1)"
EPOCH_IMAGES, EPOCHS = 50_000, 100


@dataclass(frozen=True)
class Lengths:
    """Steps of one repeat, long enough for a figure and short enough for a person."""

    ours: int
    papers: int
    digits: int


QUICK_REPEATS = 3  # at most
LENGTHS = {"quick": Lengths(2, 1, 10), "cpu": Lengths(10, 5, 60), "cuda": Lengths(300, 100, 300)}


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    if options.quick:
        options.repeats = min(options.repeats, QUICK_REPEATS)
    if options.workers:
        packing.main(options, device)
        return
    lengths = LENGTHS[measure.size_of(options)]
    if device.type == "cpu":
        memory.keep_freed()  # as trials do, and for all sides
    kind = random_stock.CIFAR.at(options.batch_size)
    cifar = compared(kind, options, lengths.ours, lengths.papers)
    digits = compared(random_stock.DIGITS, options, lengths.digits, lengths.digits // 3)
    devices.use_threads((3, random_stock.CIFAR.side, random_stock.CIFAR.side))
    more = whole_epochs(options, device) if options.epoch_images else {}
    claim = cifar.pop("overhead")
    measure.report(CLAIM, claim, str(device), **cifar, digits_size=digits, **more)


def arguments() -> argparse.Namespace:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=64, help="of 32x32 images; default 64")
    parser.add_argument(
        "--loader-workers", type=numbers, default=[0, 2], help="of the paper's side, such as 0,2"
    )
    parser.add_argument(
        "--workers", type=numbers, help="measure so many processes at once instead, such as 1,2,4"
    )
    parser.add_argument(
        "--epoch-images",
        type=int,
        help=f"measure an epoch of so many images as well; by default {EPOCH_IMAGES} on a GPU",
    )
    options = parser.parse_args()
    if options.epoch_images is None:
        options.epoch_images = EPOCH_IMAGES if measure.size_of(options) == "cuda" else 0
    return options


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def compared(
    kind: random_stock.Kind, options: argparse.Namespace, steps: int, papers_steps: int
) -> dict[str, Any]:
    """Print images/s of all sides on images of a kind, and return their figures."""
    device, config = torch.device(options.device), kind.trial()
    devices.use_threads((3, kind.side, kind.side))
    size = config.batch_size
    images = random_stock.images_of(kind, steps * size, data_of(kind, options))
    stock = random_stock.make(kind, images, device)
    papers = paper_loop.OverlaidImages(
        images,
        torch.rand(len(images), kind.side, kind.side),
        torch.randn(len(images), stock.classes),
        stock.labels.cpu().numpy(),
        kind.views.shift,
        config,
    )

    def ours() -> float:
        (record,) = training.train(config, stock, 0)
        return record.seconds / steps

    def bare() -> float:
        return bare_seconds(config, stock, steps) / steps

    def theirs(loader_workers: int) -> Callable[[], float]:
        return lambda: (
            paper_loop.seconds_of(
                training.build(config, stock, 0),
                papers,
                config,
                device,
                steps=papers_steps,
                loader_workers=loader_workers,
            )
            / papers_steps
        )

    sides = [ours, bare, *map(theirs, options.loader_workers)]
    times = measure.rotate(sides, options.repeats)
    names = [f"paper's, {count} loader workers" for count in options.loader_workers]
    rates = {
        name: round(size / statistics.median(row), 1)
        for name, row in zip(("ours", "bare", *names), times, strict=True)
    }
    print(f"{kind.side}x{kind.side}, batch {size}, images/s (median of {options.repeats}):")
    for name, rate in rates.items():
        print(f"  {name:<30} {rate:>10,.1f}")
    on_gpu = device.type == "cuda"
    overhead = measure.overhead(times[0], times[1], 0.1 if on_gpu else 0.05)
    paper = measure.speed_up(
        times[0],
        min(times[2:], key=statistics.median),
        10.0 if on_gpu and kind is not random_stock.DIGITS else None,
    )
    print(f"  ours takes {overhead['ratio']:.1%} longer than bare; {paper['ratio']} x the paper's")
    return {
        "overhead": overhead,
        "against_the_papers_loop": paper,
        "images_per_s": rates,
        "images": "random" if data_of(kind, options) is None else "CIFAR-10",
        "image_size": kind.side,
        "batch_size": size,
        "steps": steps,
        "step": stock.steps.kind,
        "threads_used": torch.get_num_threads(),
    }


def data_of(kind: random_stock.Kind, options: argparse.Namespace) -> Path | None:
    """The folder of images of this kind, if one was given."""
    folder: Path | None = options.data
    return None if kind is random_stock.DIGITS else folder


def bare_seconds(config: spec.TrialConfig, stock: training.Stock, steps: int) -> float:
    """Seconds of so many steps on one batch, with nothing around them."""
    device = stock.labels.device
    model = devices.place(training.build(config, stock, 0), device).train()
    optimizer = fitting.optimizer_of(config, model)
    rows = stock.fit_rows[: config.batch_size]
    images = stock.reader.unaugmented(rows).contiguous(memory_format=torch.channels_last)
    labels = stock.labels[rows]
    # the network is what a trial trains: tiny maps are padded beforehand there too
    with small_maps.padded(model, device):
        measure.wait()
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with devices.autocast(device):
                loss = functional.cross_entropy(model(images), labels)
            torch.autograd.backward(loss)
            optimizer.step()
        measure.wait()
        return time.perf_counter() - began


def whole_epochs(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of an epoch of --epoch-images, at the paper's batch and at the study's."""
    kind, count = random_stock.CIFAR, options.epoch_images
    images = random_stock.images_of(kind, count, options.data)
    stock = random_stock.make(kind, images, device)
    figures = {}
    for size in (kind.batch_size, kind.study_batch):
        config = kind.at(size).trial()

        def epoch(config: spec.TrialConfig = config) -> float:
            (record,) = training.train(config, stock, 0)
            seconds: float = count / record.images_per_s
            return seconds

        (row,) = measure.rotate([epoch], min(options.repeats, 3))
        middle = statistics.median(row)
        figures[str(size)] = {
            "images": count,
            "seconds": round(middle, 3),
            "seconds_of_100_epochs": round(middle * EPOCHS, 1),
            "images_per_s": round(count / middle, 1),
        }
        print(
            f"batch {size}: {middle:.3f} s an epoch of {count:,} images, "
            f"{middle * EPOCHS:.1f} s of {EPOCHS} epochs, {count / middle:,.0f} images/s"
        )
    return {"whole_epoch_by_batch_size": figures}


if __name__ == "__main__":
    main()
