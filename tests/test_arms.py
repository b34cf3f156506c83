"""What an arm is: its name read and said, what it leaves out, which one is shipped."""

import pytest

from igkd_search import arms, spec
from igkd_search.arms import Arm
from igkd_search.errors import StudyError
from tests import tiny

NAMES = "baseline,kd,ig,kd+ig,kd+ig:shuffled,kd+ig:random,kd+ig:dim,kd:shuffled,kd:shuffled+ig"


def exported_of(targets: str = "bank", control: str = "none", **trial: float) -> spec.Exported:
    fields = {"kd_weight": 0.5, "overlay_probability": 0.2, "attention_weight": 0.3} | trial
    run = spec.Run(
        trial=spec.TrialConfig.model_validate(fields),
        overlays=spec.Overlays.model_validate({"control": control}),
    )
    found = tiny.exported(run)
    options = found.materials.model_copy(update={"targets": targets})
    return found.model_copy(update={"materials": options})


def test_names_are_read_and_said_the_same() -> None:
    assert [str(arm) for arm in arms.read(NAMES)] == NAMES.split(",")
    assert arms.read(" ig:dim+kd ,") == [Arm(kd="none", ig="dim")], "in any order"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("kdd", "'kdd' is no arm; did you mean 'kd'"),
        ("kd:", "'kd:' is no arm"),
        ("kd:dim", "'kd:dim' is no arm"),
        ("ig:none", "'ig:none' is no arm"),
        ("kd+kd", "'kd[+]kd' is no arm"),
        ("baseline+ig", "'baseline[+]ig' is no arm"),
        ("kd,ig,kd", "kd is named twice"),
        ("ig+kd,kd+ig", "kd[+]ig is named twice"),
        (",", "names no arm"),
    ],
)
def test_what_is_no_arm_is_refused(typed: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        arms.read(typed)


def test_names_of_files_are_all_different() -> None:
    found = arms.read(NAMES)
    assert len({arm.slug for arm in found}) == len(found)
    assert all(set(arm.slug) <= set("abcdefghijklmnopqrstuvwxyz-") for arm in found)


@pytest.mark.parametrize("name", NAMES.split(","))
def test_a_configuration_that_became_an_arm_is_that_arm(name: str) -> None:
    (arm,) = arms.read(name)
    assert arms.of(arms.apply(arm, exported_of())) == arm


def test_what_an_arm_leaves_out_and_what_it_keeps() -> None:
    whole = exported_of()
    for name in NAMES.split(","):
        (arm,) = arms.read(name)
        trial, before = arms.apply(arm, whole).trial, whole.trial
        assert trial.kd_weight == (0.5 if "kd" in name else 0)
        real = "kd" in name and "kd:shuffled" not in name
        assert trial.attention_weight == (0.3 if real else 0), "no attention of its own image"
        assert trial.overlay_probability == (0.2 if "ig" in name else 0)
        changed = {field for field, value in trial if value != getattr(before, field)}
        assert changed <= {"kd_weight", "attention_weight", "overlay_probability"}
        assert arms.apply(arm, whole).teacher == whole.teacher


def test_controls_say_where_targets_and_maps_come_from() -> None:
    shuffled = arms.apply(Arm(kd="shuffled"), exported_of())
    assert shuffled.materials.targets == "shuffled" and shuffled.overlays.control == "none"
    dim = arms.apply(Arm(kd="none", ig="dim"), exported_of())
    assert dim.materials.targets == "bank" and dim.overlays.control == "dim"


def test_the_arm_of_a_configuration_is_the_configuration_untouched() -> None:
    for whole in (
        exported_of(),
        exported_of(targets="shuffled", control="random"),
        exported_of(control="shuffled", overlay_probability=0.0),
    ):
        assert arms.apply(arms.of(whole), whole) is whole


def test_real_arms_of_a_control_study_are_real() -> None:
    found = arms.apply(Arm("none", "none"), exported_of(targets="shuffled", control="random"))
    assert (found.materials.targets, found.overlays.control) == ("bank", "none")


def test_a_live_teacher_stays_one() -> None:
    assert arms.apply(Arm(kd="none"), exported_of(targets="live")).materials.targets == "live"


def test_an_arm_of_what_the_configuration_lacks_is_refused_unless_it_is_searched() -> None:
    without = exported_of(kd_weight=0.0, attention_weight=0.0)
    with pytest.raises(StudyError, match=r"--arms kd: trial.kd_weight = 0 in the file"):
        arms.check([Arm(), Arm(kd="none")], without)
    arms.check([Arm(), Arm(kd="none")], without, ["kd_weight"])
    with pytest.raises(StudyError, match=r"--arms kd: trial\.kd_weight = 0"):
        arms.check([Arm(kd="none")], without, ["temperature"])  # which switches nothing on
    attention = exported_of(kd_weight=0.0)
    arms.check([Arm(kd="none")], attention)
    with pytest.raises(StudyError, match=r"--arms kd:shuffled: trial\.kd_weight = 0"):
        arms.check([Arm(kd="shuffled")], attention)
    with pytest.raises(StudyError, match=r"--arms ig: trial.overlay_probability = 0"):
        arms.check([Arm(ig="none")], exported_of(overlay_probability=0.0), ["learning_rate"])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("baseline,kd,kd+ig", "kd+ig"),
        ("baseline,ig,kd", "kd"),
        ("ig,baseline", "ig"),
        ("baseline,kd+ig:dim,kd:shuffled", "baseline"),
        ("kd+ig:dim,kd:shuffled", "kd+ig:dim"),
    ],
)
def test_the_configuration_is_shipped_or_else_the_fullest_real_arm(asked: str, found: str) -> None:
    assert str(arms.shipped(arms.read(asked), arms.of(exported_of()))) == found


def test_a_configuration_that_is_a_control_is_shipped_all_the_same() -> None:
    own = Arm(kd="shuffled")
    assert arms.shipped(arms.read("baseline,kd:shuffled"), own) == own
