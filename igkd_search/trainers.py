"""Several processes that train the runs of one command: each `igkd` itself, told only to train.

They find out from the runs' locks who trains what. This process looks on, without torch, and goes
on by itself once they have ended.
"""

import json
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from igkd_search import output_options, stages
from igkd_search.crew import Crew
from igkd_search.processes import Job
from igkd_search.supervisor import Supervisor

log = logging.getLogger(__name__)

TRAIN_ONLY = "--train-only"
_CHECKPOINT = re.compile(r"epoch-(\d+)\.safetensors")


def train(command: Sequence[str], crew: Crew, logs: Path, runs: Path, epochs: int) -> None:
    """Run `igkd COMMAND --train-only` in each process of a crew, until all have ended.

    `logs` is the folder of their logs, `runs` that of the runs, which will have so many epochs.
    None is started again: what a training does once it does again, and the others, or the same
    command, go on with what a killed one has left. ProcessError when one has died,
    KeyboardInterrupt when a signal had them leave.
    """
    supervisor = Supervisor(jobs(command, crew, logs), max_deaths=1)
    log.info("%d processes train; their logs are in %s", crew.workers, logs)
    with stages.stage("students", epochs, "epochs") as stage:

        def look() -> None:
            stage.advance(min(epochs_done(runs), epochs) - stage.done)

        try:
            supervisor.run(look)
        finally:
            if supervisor.asked is not None:
                raise KeyboardInterrupt
        look()


def jobs(command: Sequence[str], crew: Crew, logs: Path) -> list[Job]:
    """One process each, on the crew's GPUs one after the other."""
    whole = (sys.executable, "-m", "igkd_search", *command, TRAIN_ONLY, *output_options.typed())
    shared = {"IGKD_WORKERS": str(crew.workers), "PYTHONFAULTHANDLER": "1"}
    return [
        Job(
            f"trainer-{number}",
            whole,
            logs / f"trainer-{number}.log",
            {**shared, **seen},
        )
        for number, seen in enumerate(crew.environments())
    ]


def epochs_done(runs: Path) -> int:
    """The epochs of all runs below a folder, by their records and checkpoints."""
    found = 0
    for folder in runs.glob("*/*/"):
        with suppress(OSError, ValueError, KeyError):  # written or removed just now
            found += _epochs_of(folder)
    return found


def _epochs_of(run: Path) -> int:
    record = run / "run.json"
    if record.is_file():
        return len(json.loads(record.read_bytes())["records"])
    saved = [_CHECKPOINT.fullmatch(path.name) for path in (run / "checkpoints").glob("*")]
    return max((int(found[1]) for found in saved if found), default=0)
