"""Names of networks are known without importing torch or anybody's package."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torchvision.models import list_models

from igkd_search import architectures, models

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT: set[str] = set()
"""torchvision's classifiers that cannot be built or trained here, each with its reason; none."""


def test_the_names_are_all_classifiers_of_torchvision() -> None:
    listed = set(list_models(module=torchvision.models))
    assert set(architectures.TORCHVISION) == listed - LEFT_OUT
    assert len(set(architectures.TORCHVISION)) == len(architectures.TORCHVISION)


def test_own_architectures_are_listed_without_being_imported(own: Callable[..., None]) -> None:
    own(second="no_such_package:net", first="no_such_package.deep:make")
    assert [entry.name for entry in architectures.own()] == ["first", "second"]
    assert architectures.origin("first") == "no_such_package.deep:make"
    assert architectures.origin("resnet18") is None


def test_the_group_is_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        asked.append(group)
        return []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    assert architectures.own() == []
    assert asked == ["igkd_search.architectures"]


def test_a_study_is_checked_without_torch() -> None:
    code = "import sys; import igkd_search.spec as s; s.Teacher(architecture='resnet18'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_example_of_the_documentation_keeps_the_contract() -> None:
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (table,) = re.findall(r"```toml\n(\[build-system\].*?)```", text, re.DOTALL)
    project = tomllib.loads(table)["project"]
    assert project["entry-points"] == {architectures.GROUP: {"my_net": "my_nets:my_net"}}
    names: dict[str, Any] = {}
    exec(compile(code, "my_nets.py", "exec"), names)
    network = names["my_net"](5, 0.5)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    cut = models.blocks(network)
    assert cut is not None and len(cut) == 3
    assert network.features(torch.zeros(2, 3, 8, 8)).ndim == 4
