"""What a network answers, and scores of it that are worked by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igkd_search import augment, evaluation

CPU = torch.device("cpu")


class Rounds(nn.Module):
    """Logits are the means of the channels; it notes how large its batches are."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images.mean((2, 3))


def of_shares(*rows: list[float]) -> Tensor:
    """Logits whose softmax is these rows."""
    return torch.tensor(rows).log()


# --- scores


def test_scores_are_worked_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    found = evaluation.score(logits, labels)
    by_hand = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(sum(by_hand) / 3)
    # rows are the true class, columns the answer
    assert found.confusion == ((1, 0), (1, 1))
    assert evaluation.class_accuracy(found.confusion) == (1.0, 0.5)


def test_a_model_is_scored_by_what_it_says() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    images, labels = logits[:, :, None, None].expand(3, 2, 4, 4), torch.tensor([0, 1, 1])
    model = Rounds().eval()
    assert evaluation.evaluate(model, images, labels) == evaluation.score(logits, labels)
    evaluation.evaluate(model, images, labels, batch=2)
    assert model.batches == [3, 2, 1]


def test_a_class_without_images_has_no_accuracy_and_is_in_the_confusion() -> None:
    found = evaluation.score(
        of_shares([0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]), torch.tensor([0, 2, 2])
    )
    assert found.confusion == ((1, 0, 0), (0, 0, 0), (0, 1, 1))
    assert evaluation.class_accuracy(found.confusion) == (1.0, None, 0.5)
    assert sum(map(sum, found.confusion)) == 3
    assert all(type(count) is int for row in found.confusion for count in row)


def test_the_calibration_error_is_worked_by_hand() -> None:
    # bins of 1/15: 0.61 in [9/15, 10/15), 0.69 in [10/15, 11/15), 0.90 and 0.92 in [13/15, 14/15)
    shares = [[0.61, 0.39], [0.69, 0.31], [0.10, 0.90], [0.08, 0.92]]
    labels = torch.tensor([0, 1, 1, 0])
    right = [1, 0, 1, 0]
    one = abs(0.61 - right[0])
    two = abs(0.69 - right[1])
    three = abs((0.90 + 0.92) / 2 - (right[2] + right[3]) / 2)
    expected = 1 / 4 * one + 1 / 4 * two + 2 / 4 * three
    found = evaluation.score(of_shares(*shares), labels).calibration_error
    assert found == pytest.approx(expected, abs=1e-6)


def test_confidence_that_is_met_is_calibrated_and_boasting_is_not() -> None:
    rows = [[0.75, 0.25]] * 4
    met = evaluation.score(of_shares(*rows), torch.tensor([0, 0, 0, 1]))
    boasted = evaluation.score(of_shares(*rows), torch.tensor([1, 1, 1, 1]))
    assert met.calibration_error == pytest.approx(0, abs=1e-6)
    assert boasted.calibration_error == pytest.approx(0.75, abs=1e-6)


# --- predictions


def test_prediction_goes_in_chunks_without_a_gradient() -> None:
    model, images = Rounds().eval(), torch.randn(5, 2, 4, 4).double()
    found = evaluation.predict(model, images, batch=2)
    assert model.batches == [2, 2, 1]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not found.is_inference()
    torch.testing.assert_close(found, images.mean((2, 3)).float())
    assert torch.equal(evaluation.predict_each(model, torch.split(images, 3)), found)


def test_prediction_needs_eval_mode() -> None:
    with pytest.raises(AssertionError):
        evaluation.predict(Rounds().train(), torch.zeros(1, 2, 4, 4))


def test_autocast_does_not_round_what_a_network_answers() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(2, 3, 1), Rounds()).eval(), torch.randn(2, 2, 4, 4)
    plain = evaluation.predict(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(evaluation.predict(model, images), plain)


@pytest.mark.parametrize(
    ("device", "pixels", "expected"),
    [("cpu", 1024, 64), ("cpu", 10**9, 1), ("cuda", 1024, 2048), ("mps", 1024, 256)],
)
def test_a_chunk_is_as_large_as_suits_the_device(device: str, pixels: int, expected: int) -> None:
    assert evaluation.chunk_of(torch.device(device), pixels) == expected


def test_rows_are_scored_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, 3, 9))
    mean, sd = torch.tensor([0.1, 0.4, 0.7]), torch.tensor([0.2, 0.3, 0.4])
    reader = augment.Reader.of(images, None, augment.Views(1, flip=True), mean, sd)
    rows = torch.tensor([8, 2, 5, 6, 0])
    plain = (torch.from_numpy(images)[rows].float() / 255 - mean[:, None, None]) / sd[:, None, None]
    monkeypatch.setattr(evaluation, "_FORWARD_PIXELS", {"cpu": 2 * 16})
    model = Rounds().eval()
    found = evaluation.score_rows(model, reader, labels, rows)
    assert model.batches == [2, 2, 1]
    expected = evaluation.score(plain.mean((2, 3)), labels[rows])
    assert found.confusion == expected.confusion and sum(map(sum, found.confusion)) == 5
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
