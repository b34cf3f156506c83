"""What is installed, and each device: broken ones are findings, whatever way they break."""

from importlib import metadata
from pathlib import Path

import pytest

from igkd_search import installation
from igkd_search.findings import Finding
from tests import stub_torch


def found_by_name() -> dict[str, Finding]:
    return {one.name: one for one in installation.examine()}


@pytest.fixture(autouse=True)
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_torch.install(tmp_path, monkeypatch)


def requiring(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: list(lines))


def test_a_good_installation_has_no_fault() -> None:
    found = found_by_name()
    assert {one.state for one in found.values()} == {"ok"}
    assert metadata.version("optuna") in found["packages"].found
    assert found["torch"].found == "9.9.0, built for CUDA 13.9"
    assert found["torchvision"].found == "8.8.0"
    assert "cores" in found["cpu"].found


def test_every_card_is_named_with_its_identity_and_memory() -> None:
    found = found_by_name()
    assert found["cuda:0"].found == "Card 0, GPU-u-0, capability 9.0, 70 of 80 GB free"
    assert "GPU-u-1" in found["cuda:1"].found


def test_a_card_that_cannot_compute_is_a_fault_beside_one_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_torch.install(tmp_path, monkeypatch, {"cuda:1": "no kernel image is available"})
    found = found_by_name()
    assert found["cuda:0"].state == "ok"
    assert found["cuda:1"].state == "fault" and "no kernel image" in found["cuda:1"].found


def test_a_card_that_others_have_filled_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_torch.install(tmp_path, monkeypatch, free=(1_000_000_000, 70_000_000_000))
    found = found_by_name()
    assert found["cuda:0"].state == "warning" and "nvidia-smi" in found["cuda:0"].advice
    assert found["cuda:1"].state == "ok"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('operator nms does not exist')", "operator nms does not exist"),
        ("import a_library_that_is_not_there", "No module named 'a_library_that_is_not_there'"),
    ],
)
def test_a_torchvision_of_another_torch_is_a_fault_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    stub_torch.install(tmp_path, monkeypatch, vision=code)
    found = found_by_name()
    assert found["torchvision"].state == "fault" and reason in found["torchvision"].found
    assert found["torch"].state == found["cuda:0"].state == "ok"


def test_a_torch_that_cannot_be_imported_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_torch.install(tmp_path, monkeypatch, torch="raise OSError('libcudart.so: no such file')")
    found = found_by_name()
    assert found["torch"].state == "fault" and "libcudart.so" in found["torch"].found
    assert "pip install" in found["torch"].advice


def test_a_torch_that_takes_its_process_with_it_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_torch.install(tmp_path, monkeypatch, torch="import os; os.kill(os.getpid(), 11)")
    found = found_by_name()
    assert found["torch"].state == "fault" and "-11" in found["torch"].found


def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_torch.install(tmp_path, monkeypatch, torch="import threading; threading.Event().wait()")
    monkeypatch.setattr(installation, "_PROBE_SECONDS", 0.5)
    found = found_by_name()
    assert found["torch"].state == "fault" and "timed out" in found["torch"].found


def test_packages_that_are_absent_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    requiring(monkeypatch, "optuna>=99", "a-package-that-is-not", 'ray; extra == "ray"')
    packages = found_by_name()["packages"]
    assert packages.state == "fault"
    assert f"optuna>=99 ({metadata.version('optuna')})" in packages.found
    assert "a-package-that-is-not (not there)" in packages.found


def test_an_extra_that_is_not_there_is_no_fault_but_says_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requiring(monkeypatch, "optuna", 'ray-that-is-not; extra == "ray"', 'pytest; extra == "slurm"')
    found = found_by_name()
    assert (found["ray"].state, found["slurm"].state) == ("ok", "ok")
    assert "igkd-search[ray]" in found["ray"].found and "--launcher ray" in found["ray"].found
    assert found["slurm"].found == f"pytest {metadata.version('pytest')}"


def test_a_checkout_that_is_not_installed_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "DISTRIBUTION", "igkd-that-is-not")
    packages = found_by_name()["packages"]
    assert packages.state == "fault" and "igkd-that-is-not" in packages.found
