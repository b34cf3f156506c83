"""Each arm's own search: over what it has, from the same start, with the same epochs for all."""

from pathlib import Path
from typing import Any

import pytest

from igkd_search import arms, launch, spec, study_file, tuning
from igkd_search.arms import Arm
from igkd_search.errors import ProcessError, StudyError
from tests import tiny

SPACE = {
    "temperature": {"low": 1.0, "high": 10.0, "log": True},
    "kd_weight": {"low": 0.1, "high": 1.0},
    "overlay_probability": {"choices": [0.25, 0.5]},
    "learning_rate": {"low": 0.05, "high": 0.2},
    "removed_blocks": {"choices": [15, 16]},
}
ARMS = arms.read("baseline,kd,ig,kd+ig:shuffled,kd:shuffled")


def exported_of(study: spec.Study, **search: Any) -> spec.Exported:
    """The tiny trial with a space that every kind of field is in."""
    plain = {"space": SPACE, **search}
    asked = spec.Search.model_validate(plain)
    return tiny.exported(study).model_copy(update={"search": asked})


@pytest.mark.parametrize(
    ("name", "searched"),
    [
        ("baseline", {"learning_rate"}),
        ("kd", {"learning_rate", "kd_weight", "temperature"}),
        ("ig:dim", {"learning_rate", "overlay_probability"}),
        ("kd+ig", {"learning_rate", "kd_weight", "temperature", "overlay_probability"}),
    ],
)
def test_an_arm_searches_what_it_has_and_never_another_student(
    study: spec.Study, name: str, searched: set[str]
) -> None:
    (arm,) = arms.read(name)
    asked = tuning.study_of(arm, exported_of(study), 5)
    assert asked is not None
    assert set(asked.search.space) == searched
    assert asked.trial.removed_blocks == study.trial.removed_blocks


def test_all_arms_have_the_same_budget_and_epochs_and_nothing_is_pruned(study: spec.Study) -> None:
    asked = [tuning.study_of(arm, exported_of(study, trials=40, seed=3), 5) for arm in ARMS]
    found = [each for each in asked if each is not None]
    assert len({each.name for each in found}) == len(ARMS)
    assert {each.search.trials for each in found} == {5}
    assert {each.search.pruner for each in found} == {"none"}
    assert {each.trial.epochs for each in found} == {study.trial.epochs}
    assert {each.search.seed for each in found} == {3}


def test_the_exported_values_are_tried_first_where_the_space_holds_them(study: spec.Study) -> None:
    own = study.model_copy(
        update={"trial": study.trial.model_copy(update={"kd_weight": 0.05, "temperature": 2.0})}
    )
    asked = tuning.study_of(Arm(kd="none"), exported_of(own), 5)
    assert asked is not None
    assert asked.search.start == [{"temperature": 2.0, "learning_rate": 0.1}]


def test_controls_are_searched_as_controls(study: spec.Study) -> None:
    maps = tuning.study_of(Arm("none", "shuffled"), exported_of(study), 5)
    targets = tuning.study_of(Arm(kd="shuffled"), exported_of(study), 5)
    assert maps is not None and targets is not None
    assert (maps.overlays.control, maps.materials.targets) == ("shuffled", "bank")
    assert targets.materials.targets == "shuffled"


@pytest.mark.parametrize(
    ("sampler", "used"), [("gp", "gp"), ("grid", "tpe"), ("nsga2", "tpe"), ("cmaes", "tpe")]
)
def test_a_sampler_that_few_trials_or_dimensions_do_not_suit_is_replaced(
    study: spec.Study, sampler: str, used: str
) -> None:
    asked = tuning.study_of(Arm(), exported_of(study, sampler=sampler), 5)
    assert asked is not None and asked.search.sampler == used


@pytest.fixture
def mine(home: Path, tmp_path: Path) -> Path:
    """A copy of the home of the tiny study."""
    return tiny.copy_entries(home, tmp_path / "home")


def test_each_arm_finds_its_settings_and_finished_searches_stand(
    study: spec.Study, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, folder = exported_of(study), tmp_path / "tuning"
    found = tuning.settle(arms.read("baseline,kd"), exported, 2, folder, mine, "cpu")
    baseline, kd = found[Arm()], found[Arm(kd="none")]
    assert set(baseline["parameters"]) == {"learning_rate"}
    assert set(kd["parameters"]) == {"learning_rate", "kd_weight", "temperature"}
    assert 0 <= kd["validation_accuracy"] <= 1
    decided = tuning.tuned(arms.apply(Arm(kd="none"), exported), kd)
    assert decided.trial.kd_weight == kd["parameters"]["kd_weight"]
    assert study_file.read_study(folder / "kd.toml").search.trials == 2

    def refuse(*arguments: Any) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(launch, "search", refuse)
    again = tuning.settle(arms.read("baseline,kd"), exported, 2, folder, mine, "cpu")
    assert again == found


def test_an_arm_without_anything_to_search_keeps_the_settings(
    study: spec.Study, home: Path, tmp_path: Path
) -> None:
    exported = exported_of(study, space={"kd_weight": SPACE["kd_weight"]})
    found = tuning.settle([Arm()], exported, 2, tmp_path / "tuning", home)
    assert found == {Arm(): {"parameters": {}, "validation_accuracy": None}}
    assert tuning.tuned(exported, found[Arm()]) == exported


def test_a_search_that_is_stopped_is_told(
    study: spec.Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "search", lambda *arguments: "igkd stop")
    with pytest.raises(ProcessError, match=r"search of arm baseline was stopped \(igkd stop\)"):
        tuning.settle([Arm()], exported_of(study), 2, tmp_path / "tuning", home)


def test_a_file_that_does_not_say_what_was_searched_is_refused(
    study: spec.Study, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match="--tune-arms: the file does not say"):
        tuning.settle([Arm()], tiny.exported(study), 2, tmp_path / "tuning", home)
    assert not (tmp_path / "tuning").exists()


def test_another_number_of_trials_or_another_question_is_refused(
    study: spec.Study, mine: Path, tmp_path: Path
) -> None:
    exported, folder = exported_of(study), tmp_path / "tuning"
    tuning.settle([Arm()], exported, 1, folder, mine, "cpu")
    with pytest.raises(StudyError, match=r"a search of 1 trials here; type --tune-arms 1"):
        tuning.settle([Arm()], exported, 2, folder, mine, "cpu")
    other = exported_of(study, seed=5)
    with pytest.raises(StudyError, match=r"under another configuration or \[search\]"):
        tuning.settle([Arm()], other, 1, folder, mine, "cpu")


def test_an_interruption_is_one(
    study: spec.Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "search", lambda *arguments: "SIGINT: left")
    with pytest.raises(KeyboardInterrupt):
        tuning.settle([Arm()], exported_of(study), 2, tmp_path / "tuning", home)


def test_long_names_of_studies_leave_arms_apart(study: spec.Study) -> None:
    exported = exported_of(study)
    long = exported.provenance.model_copy(update={"study": "s" * 80})
    named = exported.model_copy(update={"provenance": long})
    asked = [tuning.study_of(arm, named, 2) for arm in ARMS]
    assert len({each.name for each in asked if each}) == len(ARMS)
