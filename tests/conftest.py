"""What every test gets: one thread, the CPU, no home or storage of the developer's; tiny materials.

The fixtures are of the whole session, that is of one test process: what they hold is read, never
changed, and a test that changes it takes a copy. So files may run in any order and any process.
"""

import gc
import importlib
import io
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from igkd_search import console, spec
from tests import tiny

if TYPE_CHECKING:
    from igkd_search import database, materials, training
    from tests.made import Made


def pytest_configure() -> None:
    """Set the environment of the tests and of the processes that they start."""
    # before torch is imported: results depend on the thread count, and tests share their cores
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["IGKD_DEVICE"] = "cpu"
    for name in ("IGKD_HOME", "IGKD_STORAGE", "IGKD_DATA", "IGKD_COMPILE", "OPTUNA_STORAGE"):
        os.environ.pop(name, None)
    # a shell that runs the tests in its background has Ctrl-C ignored, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOWEST = [
    "end_to_end/test_digits.py",
    "test_launch.py",
    "test_cli.py",
    "faults/test_kills.py",
    "faults/test_outages.py",
    "faults/test_frozen.py",
    "test_worker.py",
    "faults/test_leaving.py",
    "test_local_workers.py",
    "test_ray_workers.py",
    "test_slurm_workers.py",
    "test_compiling.py",
    "test_training.py",
    "test_pool.py",
    "faults/test_budgets.py",
    "faults/test_prepare.py",
    "faults/test_run.py",
    "test_benchmarks.py",
]
"""Files that take more than 20 s, the slowest first: none is begun when the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slowest files begin, so that two processes end at nearly the same time."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """Leave all that was imported out of garbage collections, of which memory tests ask many."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clear it at its end; libraries report on standard error what is left."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Put the package's log back, which a command that is typed in this process takes over."""
    package = logging.getLogger("igkd_search")
    handlers, level, propagate = package.handlers[:], package.level, package.propagate
    others = logging.getLogger("optuna").handlers[:]
    yield
    package.handlers[:], package.propagate = handlers, propagate
    # not by its attribute: the loggers of the modules remember what they were allowed to say
    package.setLevel(level)
    logging.getLogger("optuna").handlers[:] = others
    logging.captureWarnings(False)
    console.choose(console.Loudness())


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages bring architectures: `own(my_net="package:object")`."""

    def install(**entries: str) -> None:
        def entry_points(*, group: str) -> list[metadata.EntryPoint]:
            return [metadata.EntryPoint(name, value, group) for name, value in entries.items()]

        monkeypatch.setattr(metadata, "entry_points", entry_points)

    return install


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny data set."""
    return tiny.write_arrays(tmp_path_factory.mktemp("tiny") / "arrays")


@pytest.fixture(scope="session")
def study(arrays: Path) -> spec.Study:
    """The tiny study, whose targets are a bank."""
    return tiny.study(arrays)


@pytest.fixture(scope="session")
def home(study: spec.Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder of the tiny study, whose vault holds its materials and nothing else."""
    import torch

    from igkd_search import materials

    # all test processes build into one folder, of which the vault lets one build and others wait
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    built = materials.prepare(study, common / "materials", torch.device("cpu"))
    found = tmp_path_factory.mktemp("home")
    for name in built.entries:
        shutil.copytree(common / "materials" / "vault" / name, found / "vault" / name)
    yield found
    manifests = (found / "vault").glob("*/*/manifest.json")
    entries = {str(path.parent.relative_to(found / "vault")) for path in manifests}
    changed = entries ^ {*built.entries}
    assert not changed, f"a test changed the home of the session instead of a copy: {changed}"


@pytest.fixture(scope="session")
def shared(study: spec.Study, home: Path) -> "materials.Materials":
    """The materials of the tiny study."""
    import torch

    from igkd_search import materials

    return materials.prepare(study, home, torch.device("cpu"))


@pytest.fixture(scope="session")
def stock(shared: "materials.Materials", study: spec.Study) -> "training.Stock":
    """The materials of the tiny study as trials read them."""
    import torch

    from igkd_search import training

    return training.Stock.of(shared, study, torch.device("cpu"))


@pytest.fixture(scope="session")
def made(shared: "materials.Materials", tmp_path_factory: pytest.TempPathFactory) -> "Made":
    """Both banks of the tiny study, in a vault of their own."""
    from igkd_search import vault
    from tests.made import make

    return make(shared, vault.Vault(tmp_path_factory.mktemp("made")))


@pytest.fixture(scope="session")
def searched(
    study: spec.Study,
    home: Path,
    shared: "materials.Materials",
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The home folder of the tiny study after a search of two trials, its database in it."""
    from igkd_search import database, launch

    found = tmp_path_factory.mktemp("searched") / "home"
    shutil.copytree(home, found)
    base = database.connect(f"sqlite:///{found / 'igkd.db'}")
    launch.search(base, study, found, trials=2)
    base.close()
    return found


@pytest.fixture
def mine(searched: Path, tmp_path: Path) -> "Iterator[tuple[database.Database, Path]]":
    """A copy of the finished tiny study that a test may change: the database and its home."""
    from igkd_search import database

    home = Path(shutil.copytree(searched, tmp_path / "home"))
    opened = database.connect(f"sqlite:///{home / 'igkd.db'}")
    yield opened, home
    opened.close()


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of benchmarks/ by its name; what lies there finds its neighbours like a script."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


@pytest.fixture
def own_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No consoles of other tests, none of the developer's wishes; what is shown ends in time."""
    from igkd_search import console, stages

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "_consoles", {})
    yield
    assert stages._display is None and stages._planned == {}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal in place of standard error is sent."""
    from rich.console import Console

    from igkd_search import console

    seen = io.StringIO()
    terminal = Console(file=seen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setitem(console._consoles, "stderr", terminal)
    return seen
