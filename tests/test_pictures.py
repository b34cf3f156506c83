"""What is shown of a trial is what its very first step was trained on."""

from typing import Any

import numpy as np
import pytest
import torch

from igkd_search import (
    compiling,
    documents,
    lessons,
    materials,
    pictures,
    spec,
    training,
    trial_figures,
)

SEED = 11


def config_of(study: spec.Study, **fields: Any) -> spec.TrialConfig:
    return study.trial.model_copy(update={"kd_weight": 0.5, "epochs": 1, **fields})


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> list[tuple[lessons.Lesson, lessons.Knobs, int]]:
    """Fills with what the steps of a training are given."""
    given = list[tuple[lessons.Lesson, lessons.Knobs, int]]()

    def learn(model: Any, lesson: lessons.Lesson, knobs: lessons.Knobs, cutout: int) -> Any:
        given.append((lesson, knobs, cutout))
        return lessons.learn(model, lesson, knobs, cutout)

    use = training.Distillation.use

    def spy(task: training.Distillation, step: compiling.Step) -> None:
        use(task, step)
        task.learn = learn

    monkeypatch.setattr(training.Distillation, "use", spy)
    return given


@pytest.mark.parametrize("fields", [{}, {"cutout": 3, "alternating_flip": True}])
def test_the_lesson_is_that_of_the_first_step_of_the_training(
    study: spec.Study,
    stock: training.Stock,
    first: list[tuple[lessons.Lesson, lessons.Knobs, int]],
    fields: dict[str, Any],
) -> None:
    config = config_of(study, **fields)
    list(training.train(config, stock, SEED))
    lesson, knobs, cutout = first[0]
    ours = training.first_lesson(config, stock, SEED)
    for name in ("images", "maps", "chance", "labels"):
        assert torch.equal(getattr(ours, name), getattr(lesson, name)), name
    trained = lessons.see(lesson, knobs, cutout)
    assert torch.equal(lessons.see(ours, lessons.Knobs.of(config), config.cutout), trained)


def test_who_is_pictured_trains_to_the_same_record(
    study: spec.Study, stock: training.Stock
) -> None:
    config = config_of(study, epochs=2)
    plain = [each.without_times() for each in training.train(config, stock, SEED)]
    pictured = list[Any]()
    pictures.seen(config, stock, SEED)
    for record in training.train(config, stock, SEED):
        before = torch.get_rng_state()
        pictures.seen(config, stock, SEED)
        assert torch.equal(torch.get_rng_state(), before)
        pictured.append(record.without_times())
    assert pictured == plain


def unpacked(document: dict[str, Any], row: str) -> Any:
    return trial_figures.unpacked(document["rows"][row], len(document["labels"]))


def test_overlaid_images_come_first_and_differ_from_their_views(
    study: spec.Study, stock: training.Stock
) -> None:
    document = documents.load(pictures.seen(config_of(study), stock, SEED))
    overlaid = document["overlaid"]
    assert len(overlaid) == pictures.COLUMNS and set(overlaid) == {True, False}
    assert overlaid == sorted(overlaid, reverse=True)
    view, seen, maps = (unpacked(document, row) for row in ("view", "seen", "map"))
    changed = np.abs(view - seen).max(axis=(1, 2, 3)) > 0.02
    assert changed.tolist() == overlaid
    assert maps.shape[1] == 1 and view.shape[1:] == (3, 8, 8)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_all_or_none_may_be_overlaid(
    study: spec.Study, stock: training.Stock, probability: float
) -> None:
    config = config_of(study, overlay_probability=probability)
    document = documents.load(pictures.seen(config, stock, SEED))
    assert document["overlaid"] == [probability == 1.0] * pictures.COLUMNS


def test_images_that_stay_on_the_host_are_shown_the_same(
    study: spec.Study, stock: training.Stock, shared: materials.Materials
) -> None:
    streaming = training.Stock.of(shared, study, torch.device("cpu"), resident=False)
    config = config_of(study)
    assert pictures.seen(config, streaming, SEED) == pictures.seen(config, stock, SEED)


def test_a_batch_of_two_shows_two(study: spec.Study, stock: training.Stock) -> None:
    document = documents.load(pictures.seen(config_of(study, batch_size=2), stock, SEED))
    assert len(document["labels"]) == 2


def test_large_images_stay_small_documents(
    study: spec.Study, stock: training.Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.rand(12, 3, 224, 160, generator=torch.Generator().manual_seed(0))
    lesson = training.first_lesson(config_of(study), stock, SEED)
    large = lesson._replace(images=noise, maps=noise[:, 0])
    monkeypatch.setattr(training, "first_lesson", lambda *_: large)
    content = pictures.seen(config_of(study), stock, SEED)
    assert unpacked(documents.load(content), "view").shape == (pictures.COLUMNS, 3, 48, 34)
    assert len(content) < 300_000


def test_a_student_of_a_lower_resolution_is_shown_what_is_left_of_its_images(
    study: spec.Study, stock: training.Stock
) -> None:
    whole, small = (
        documents.load(pictures.seen(config_of(study, resolution=side), stock, SEED))
        for side in (None, 4)
    )
    assert (whole["resolution"], small["resolution"]) == (None, 4)
    assert whole["rows"]["view"] == small["rows"]["view"]
    images, halved = (
        trial_figures.unpacked(each["rows"]["seen"], len(each["labels"])) for each in (whole, small)
    )
    assert images.shape == halved.shape
    blocks = halved.reshape(len(halved), -1, 4, 2, 4, 2)
    assert np.array_equal(blocks, np.broadcast_to(blocks[..., :1, :, :1], blocks.shape))
    assert np.abs(images.mean((2, 3)) - halved.mean((2, 3))).max() < 0.05
    assert "at 4 pixels" in str(
        [text.get_text() for text in trial_figures.overlays(0, small, []).texts]
    )
