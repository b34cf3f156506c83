"""Orders of pixels, and curves of a classifier whose every answer is known."""

import pytest
import torch
from torch import Tensor, nn

from igkd_search import deletion, evaluation

PIXELS = [4.0, 1.0, 3.0, 2.0]


class Sum(nn.Module):
    """Logits (0, the sum of all pixels): the probability of 1 is the sigmoid of the sum."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(total), total], dim=1)


@pytest.fixture
def image() -> Tensor:
    return torch.tensor(PIXELS).view(1, 1, 2, 2)


def curve(images: Tensor, order: Tensor, name: str) -> Tensor:
    labels = torch.ones(len(images), dtype=torch.int64)
    return deletion.curves(Sum().eval(), images, labels, torch.zeros_like(images), order, name)


def test_ranks_begin_with_the_largest_and_keep_the_place_of_equal_ones(image: Tensor) -> None:
    assert deletion.ranks(image[:, 0]).flatten().tolist() == [0, 3, 1, 2]
    assert deletion.ranks(torch.ones(1, 2, 2)).flatten().tolist() == [0, 1, 2, 3]


def test_an_order_by_chance_holds_every_place_and_follows_its_seed() -> None:
    shape = torch.Size((3, 4, 5))
    found = deletion.random_ranks(shape, 7)
    assert torch.equal(found.flatten(1).sort(1).values, torch.arange(20).expand(3, 20))
    assert torch.equal(found, deletion.random_ranks(shape, 7))
    assert not torch.equal(found, deletion.random_ranks(shape, 8))


def test_curves_by_hand(image: Tensor) -> None:
    # of four pixels a quarter is one: 4, 3, 2, 1 leave 10, 6, 3, 1, 0, and come as 0, 4, 7, 9, 10
    order = deletion.ranks(image[:, 0])
    quarters = [0, 5, 10, 15, 20]
    assert [deletion.FRACTIONS[step] for step in quarters] == [0, 0.25, 0.5, 0.75, 1]
    deleted = curve(image, order, "deletion")[0, quarters]
    torch.testing.assert_close(deleted, torch.tensor([10.0, 6, 3, 1, 0]).sigmoid())
    inserted = curve(image, order, "insertion")[0, quarters]
    torch.testing.assert_close(inserted, torch.tensor([0.0, 4, 7, 9, 10]).sigmoid())


def test_nothing_deleted_and_all_inserted_are_the_plain_answer() -> None:
    images = torch.randn(5, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    order = deletion.random_ranks(torch.Size((5, 6, 4)), 0)
    plain = evaluation.predict(Sum().eval(), images).softmax(1)[:, 1]
    empty = torch.full((5,), 0.5)
    for name, first, last in (("deletion", plain, empty), ("insertion", empty, plain)):
        found = curve(images, order, name)
        torch.testing.assert_close(found[:, 0], first)
        torch.testing.assert_close(found[:, -1], last)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(7, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    order = deletion.random_ranks(torch.Size((7, 4, 4)), 0)
    whole = curve(images, order, "deletion")
    monkeypatch.setattr(evaluation, "chunk_of", lambda device, pixels: 3)
    torch.testing.assert_close(curve(images, order, "deletion"), whole)


def test_areas_by_hand() -> None:
    flat = torch.full((1, deletion.INTERVALS + 1), 0.25)
    falling = 1 - torch.tensor(deletion.FRACTIONS)[None]
    torch.testing.assert_close(
        deletion.areas(torch.cat([flat, falling])), torch.tensor([0.25, 0.5]).double()
    )
