"""A crew: the workers that one command starts, how many there are, and what each computes on.

One machine names its GPUs; a cluster is asked for a number of them and says itself which.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from igkd_search import gpus
from igkd_search.errors import StudyError

if TYPE_CHECKING:
    from igkd_search import spec


class Launcher(StrEnum):
    """Who starts the workers."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


@dataclass(frozen=True)
class Crew:
    """So many workers, `per_gpu` of them on each GPU; `per_gpu` is 0 when no GPU is asked for.

    `names` are the GPUs of this machine, one for each `per_gpu` workers; empty on a cluster.
    """

    launcher: Launcher
    workers: int
    per_gpu: int = 0
    names: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What SLURM is told besides."""

    def environments(self) -> list[dict[str, str]]:
        """What the environment of each worker on this machine must say: which GPU it computes on.

        One whose GPU is not there must not train on the CPU instead.
        """
        device = {"IGKD_DEVICE": "cuda"} if self.per_gpu else {}
        seen = [gpus.environment_of(name) for name in self.names for _ in range(self.per_gpu)]
        return [{**(seen[number] if seen else {}), **device} for number in range(self.workers)]


@dataclass(frozen=True)
class Order:
    """The search that a crew is started for; `study` is what was typed, `url` of its database.

    `storage` says where the database is without any password: None has it read in the environment.
    """

    study: str
    question: spec.Study
    trials: int | None
    url: str = field(repr=False)
    storage: str | None
    home: Path
    data: Path | None
    device: str | None

    @property
    def name(self) -> str:
        """The name of the study in the database."""
        return self.question.name

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """Within, children find the database in their environment.

        Not in their command, which every user of the machine can read.
        """
        before = os.environ.get("IGKD_STORAGE")
        os.environ["IGKD_STORAGE"] = self.url
        try:
            yield
        finally:
            del os.environ["IGKD_STORAGE"]
            if before is not None:
                os.environ["IGKD_STORAGE"] = before

    @property
    def logs(self) -> Path:
        """The folder of the workers' logs."""
        return self.home / "logs" / self.name


def asked(
    launcher: Launcher | None,
    named_gpus: str | None,
    per_gpu: int | None,
    workers: int | None,
    slurm: Sequence[str] = (),
    device: str | None = None,
) -> Crew | None:
    """What the options of `igkd run` ask for; None when it is one worker in its own process.

    StudyError when they contradict each other, or the launcher's package is missing.
    """
    chosen = launcher or Launcher.local
    if per_gpu is not None and named_gpus is None:
        raise StudyError(
            "--workers-per-gpu: of which GPUs? Name them with --gpus 0,1 or --gpus all"
        )
    if named_gpus is not None and workers is not None:
        raise StudyError(
            "--workers and --gpus: one of them; --gpus 0,1 --workers-per-gpu 2 are four workers"
        )
    if named_gpus is not None and device not in (None, "cuda"):
        raise StudyError(f"--gpus and --device {device}: one of them; --workers N share a device")
    if slurm and chosen is not Launcher.slurm:
        raise StudyError("--slurm: only with --launcher slurm")
    if named_gpus is None and workers is None:
        if chosen is not Launcher.local:
            raise StudyError(
                f"--launcher {chosen}: how many? Type --gpus N, or --workers N without"
            )
        return None
    if chosen is not Launcher.local:
        _require(chosen)
    if named_gpus is None:
        assert workers is not None
        return Crew(chosen, workers, parameters=_parameters(slurm))
    per_gpu = per_gpu or 1
    if chosen is Launcher.local:
        names = gpus.named(named_gpus)
        return Crew(chosen, per_gpu * len(names), per_gpu, names)
    if not named_gpus.isdigit() or int(named_gpus) < 1:
        raise StudyError(
            f"--gpus {named_gpus} with --launcher {chosen}: how many GPUs, such as --gpus 4; the "
            "cluster says which"
        )
    return Crew(chosen, per_gpu * int(named_gpus), per_gpu, parameters=_parameters(slurm))


def _require(launcher: Launcher) -> None:
    package = {Launcher.ray: "ray", Launcher.slurm: "submitit"}[launcher]
    if importlib.util.find_spec(package) is None:
        raise StudyError(
            f"--launcher {launcher}: {package} is not installed; type pip install "
            f"'igkd-search[{launcher}]'"
        )


def _parameters(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not mark or not key.isidentifier() or not value:
            raise StudyError(f"--slurm {pair}: must be KEY=VALUE, such as --slurm partition=gpu")
        found[key] = value
    return found
