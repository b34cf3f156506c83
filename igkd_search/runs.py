"""Trainings that one command asks for, each in a folder of its own, by as many processes as like.

A run is one configuration and one seed. Whoever trains it holds the lock of its folder, so several
processes that are given the same runs share them; the kernel lets go of the lock when one dies. A
run that was killed goes on at its last epoch, and a finished one is not trained again.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save
from torch import Tensor, nn

from igkd_search import checkpoints, files, spec, stages, training, vault
from igkd_search.errors import StorageError, TrialError

log = logging.getLogger(__name__)

WEIGHTS, RECORD = "student.safetensors", "run.json"


@dataclass(frozen=True)
class Run:
    """One training: what people call it, its configuration, its seed, where it lies."""

    label: str
    config: spec.TrialConfig
    seed: int
    folder: Path
    """Of this very question: another one has another folder."""

    @property
    def is_finished(self) -> bool:
        """Whether it has been trained to its end."""
        return (self.folder / RECORD).is_file()

    def record(self) -> dict[str, Any]:
        """What a finished run has shown: label, seed, records (an epoch each), device, threads."""
        found: dict[str, Any] = json.loads((self.folder / RECORD).read_bytes())
        return found


@dataclass(frozen=True)
class Bench:
    """Where a run is trained: a stock, and its training rows, by default the fit rows."""

    stock: training.Stock
    rows: Tensor | None = None


def folder_of(parent: Path, name: str, *asked: Any) -> Path:
    """The folder of a run that is all that `asked` says, as plain JSON."""
    return parent / f"{name}-{spec.fingerprint(list(asked))[:8]}"


def train_all(
    wanted: Sequence[Run], bench_of: Callable[[Run], Bench], *, alone: bool = True
) -> None:
    """Train what is not finished, in order, and leave what other processes hold for the end.

    Then, if `alone`, wait for those in turn and finish them should their process die; without it
    they are left to the others. TrialError, when all others are trained, names the trainings that
    diverged or exceeded the memory.
    """
    epochs = sum(run.config.epochs for run in wanted)
    with stages.stage("students", epochs, "epochs") as stage:
        stage.advance(sum(run.config.epochs for run in wanted if run.is_finished))
        crew = _Crew(bench_of, stage)
        held = [run for run in wanted if not crew.attempt(run, wait=False)]
        if held and alone:
            for run in held:
                log.info("%s: waiting for another process that trains it", run.label)
                crew.attempt(run, wait=True)
        elif held:
            log.info("%s: left to who trains them", ", ".join(run.label for run in held))
    if crew.failed:
        raise TrialError(crew.failed[0].cause, "; ".join(map(str, crew.failed)))


def clear(parent: Path, kept: Sequence[Run]) -> None:
    """Remove what killed runs of other questions have left, unless a process trains them."""
    ours = {run.folder for run in kept}
    for folder in parent.glob("*/seed-*"):
        lock = FileLock(folder / "lock")
        with suppress(Timeout, OSError):
            if folder not in ours and not (folder / RECORD).exists():
                lock.acquire(timeout=0)
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


def load(run: Run, bench: Bench) -> nn.Module:
    """The student of a finished run, in eval mode on its device."""
    student = training.build(run.config, bench.stock, run.seed)
    student.load_state_dict(load_file(run.folder / WEIGHTS))
    return student.to(bench.stock.labels.device).eval()


class _Crew:
    """One process's part in training runs: each at most once, failures kept for the end."""

    def __init__(self, bench_of: Callable[[Run], Bench], stage: stages.Stage) -> None:
        self._bench_of, self._stage = bench_of, stage
        self.failed: list[TrialError] = []

    def attempt(self, run: Run, *, wait: bool) -> bool:
        """Train a run, unless it is finished; False when another process holds it."""
        if run.is_finished:
            return True
        lock = FileLock(run.folder / "lock")
        with StorageError.when_writing(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                return False
        try:
            if run.is_finished:  # by who held it
                self._stage.advance(run.config.epochs)
            else:
                _train(run, self._bench_of(run), self._stage)
        except TrialError as error:
            log.error("%s: %s", run.label, error)
            self.failed.append(TrialError(error.cause, f"{run.label}: {error}"))
        finally:
            lock.release()
        return True


def _train(run: Run, bench: Bench, stage: stages.Stage) -> None:
    with StorageError.when_writing(run.folder):
        files.remove_litter(run.folder)
    student = training.build(run.config, bench.stock, run.seed)
    save_to = run.folder / "checkpoints"
    records = []
    for record in training.train(
        run.config,
        bench.stock,
        run.seed,
        student=student,
        rows=bench.rows,
        save_to=save_to,
        resume_from=checkpoints.newest(save_to),
    ):
        records.append(_told(record, held_out=bench.rows is None))
        stage.advance(note=f"{run.label}: loss {record.loss:.3f}")
    weights = {key: value.contiguous().cpu() for key, value in student.state_dict().items()}
    told = {
        "label": run.label,
        "seed": run.seed,
        "device": str(bench.stock.labels.device),
        "threads": torch.get_num_threads(),
        "records": records,
    }
    # the record last: it says that the weights are there
    vault.write_whole(run.folder / WEIGHTS, save(weights))
    vault.write_whole(run.folder / RECORD, json.dumps(told).encode())
    shutil.rmtree(save_to, ignore_errors=True)


_OF_BOTH = ("epoch", "loss", "learning_rate", "seconds", "images_per_s")


def _told(record: training.EpochResult, *, held_out: bool) -> dict[str, Any]:
    """An epoch as plain JSON; what validation rows show only where they were not trained on."""
    plain = {**asdict(record), "confusion": None}
    return plain if held_out else {name: plain[name] for name in _OF_BOTH}
