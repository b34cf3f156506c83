"""The test part stays shut until it must be opened, and every model reads it once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from igkd_search import datasets, held_out, materials, spec, training
from igkd_search.held_out import Candidate
from tests import tiny


@pytest.fixture
def read(
    study: spec.Study,
    shared: materials.Materials,
    stock: training.Stock,
    home: Path,
    tmp_path: Path,
) -> Callable[..., dict[str, Any]]:
    """Have candidates read the tiny test part."""

    def reading(*candidates: Candidate) -> dict[str, Any]:
        return held_out.read(candidates, study.data, shared.data, stock.reader, tmp_path, home)

    return reading


@pytest.fixture
def candidate(tmp_path: Path) -> Callable[..., Candidate]:
    """A model that answers class 1 to every image, and notes what it was given."""

    def made(name: str, seen: list[Any] | None = None) -> Candidate:
        folder = tmp_path / name
        folder.mkdir()

        def answer(images: Tensor, pixels: Any) -> Tensor:
            if seen is not None:
                seen.append((images, pixels))
            logits = torch.zeros(len(images), tiny.CLASSES)
            logits[:, 1] = 1
            return logits

        return Candidate(folder, answer, lambda part: {"more": len(part.labels)})

    return made


def test_answers_are_kept_with_what_they_are_worth(
    read: Callable[..., dict[str, Any]], candidate: Callable[..., Candidate]
) -> None:
    one = candidate("one")
    test = read(one)
    assert (test["images"], test["duplicates"]) == (tiny.TEST, 0)
    found = one.answers()
    assert found["reads"] == 1 and found["more"] == tiny.TEST
    assert found["predictions"] == [1] * tiny.TEST
    assert found["accuracy"] == test["labels"].count(1) / tiny.TEST
    assert found["confidence"] == [pytest.approx(np.e / (np.e + 2), abs=1e-4)] * tiny.TEST


def test_models_get_the_pixels_and_the_same_normalised(
    read: Callable[..., dict[str, Any]],
    candidate: Callable[..., Candidate],
    stock: training.Stock,
    arrays: Path,
) -> None:
    seen: list[Any] = []
    read(candidate("one", seen))
    images, pixels = torch.cat([one for one, _ in seen]), np.concatenate([two for _, two in seen])
    assert np.array_equal(pixels, np.load(arrays / "test_images.npy"))
    mean, sd = (values[:, None, None] for values in (stock.reader.mean, stock.reader.sd))
    assert torch.allclose(images * sd + mean, torch.tensor(np.array(pixels)) / 255, atol=1e-6)


def test_who_has_answered_is_not_asked_again_and_the_test_part_stays_shut(
    read: Callable[..., dict[str, Any]],
    candidate: Callable[..., Candidate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    one, other = candidate("one", seen), candidate("other")
    first = read(one)
    assert read(one, other) == first
    assert len(seen) == 1 and one.answers()["reads"] == other.answers()["reads"] == 1

    def refuse(*arguments: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(datasets, "load_test", refuse)
    assert read(one, other) == first


def test_a_reading_is_counted_before_the_answers(
    read: Callable[..., dict[str, Any]], candidate: Callable[..., Candidate], tmp_path: Path
) -> None:
    one = candidate("one")

    def die(images: Tensor, pixels: Any) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(Candidate(one.folder, die))
    assert json.loads((one.folder / held_out.READS).read_text()) == 1
    read(one)
    assert one.answers()["reads"] == 2


def test_models_are_asked_in_chunks_that_the_device_can_hold(
    read: Callable[..., dict[str, Any]],
    candidate: Callable[..., Candidate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("igkd_search.evaluation.chunk_of", lambda device, pixels: 10)
    one = candidate("one", seen)
    read(one)
    assert [len(images) for images, _ in seen] == [10, 10, 4]
    assert len(one.answers()["predictions"]) == tiny.TEST
