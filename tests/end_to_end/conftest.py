"""The digits study, run once for all tests here: by whichever process of them is first."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

from tests.end_to_end.user import Answer, Folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Minutes on two cores that nobody else uses; the limit only ends a hang."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Where the digits study is run."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent  # that of all test processes
    (common / "digits").mkdir(exist_ok=True)
    return Folder(common / "digits")


@pytest.fixture(scope="session")
def first(folder: Folder) -> Answer:
    """The main job, once."""
    kept = folder.path / "first.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(asdict(folder.igkd("run", "digits", "-f", "json"))))
    return Answer(**json.loads(kept.read_text()))
