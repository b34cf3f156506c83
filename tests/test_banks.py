"""What both banks promise: a permuted or damaged one reaches no trial, a killed build goes on."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from igkd_search import attribution, logits_bank, overlay_bank, shards
from igkd_search.errors import MaterialError
from igkd_search.vault import Vault
from tests import tiny
from tests.made import CPU, OPTIONS, Made

Bank = Callable[[Vault], NDArray[Any]]


def logits_of(made: Made) -> Bank:
    return lambda store: logits_bank.obtain(made.data, made.network, "n", store, CPU).logits


def maps_of(made: Made) -> Bank:
    return lambda store: overlay_bank.obtain(OPTIONS, made.data, made.network, "n", store, CPU).maps


BANKS = pytest.mark.parametrize(
    ("bank", "kind", "name"),
    [(logits_of, "targets", "logits"), (maps_of, "overlays", "maps")],
    ids=["logits", "maps"],
)


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    """What the vault said; maps of two steps are warned of as well."""
    return [record.levelno for record in caplog.records if record.name == "igkd_search.vault"]


def roll(rows: NDArray[Any]) -> NDArray[Any]:
    return np.roll(rows, 1, axis=0)


def shuffle(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[np.random.default_rng(3).permutation(len(rows))]


@BANKS
@pytest.mark.parametrize("permute", [roll, shuffle])
def test_a_permuted_bank_fails_the_build_and_nothing_is_kept(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
    permute: Callable[[NDArray[Any]], NDArray[Any]],
) -> None:
    fill = shards.fill

    def permuted(folder: Path, name: str, *arguments: Any) -> None:
        fill(folder, name, *arguments)
        path = folder / f"{name}.npy"
        np.save(path, permute(np.load(path)))

    monkeypatch.setattr(shards, "fill", permuted)
    with pytest.raises(MaterialError, match="it is not about these images"):
        bank(made)(Vault(tmp_path))
    assert [path.suffix for path in (tmp_path / kind).iterdir()] == [".lock"]


@BANKS
def test_a_bank_permuted_after_it_was_built_is_found_when_it_is_opened(
    made: Made,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    # permuted before it was sealed, as an older version with a fault would: checksums hold
    fill, folder = shards.fill, tmp_path / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits_bank, "verify", lambda *arguments: None)
        patch.setattr(overlay_bank, "verify", lambda *arguments: None)

        def permuted(folder: Path, name: str, *arguments: Any) -> None:
            fill(folder, name, *arguments)
            np.save(folder / f"{name}.npy", roll(np.load(folder / f"{name}.npy")))

        patch.setattr(shards, "fill", permuted)
        wrong = bank(made)(Vault(folder))
    expected = getattr(made, name)
    assert not np.array_equal(wrong, expected)
    np.testing.assert_array_equal(bank(made)(Vault(folder)), expected)
    assert levels(caplog) == [logging.WARNING]
    assert "it is not about these images" in caplog.text


@BANKS
def test_a_damaged_bank_is_built_again_with_a_warning(
    made: Made,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    bank(made)(Vault(tmp_path))
    (path,) = tmp_path.rglob(f"{name}.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(bank(made)(Vault(tmp_path)), getattr(made, name))
    assert levels(caplog) == [logging.WARNING]
    assert f"{name}.npy does not match its checksum" in caplog.text


@BANKS
def test_a_killed_build_goes_on_at_its_last_shard(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    # shards of 10 images, of which two are finished when the process dies
    pixels = 10 * tiny.SIZE**2 * made.data.views.count
    monkeypatch.setattr(logits_bank, "_SHARD_PIXELS", {"cpu": pixels})
    monkeypatch.setattr(overlay_bank, "_SHARD_ROWS", 10)
    monkeypatch.setattr(overlay_bank, "_FASTEST_PIXELS", {"cpu": 10 * OPTIONS.steps * tiny.SIZE**2})
    expected = bank(made)(Vault(tmp_path / "whole"))
    fill, computed, deaths = shards.fill, list[int](), list[str]()

    def watched(
        folder: Path, name: str, shape: Any, dtype: Any, rows: int, compute: Any, advance: Any
    ) -> None:
        def noted(start: int, stop: int) -> NDArray[Any]:
            computed.extend(range(start, stop))
            found: NDArray[Any] = compute(start, stop)
            return found

        def killing(rows: int) -> None:
            advance(rows)
            if len(computed) == 20 and not deaths:
                deaths.append("killed")
                raise KeyboardInterrupt

        fill(folder, name, shape, dtype, rows, noted, killing)

    monkeypatch.setattr(shards, "fill", watched)
    with pytest.raises(KeyboardInterrupt):
        bank(made)(Vault(tmp_path / "killed"))
    assert computed == list(range(20))
    found = bank(made)(Vault(tmp_path / "killed"))
    assert computed == list(range(tiny.TRAIN))
    np.testing.assert_array_equal(found, expected)


@BANKS
def test_a_bank_is_computed_once(
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(shards, "fill", refuse)
    np.testing.assert_array_equal(bank(made)(Vault(made.store.root)), getattr(made, name))


@BANKS
@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {}], ids=["data", "teacher"])
def test_other_data_or_another_teacher_is_another_bank(
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    bank: Callable[[Made], Bank],
    kind: str,
    name: str,
    change: dict[str, str],
) -> None:
    folder = made.store.root / kind
    before = set(folder.iterdir())
    data = replace(made.data, **change)  # type: ignore[arg-type]
    digest = "n" if change else f"m-{kind}"
    if kind == "targets":
        logits_bank.obtain(data, made.network, digest, made.store, CPU)
    else:
        overlay_bank.obtain(OPTIONS, data, made.network, digest, made.store, CPU)
    assert len(set(folder.iterdir()) - before) == 2  # the entry and its lock


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_banks_built_on_a_gpu_are_those_of_the_cpu(made: Made, tmp_path: Path) -> None:
    device, store = torch.device("cuda"), Vault(tmp_path)
    network = copy.deepcopy(made.network).to(device)
    logits = logits_bank.obtain(made.data, network, "n", store, device).logits
    np.testing.assert_allclose(logits, made.logits, rtol=2e-3, atol=2e-3)
    maps = overlay_bank.obtain(OPTIONS, made.data, network, "n", store, device).maps
    alike = attribution.correlate(torch.tensor(maps), torch.tensor(made.maps))
    assert alike.min() > 0.99
