"""Workers as tasks of a SLURM job array, one a GPU, through submitit.

A task starts `igkd worker` as a child, as this machine's launcher does, and requeues itself when it
is preempted or its time is up: its workers leave after their epoch, and go on when it runs again.
submitit is an extra, so it is imported when it is needed.
"""

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from igkd_search import database, local_workers, registry, spectator, stages
from igkd_search.crew import Crew, Order
from igkd_search.errors import ProcessError, StudyError, reason_of
from igkd_search.processes import Job, last_words
from igkd_search.supervisor import KILL_AFTER, MAX_DEATHS, Supervisor

log = logging.getLogger(__name__)

CLUSTER = "IGKD_SLURM_CLUSTER"
"""slurm, or local: processes on this machine in place of tasks, to try a command out."""
TIMEOUTS = 1_000_000
"""So often a task is requeued when its time is up: until the budget is spent."""
MINUTES = 240
"""How long a task runs before it is requeued, by default: short ones start sooner."""
_MEANT_FOR_US = {signal.SIGUSR1, signal.SIGUSR2}
"""What submitit asks SLURM for before a task's time is up; unmasked, it would kill a worker."""
_POLL_SECONDS = 2.0
_LEAVING_POLLS = 30
_SHARED = {"timeout_min", "cpus_per_task", "mem_gb", "gpus_per_node", "stderr_to_stdout"}
"""Parameters that are called the same on every cluster; all others are SLURM's own."""


class Task:
    """One task: children kept running until they end; made anew when it is requeued.

    It is pickled into a file, so no password stands in it: `storage` says where the database is
    where that takes none, else the task's environment does, which SLURM takes from ours.
    """

    def __init__(
        self, jobs: Sequence[Job], storage: str | None, max_deaths: int = MAX_DEATHS
    ) -> None:
        self.jobs = list(jobs)
        self.storage = storage
        self.max_deaths = max_deaths

    def __call__(self) -> None:
        """Run to the end; ProcessError when children die again and again."""
        if self.storage is not None:
            os.environ["IGKD_STORAGE"] = self.storage
        self._supervisor = Supervisor(self.jobs, max_deaths=self.max_deaths)
        self._ended, problems = threading.Event(), list[BaseException]()

        def run() -> None:
            # SLURM tells all processes of a step what is meant for this one; children inherit this
            signal.pthread_sigmask(signal.SIG_BLOCK, _MEANT_FOR_US)
            try:
                self._supervisor.run()
            except BaseException as error:
                problems.append(error)
            finally:
                self._ended.set()

        # signals are submitit's, whose handler runs in this thread while it waits
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join()
        if problems:
            raise problems[0]

    def checkpoint(self) -> Any:
        """Have the children leave, and say what is to be run when the task is requeued."""
        import submitit

        self._supervisor.ask(signal.SIGTERM)
        self._ended.wait(KILL_AFTER + 10)
        return submitit.helpers.DelayedSubmission(Task(self.jobs, self.storage, self.max_deaths))


def search(order: Order, crew: Crew) -> str:
    """Prepare the materials in a task, then submit the workers and wait for the budget to be spent.

    Returns why it ended: "budget", or in words who or what had it end before. What is submitted
    goes on when this process is interrupted. ProcessError when tasks failed; StudyError when
    submitit refuses.
    """
    if os.environ.get(CLUSTER, "slurm") == "slurm":
        database.check_shared(order.url, "the tasks of SLURM")
    stops = spectator.stops_so_far(order.url, order.name)
    order = dataclasses.replace(order, home=order.home.absolute())
    with stages.display(["slurm", "trials"]), order.in_environment():
        executor = _executor(order, crew)
        _begin(executor, order, crew)
        spectator.check_room(order.url, crew.workers)
        tasks = [_workers(order, crew, stops, i) for i in range(crew.workers // _own(crew))]
        with stages.stage("slurm", note="submitting") as stage:
            with _naming_refusals(), executor.batch():
                submitted = [executor.submit(task) for task in tasks]
            stage.advance(0, f"{len(tasks)} tasks, {submitted[0].job_id} and on")
        log.info("they go on without this command: igkd status, igkd stop %s", order.name)
        with stages.stage("trials", unit="trials") as stage:
            watched = spectator.Spectator(order.url, order.question, stage, stops)
            try:
                problems = follow(submitted, watched.look, lambda: watched.finished)
            except KeyboardInterrupt:
                watched.close()
                return (
                    "this command alone was interrupted: its tasks go on, so do not type it again; "
                    f"'igkd status {order.name}' shows them, 'igkd stop {order.name}' ends them"
                )
            ended = watched.ending()
            watched.close()
    if problems and ended != "budget":
        raise ProcessError("\n".join(problems))
    return ended


def follow(
    submitted: Sequence[Any],
    look: Callable[[], None],
    finished: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Wait until every task has ended; what went wrong in some.

    Once the budget is spent, tasks that wait in the queue are cancelled and nobody waits for long.
    """
    waiting, polls = list(submitted), 0
    while waiting and polls < _LEAVING_POLLS:
        look()
        waiting = [job for job in waiting if not job.done()]
        if finished():
            polls += 1
            for job in [job for job in waiting if job.state == "PENDING"]:
                job.cancel(check=False)
                waiting.remove(job)
        if waiting:
            sleep(_POLL_SECONDS)
    return [_problem(job) for job in submitted if job.done() and job.exception() is not None]


def _workers(order: Order, crew: Crew, stops: int, number: int) -> Task:
    """The task of one GPU, or of one worker without."""
    own = _own(crew)
    jobs = local_workers.jobs(order, dataclasses.replace(crew, workers=own), stops, number * own)
    return Task(jobs, order.storage)


def _own(crew: Crew) -> int:
    """How many workers a task has."""
    return crew.per_gpu or 1


def _begin(executor: Any, order: Order, crew: Crew) -> None:
    """Have the study and its budget in the database; its materials too, unless it has begun."""
    if registry.resume(order.url, order.question, order.trials):
        return
    job = local_workers.prepare_job(order, crew)
    with stages.stage("prepare", note=f"in a task; its log: {job.log}"):
        with _naming_refusals():
            submitted = executor.submit(Task([job], order.storage, max_deaths=1))
        problems = follow([submitted], lambda: None, lambda: False)
    if problems:
        raise ProcessError(problems[0])


def _executor(order: Order, crew: Crew) -> Any:
    import submitit

    with _naming_refusals():
        executor = submitit.AutoExecutor(
            folder=order.logs / "slurm",
            cluster=os.environ.get(CLUSTER, "slurm"),
            slurm_max_num_timeout=TIMEOUTS,
        )
        asked = {
            key if key in _SHARED else f"slurm_{key}": int(value) if value.isdigit() else value
            for key, value in crew.parameters.items()
        }
        gpus = {"gpus_per_node": 1} if crew.per_gpu else {}
        defaults = {"name": f"igkd-{order.name}", "timeout_min": MINUTES, "tasks_per_node": 1}
        executor.update_parameters(**{**defaults, **gpus, **asked})
    return executor


@contextmanager
def _naming_refusals() -> Iterator[None]:
    """What submitit or SLURM says of a parameter or of this machine, as the user's to mend."""
    import submitit

    refusals = (RuntimeError, ValueError, NameError, TypeError)
    try:
        yield
    except (*refusals, submitit.core.utils.FailedJobError) as error:
        raise StudyError(f"--launcher slurm: {reason_of(error)}") from error


def _problem(job: Any) -> str:
    stderr = job.paths.stderr
    return f"task {job.job_id} failed; its log: {stderr}\n{last_words(stderr)}".rstrip()
