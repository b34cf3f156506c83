"""Several workers on this machine: the materials prepared in front, then a process each, watched.

Each is `igkd worker` with a log of its own. This process trains nothing and does not import torch.
"""

import logging
import sys

from igkd_search import output_options, spectator, stages
from igkd_search.crew import Crew, Order
from igkd_search.errors import ProcessError
from igkd_search.processes import Job, in_front
from igkd_search.supervisor import Supervisor

log = logging.getLogger(__name__)

IGKD = (sys.executable, "-m", "igkd_search")


def search(order: Order, crew: Crew) -> str:
    """Prepare the materials, then keep the workers running until the budget is spent.

    Returns why it ended: "budget", or in words who or what had it end before. Ends this process
    with the exit code of `igkd prepare` when that fails. ProcessError when workers die again and
    again.
    """
    stops = spectator.stops_so_far(order.url, order.name)
    with order.in_environment():
        _prepare(order, crew)
        spectator.check_room(order.url, crew.workers)
        supervisor = Supervisor(jobs(order, crew, stops))
        log.info("%d workers; their logs are in %s", crew.workers, order.logs)
        with stages.display(["trials"]), stages.stage("trials", unit="trials") as stage:
            watched = spectator.Spectator(order.url, order.question, stage, stops)
            try:
                supervisor.run(watched.look)
            except ProcessError as error:
                if watched.ending() != "budget":
                    raise
                log.warning("%s", error)  # the others did its part
            ended = watched.ending()
            watched.close()
    return supervisor.asked.name if supervisor.asked and ended != "budget" else ended


def jobs(order: Order, crew: Crew, stops: int, first: int = 0) -> list[Job]:
    """One `igkd worker` each, numbered from `first`, on the crew's GPUs one after the other."""
    # by its name, since the file may be edited while workers are started again
    command = (*IGKD, "worker", order.name, *_options(order))
    shared = {
        "IGKD_STOPS": str(stops),
        "IGKD_WORKERS": str(crew.workers),
        "PYTHONFAULTHANDLER": "1",  # a crash of the interpreter leaves a traceback in the log
    }
    return [
        Job(
            f"worker-{number}",
            command,
            order.logs / f"worker-{number}.log",
            {**shared, **seen},
        )
        for number, seen in enumerate(crew.environments(), first)
    ]


def prepare_job(order: Order, crew: Crew) -> Job:
    """`igkd prepare` on the first GPU of the crew."""
    budget = () if order.trials is None else ("--trials", str(order.trials))
    command = (*IGKD, "prepare", order.study, *_options(order), *budget)
    return Job("prepare", command, order.logs / "prepare.log", crew.environments()[0])


def _prepare(order: Order, crew: Crew) -> None:
    job = prepare_job(order, crew)
    code = in_front(job.command, job.environment)
    if code != 0:  # it has said why
        raise SystemExit(code if code > 0 else 128 - code)


def _options(order: Order) -> tuple[str, ...]:
    data = () if order.data is None else ("--data", str(order.data))
    device = () if order.device is None else ("--device", order.device)
    return ("--home", str(order.home), *data, *device, *output_options.typed())
