"""What the options of one command ask for, and which of them contradict each other."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from igkd_search import crew, registry
from igkd_search.crew import Crew, Launcher, Order
from igkd_search.errors import StudyError


def asked(**options: Any) -> Crew | None:
    plain: dict[str, Any] = dict.fromkeys(("launcher", "named_gpus", "per_gpu", "workers"))
    return crew.asked(**{**plain, **options})


def order(url: str = "sqlite:////tmp/x.db", **options: Any) -> Order:
    told = {"trials": None, "storage": url, "home": Path("home"), "data": None, "device": None}
    return Order("digits", registry.find("digits"), url=url, **{**told, **options})


@pytest.fixture(autouse=True)
def no_gpus_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_options_it_is_one_worker_in_its_own_process() -> None:
    assert asked() is None
    assert asked(launcher=Launcher.local, device="cpu") is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"workers": 1}, Crew(Launcher.local, 1)),
        ({"workers": 3, "device": "cpu"}, Crew(Launcher.local, 3)),
        ({"named_gpus": "0,1"}, Crew(Launcher.local, 2, 1, ("0", "1"))),
        ({"named_gpus": "0", "device": "cuda"}, Crew(Launcher.local, 1, 1, ("0",))),
        ({"named_gpus": "0,MIG-1", "per_gpu": 3}, Crew(Launcher.local, 6, 3, ("0", "MIG-1"))),
        ({"launcher": Launcher.ray, "workers": 2}, Crew(Launcher.ray, 2)),
        ({"launcher": Launcher.ray, "named_gpus": "4", "per_gpu": 2}, Crew(Launcher.ray, 8, 2)),
        (
            {"launcher": Launcher.slurm, "named_gpus": "4", "slurm": ["partition=gpu", "time=60"]},
            Crew(Launcher.slurm, 4, 1, parameters={"partition": "gpu", "time": "60"}),
        ),
    ],
)
def test_a_crew_is_as_large_as_its_gpus_and_who_shares_them(
    options: dict[str, Any], expected: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert asked(**options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_gpu": 2}, "of which GPUs"),
        ({"per_gpu": 2, "workers": 2}, "of which GPUs"),
        ({"named_gpus": "0", "workers": 2}, "one of them; --gpus 0,1 --workers-per-gpu 2"),
        ({"named_gpus": "0", "device": "cpu"}, "--gpus and --device cpu: one of them"),
        ({"named_gpus": "zero"}, "'zero' is no GPU; allowed"),
        ({"slurm": ["partition=gpu"]}, "only with --launcher slurm"),
        ({"launcher": Launcher.ray}, "--launcher ray: how many"),
        ({"launcher": Launcher.slurm}, "--launcher slurm: how many"),
        ({"launcher": Launcher.ray, "named_gpus": "0,1"}, "how many GPUs, such as --gpus 4"),
        ({"launcher": Launcher.slurm, "named_gpus": "0"}, "how many GPUs, such as --gpus 4"),
        ({"launcher": Launcher.slurm, "named_gpus": "all"}, "how many GPUs, such as --gpus 4"),
        ({"launcher": Launcher.slurm, "workers": 1, "slurm": ["gpu"]}, "must be KEY=VALUE"),
        ({"launcher": Launcher.slurm, "workers": 1, "slurm": ["a b=1"]}, "must be KEY=VALUE"),
        ({"launcher": Launcher.slurm, "workers": 1, "slurm": ["a="]}, "must be KEY=VALUE"),
    ],
)
def test_nonsense_is_refused(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(StudyError, match=message):
        asked(**options)


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named_with_what_to_type(
    launcher: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = rf"{package} is not installed; type pip install 'igkd-search\[{launcher}\]'"
    with pytest.raises(StudyError, match=message):
        asked(launcher=Launcher(launcher), workers=1)


@pytest.mark.parametrize("before", [None, "sqlite:///mine.db"])
def test_children_find_the_database_in_their_environment_for_as_long_as_it_takes(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IGKD_STORAGE", raising=False)
    if before is not None:
        monkeypatch.setenv("IGKD_STORAGE", before)
    with pytest.raises(ZeroDivisionError), order("sqlite:////tmp/y.db").in_environment():
        assert os.environ["IGKD_STORAGE"] == "sqlite:////tmp/y.db"
        raise ZeroDivisionError
    assert os.environ.get("IGKD_STORAGE") == before


def test_an_order_shows_no_password() -> None:
    url = "postgresql+psycopg://a:secret@host/db"
    assert "secret" not in repr(order(url, storage=None))
    assert order().logs == Path("home/logs/digits") and order().name == "digits"
