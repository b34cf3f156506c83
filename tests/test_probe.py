"""The real torch is asked once, in a process of its own; what it may be instead is in
test_installation."""

import json
import subprocess
import sys
from importlib import metadata

from tests.children import child


def test_torch_and_the_processor_are_reported() -> None:
    process = child("from igkd_search import probe; probe.main()")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = json.loads(said.splitlines()[-1])
    assert found["torch"]["version"].startswith(metadata.version("torch").partition("+")[0])
    assert "version" in found["torchvision"]
    processor = found["devices"][0]
    assert processor["name"] == "cpu" and processor["cores"] >= 1 and processor["bytes"] > 0


def test_it_imports_neither_torch_nor_optuna_before_it_is_asked() -> None:
    code = "import igkd_search.probe, sys; sys.exit(bool({'torch', 'optuna'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
