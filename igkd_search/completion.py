"""What the shell may offer when Tab is pressed: studies, files, and the words that options take.

Somebody waits for it at a prompt. So nothing heavy is imported, a database is asked for names only,
and whatever goes wrong offers nothing and says nothing.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import typer

from igkd_search import shipped

SOURCES = ("arrays", "cifar10", "cifar100", "digits", "fashion_mnist", "folder", "svhn")
SAMPLERS = ("cmaes", "gp", "grid", "nsga2", "qmc", "random", "tpe")
PRUNERS = ("asha", "hyperband", "median", "none", "patient", "percentile", "threshold")
"""Those of `spec`, which takes longer to import than somebody wants to wait; a test compares."""
_NAMES = "SELECT study_name FROM igkd_studies ORDER BY study_name"
_ENVIRONMENT = ("IGKD_STORAGE", "IGKD_STORAGE_FILE", "OPTUNA_STORAGE")


def studies(context: typer.Context, incomplete: str) -> list[str]:
    """What STUDY may be: a study of the storage, a shipped one, a file."""
    found = [*stored(context), *shipped.studies()]
    unique = dict.fromkeys(name for name in found if name.startswith(incomplete))
    return [*unique, *study_files(incomplete)]


def stored_studies(context: typer.Context, incomplete: str) -> list[str]:
    """The studies of the storage."""
    return [name for name in stored(context) if name.startswith(incomplete)]


def sources(incomplete: str) -> list[str]:
    """What --source takes."""
    return [name for name in SOURCES if name.startswith(incomplete)]


def samplers(incomplete: str) -> list[str]:
    """What --sampler takes."""
    return [name for name in SAMPLERS if name.startswith(incomplete)]


def pruners(incomplete: str) -> list[str]:
    """What --pruner takes."""
    return [name for name in PRUNERS if name.startswith(incomplete)]


def networks(incomplete: str) -> list[str]:
    """What --teacher takes: classifiers of torchvision."""
    from igkd_search import architectures

    return [name for name in architectures.TORCHVISION if name.startswith(incomplete)]


def devices(incomplete: str) -> list[str]:
    """What --device takes, with the NVIDIA GPUs that have a device file."""
    there = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*"))
    names = ["cpu", "cuda", *(f"cuda:{number}" for number in there), "mps"]
    return [name for name in names if name.startswith(incomplete)]


def study_files(incomplete: str) -> list[str]:
    """TOML files that begin so, and the folders on the way to more."""
    folder, _, begun = incomplete.rpartition("/")
    found = []
    with suppress(OSError):
        for path in sorted(Path(f"{folder}/" if "/" in incomplete else ".").iterdir()):
            if not path.name.startswith(begun) or (path.name.startswith(".") and not begun):
                continue
            name = f"{folder}/{path.name}" if "/" in incomplete else path.name
            if path.is_dir() and begun + folder:
                found.append(f"{name}/")
            elif path.suffix == ".toml":
                found.append(name)
    return found


def stored(context: typer.Context) -> list[str]:
    """Names of the studies in the storage that the options and the environment mean; or none."""
    try:
        return _names(_url(context))
    except Exception:  # a database that is away, locked, or none of ours: nothing to offer
        return []


def _url(context: typer.Context) -> str:
    told = context.params.get("storage")
    storage = str(told or next(filter(None, map(os.environ.get, _ENVIRONMENT)), ""))
    if storage and "://" not in storage:  # the file that holds it
        lines = [line.strip() for line in Path(storage).read_text().splitlines()]
        return next(line for line in lines if line and not line.startswith("#"))
    home = context.params.get("home") or os.environ.get("IGKD_HOME") or "storage"
    return storage or f"sqlite:///{home}/igkd.db"


def _names(url: str) -> list[str]:
    if url.startswith("sqlite"):
        file = Path(re.sub(r"^sqlite(\+\w+)?:///", "", url).partition("?")[0]).absolute()
        uri = f"{file.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.2)) as base:
            return [str(name) for (name,) in base.execute(_NAMES)]
    import psycopg

    plain = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    with psycopg.connect(plain, connect_timeout=1, options="-c statement_timeout=1000") as server:
        return [str(name) for (name,) in server.execute(_NAMES)]
