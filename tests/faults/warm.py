"""Imported by the process that all workers are forked from: what each of them would do first.

A trial is run on a database that is closed and removed again. It leaves behind what SQLAlchemy and
Optuna prepare once a process, more than half of what a worker's start costs otherwise.
"""

import logging
import tempfile
from contextlib import closing
from multiprocessing import Pipe
from pathlib import Path

from igkd_search import database, registry
from tests.faults import hired
from tests.faults.crew import study_of


def warm_up() -> None:
    """Work one trial off."""
    with tempfile.TemporaryDirectory() as folder:
        place, study = Path(folder), study_of()
        orders = hired.Orders(f"sqlite:///{folder}/igkd.db", study, place, place / "j", place / "l")
        with closing(database.connect(orders.url)) as base:
            registry.register(base, study)
            hired.worker_of(orders, base, hired.Way(orders, Pipe()[0])).run()


logging.disable()
warm_up()
logging.disable(logging.NOTSET)
