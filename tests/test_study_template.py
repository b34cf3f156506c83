"""A study file to begin with, for every source: valid, commented, and as its author asked."""

import tomllib
from typing import Any, get_args

import pytest

from igkd_search import spec, study_file, study_template
from igkd_search.study_template import meanings, text


def read(content: str) -> spec.Study:
    return study_file.check(spec.Study, tomllib.loads(content), "template", content)


@pytest.mark.parametrize("source", get_args(spec.Source))
def test_every_source_has_a_file_that_is_well(source: str) -> None:
    path = "mine" if source in ("arrays", "folder") else None
    study = read(text("mine", source, path=path))
    assert study.data.source == source and study.name == "mine"
    assert set(study_template.SAYS) == set(get_args(spec.Source))


@pytest.mark.parametrize("sampler", get_args(spec.Sampler))
@pytest.mark.parametrize("pruner", get_args(spec.Pruner))
def test_every_sampler_and_pruner_has_one(sampler: str, pruner: str) -> None:
    found = read(text("mine", "digits", sampler=sampler, pruner=pruner))
    assert (found.search.sampler, found.search.pruner) == (sampler, pruner)


@pytest.mark.parametrize("path", ["im\x7fg", 'a "b" \\ c', "tab\tand\nline", "ä 猫"])
def test_any_path_is_read_as_it_was_given(path: str) -> None:
    content = text("x", "folder", path=path, images=20, classes=4, image_size=16)
    assert tomllib.loads(content)["data"]["path"] == path


def test_what_is_asked_for_is_written() -> None:
    content = text("x", "cifar10", teacher="resnet18", removed_blocks=3, trials=7, epochs=9)
    study = read(content)
    assert (study.teacher.architecture, study.trial.removed_blocks) == ("resnet18", 3)
    assert (study.search.trials, study.trial.epochs, study.teacher.epochs) == (7, 9, 200)


@pytest.mark.parametrize(("images", "batch"), [(None, 32), (10_000, 32), (10_001, 256)])
def test_the_recipe_of_own_data_follows_their_number(images: int | None, batch: int) -> None:
    content = text("x", "folder", path="mine", images=images, classes=4, image_size=16)
    study = read(content)
    assert study.trial.batch_size == batch and study.data.image_size == 16
    assert "chance is 0.25" in content


def test_the_recipes_are_those_of_the_shipped_studies() -> None:
    from igkd_search import registry

    for source in ("digits", "cifar10"):
        shipped, drafted = registry.find(source), read(text(source, source))
        assert spec.difference(shipped.question(), drafted.question()) == []


def test_meanings_are_those_beside_the_fields() -> None:
    found: Any = meanings(spec.TrialConfig)
    assert found["kd_weight"] == "Share of the soft targets in the loss; the paper's alpha"
    assert found["warmup"] == "Share of all steps spent warming up"  # of the Recipe it is made of
    assert "epochs" not in found


def test_lines_are_short_and_comments_say_what_is_allowed() -> None:
    content = text("mine", "digits")
    assert max(map(len, content.splitlines())) <= 100
    assert "# One of cmaes, gp, grid" in content or "one of cmaes, gp, grid" in content
