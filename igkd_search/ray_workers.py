"""Workers as Ray actors: Ray places them on the cluster's GPUs and starts them again elsewhere.

An actor is nothing but one worker. That it dies with its node is no harm: Ray restarts it, and the
trial it held is adopted like any other. ray is an extra, so it is imported when it is needed.
"""

import importlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igkd_search import database, draining, registry, spec, spectator, stages
from igkd_search.crew import Crew, Order
from igkd_search.errors import IgkdError, ProcessError, StorageError, StudyError

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LEAVING_POLLS = 30


@dataclass(frozen=True)
class Task:
    """What every actor is told; `url` travels as an argument, so no command line shows it."""

    url: str = field(repr=False)
    question: spec.Study
    trials: int | None
    home: Path
    device: str | None
    stops: int
    logs: Path


def search(order: Order, crew: Crew) -> str:
    """Prepare the materials on the cluster, then run the workers until the budget is spent.

    Returns why it ended: "budget", or in words who or what had it end before. Without a cluster at
    hand, Ray is started on this machine. ProcessError when workers failed; StudyError when this
    machine lacks the GPUs that are asked for.
    """
    task = Task(
        url=order.url,
        question=order.question,
        trials=order.trials,
        home=order.home.absolute(),
        device=order.device or ("cuda" if crew.per_gpu else None),
        stops=spectator.stops_so_far(order.url, order.name),
        logs=order.logs.absolute(),
    )
    with stages.display(["ray", "trials"]), _cluster() as ray:
        if len(ray.nodes()) > 1:
            database.check_shared(task.url, f"the {len(ray.nodes())} nodes of the cluster")
        _begin(ray, task, crew)
        spectator.check_room(order.url, crew.workers)
        with stages.stage("trials", unit="trials") as stage, _asked() as asked:
            watched = spectator.Spectator(order.url, order.question, stage, task.stops)
            problems = _work(ray, task, crew, watched, asked)
            ended = watched.ending()
            watched.close()
    if problems and ended != "budget":
        raise ProcessError("\n".join(problems))
    return asked[0].name if asked else ended


class Member:
    """The actor: one worker in this process, and how to have it leave.

    Its two methods run in threads, so signals are left to Ray; `leave` is called while `work` is
    at it.
    """

    def __init__(self) -> None:
        self._drain = draining.Drain()

    def work(self, task: Task, name: str) -> str:
        """Join the study as a worker; why it left."""
        from igkd_search import launch

        with (
            _logged(task.logs / f"{name}.log"),
            closing(database.connect(task.url, wait=True)) as base,
        ):
            return launch.join(base, task.question, task.home, task.device, self._drain, task.stops)

    def leave(self, reason: str) -> None:
        """Ask the worker to leave after its epoch."""
        self._drain.ask(reason)


def prepare(task: Task) -> None:
    """Build the materials and register the study, as a task of the cluster."""
    from igkd_search import launch

    with (
        _logged(task.logs / "prepare.log"),
        closing(database.connect(task.url, wait=True)) as base,
    ):
        launch.prepare(base, task.question, task.home, task.trials, device=task.device)


@contextmanager
def _cluster() -> Iterator[Any]:
    """A connection to the cluster at hand, else to one of this machine alone; yields `ray`."""
    ray: Any = importlib.import_module("ray")  # its own types know little of it
    if ray.is_initialized():  # whoever has connected this process disconnects it
        yield ray
        return
    with stages.stage("ray", note="looking for a cluster") as stage:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        try:
            ray.init(address="auto", **options)
        except ConnectionError as error:
            meant = os.environ.get("RAY_ADDRESS")
            if meant:
                raise StudyError(f"RAY_ADDRESS = {meant}: {error}") from error
            stage.advance(0, "no cluster at hand: starting Ray on this machine")
            ray.init(include_dashboard=False, **options)
        there = ray.cluster_resources()
        stage.advance(0, f"{len(ray.nodes())} nodes, {there.get('GPU', 0):g} GPUs")
    try:
        yield ray
    finally:
        ray.shutdown()


def _begin(ray: Any, task: Task, crew: Crew) -> None:
    """Have the study and its budget in the database; its materials too, unless it has begun."""
    wanted, there = crew.workers / max(crew.per_gpu, 1), ray.cluster_resources().get("GPU", 0)
    if crew.per_gpu and not there:
        raise StudyError(f"--gpus {wanted:g}: the cluster has no GPU; type --workers N instead")
    if crew.per_gpu and wanted > there:
        log.warning("%g GPUs asked for, %g there: workers wait for more nodes", wanted, there)
    if registry.resume(task.url, task.question, task.trials):
        return
    with stages.stage("prepare", note=f"on the cluster; its log: {task.logs}/prepare.log"):
        remote = ray.remote(num_gpus=1 if crew.per_gpu else 0, max_retries=3)(prepare)
        with _naming_failures(ray):
            ray.get(remote.remote(task))


def _work(
    ray: Any,
    task: Task,
    crew: Crew,
    watched: spectator.Spectator,
    asked: list[signal.Signals],
) -> list[str]:
    """Run all actors to their end; what went wrong in some."""
    share = 1 / crew.per_gpu if crew.per_gpu else 0
    actor = ray.remote(Member).options(
        num_gpus=share, max_restarts=-1, max_task_retries=-1, max_concurrency=2
    )
    members = [actor.remote() for _ in range(crew.workers)]
    at_work = {member.work.remote(task, f"ray-{i}"): i for i, member in enumerate(members)}
    problems, told, quiet = list[str](), False, 0
    # once all is done, or they were asked, nobody waits for long: some may never have been placed
    while at_work and quiet < _LEAVING_POLLS:
        watched.look()
        if asked and not told:
            told = True
            for member in members:
                member.leave.remote(asked[0].name)
        ended = ray.wait(list(at_work), timeout=_POLL_SECONDS)[0]
        quiet = quiet + 1 if not ended and (told or watched.finished) else 0
        for done in ended:
            number = at_work.pop(done)
            try:
                with _naming_failures(ray):
                    ray.get(done)
            except ProcessError as error:
                problems.append(f"ray-{number}: {error}; its log: {task.logs}/ray-{number}.log")
                log.warning("%s", problems[-1])
    return problems


@contextmanager
def _naming_failures(ray: Any) -> Iterator[None]:
    """What failed in another process, as ours."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        # our own errors are one line for the user; of others Ray's text holds the traceback
        raise ProcessError(str(cause if isinstance(cause, IgkdError) else error)) from error


@contextmanager
def _asked() -> Iterator[list[signal.Signals]]:
    """Within, the first SIGTERM or SIGINT is put down in the list, a second one interrupts."""
    heard: list[signal.Signals] = []

    def hear(number: int, _frame: Any) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(signal.Signals(number))

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, hear) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Within, what the package logs in this process is appended to a file."""
    with StorageError.when_writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package = logging.getLogger("igkd_search")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
