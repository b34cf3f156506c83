"""The paper's 10.8 times faster student: the artefact of a first call, and the truth, side by side.

Artefact: as the authors' script does it, in a fresh process, one call of each model that nothing
has warmed, the teacher first, then the students without 3 and without 5 blocks, in eager PyTorch
on its own choice of threads. The same with the student first shows what such a figure is made of.
Truth: in the same processes, afterwards, warm and interleaved (igkd_search/latency.py) on one
thread, in eager PyTorch and, on the CPU, in ONNX Runtime. One image of 32x32; weights are random,
for they do not matter. Nothing has a target: it is what it is.

    python benchmarks/latency.py [--quick] [--repeats 5] [--device cpu]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import measure
import torch
from torch import nn

from igkd_search import latency, models, onnx_export, spec

SHAPE = (3, 32, 32)
REMOVED_BLOCKS = {"student": 5, "larger student": 3}
ORDERS = (("teacher", "larger student", "student"), ("student", "teacher"))
TIMED = ("teacher", "student")


def main() -> None:
    options = measure.parser(__doc__.splitlines()[0])
    options.add_argument("--child", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child is not None:
        print(json.dumps(in_this_process(**json.loads(given.child))))
        return
    repeats, rounds = (min(2, given.repeats), 5) if given.quick else (max(5, given.repeats), 30)
    used, on_cpu = latency.warn_if_busy(), torch.device(given.device).type == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        # exporting takes longer than a quick look may
        files = exported(Path(folder)) if on_cpu and not given.quick else {}
        found: dict[tuple[str, ...], list[dict[str, Any]]] = {order: [] for order in ORDERS}
        for _ in range(repeats):
            for order in ORDERS:
                found[order].append(in_a_fresh_process(order, files, rounds, given.device))
    conclude(found, used, given.device)


def networks() -> dict[str, nn.Module]:
    """The models, with random weights."""
    students = {
        name: models.build_student(spec.Architecture("mobilenet_v2", removed), 10).eval()
        for name, removed in REMOVED_BLOCKS.items()
    }
    return {"teacher": models.build_teacher("mobilenet_v2", 10).eval(), **students}


def exported(folder: Path) -> dict[str, str]:
    """Both as ONNX files."""
    found = {}
    built = networks()
    for name in TIMED:
        onnx_export.export(built[name], SHAPE, folder / f"{name}.onnx")
        found[name] = str(folder / f"{name}.onnx")
    return found


def in_a_fresh_process(
    order: tuple[str, ...], files: dict[str, str], rounds: int, device: str
) -> dict[str, Any]:
    """What `in_this_process` finds in a process that has not done anything yet."""
    told = {"order": order, "files": files, "rounds": rounds, "device": device}
    command = [sys.executable, __file__, "--child", json.dumps(told)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def in_this_process(
    order: list[str], files: dict[str, str], rounds: int, device: str
) -> dict[str, Any]:
    """ms of the first calls in this order, then of warm ones; engine -> model -> ms."""
    built = {name: network.to(device) for name, network in networks().items()}
    image = torch.rand(1, *SHAPE).to(device)
    with torch.no_grad():
        first = {name: milliseconds(built[name], image) for name in order}
    torch.set_num_threads(1)
    calls = {("pytorch", name): partial(finished, built[name], image) for name in TIMED}
    for name in TIMED if files else ():
        session, given = onnx_export.session(Path(files[name])), {"image": image.numpy()}
        calls["onnxruntime", name] = partial(session.run, None, given)
    with torch.inference_mode():
        times = latency.interleave(list(calls.values()), rounds)
    warm: dict[str, dict[str, float]] = {}
    for (engine, name), row in zip(calls, times, strict=True):
        warm.setdefault(engine, {})[name] = statistics.median(row)
    return {"first": first, **warm}


def milliseconds(model: nn.Module, image: torch.Tensor) -> float:
    """One call, until the device has finished."""
    began = time.perf_counter()
    finished(model, image)
    return 1e3 * (time.perf_counter() - began)


def finished(model: nn.Module, image: torch.Tensor) -> None:
    """Call a model and wait for its device."""
    model(image)
    measure.wait()


def conclude(found: dict[tuple[str, ...], list[dict[str, Any]]], used: float, device: str) -> None:
    """Print a table of all, then the line of JSON."""
    every = [each for row in found.values() for each in row]
    sides = {
        "first call, teacher first (as the paper)": [row["first"] for row in found[ORDERS[0]]],
        "first call, student first": [row["first"] for row in found[ORDERS[1]]],
        "warm, interleaved, PyTorch eager": [row["pytorch"] for row in every],
        "warm, interleaved, ONNX Runtime": [
            row["onnxruntime"] for row in every if "onnxruntime" in row
        ],
    }
    figures = {}
    for name, rows in sides.items():
        if not rows:
            continue
        figures[name] = ratios(rows)
        teacher, student = (
            statistics.median(row[who] for row in rows) for who in ("teacher", "student")
        )
        figures[name] |= {"teacher_ms": round(teacher, 3), "student_ms": round(student, 3)}
        low, high = figures[name]["spread"]
        print(
            f"{name:41} {teacher:9.2f} ms {student:9.2f} ms {figures[name]['ratio']:7.2f} "
            f"({low:.2f} to {high:.2f}, {len(rows)} processes)"
        )
    truth = figures["warm, interleaved, PyTorch eager"]
    measure.report(
        "the paper's student against its teacher, warm and interleaved, PyTorch eager",
        {key: truth[key] for key in ("ratio", "target", "holds", "n", "spread")},
        device,
        machine=latency.machine(),
        cores_used_by_others=round(used, 2),
        sides=figures,
    )


def ratios(rows: list[dict[str, float]]) -> dict[str, Any]:
    """teacher / student, process by process."""
    return measure.speed_up(
        [row["student"] for row in rows], [row["teacher"] for row in rows], None
    )


if __name__ == "__main__":
    main()
