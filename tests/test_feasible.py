"""Students that miss a bound on latency leave the space, whatever form what is left then has."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igkd_search import feasible, spec, study_file
from igkd_search.errors import StudyError

BLOCKS = {"low": 3, "high": 11, "step": 2}
WIDTHS = {"choices": [1.0, 0.5]}
SPACE: dict[str, Any] = {
    "removed_blocks": BLOCKS,
    "width": WIDTHS,
    "kd_weight": {"low": 0.0, "high": 1.0},
}


def study_of(budget: float | None, space: dict[str, Any] = SPACE, **search: Any) -> spec.Study:
    plain = {"name": "s", "search": {"space": space, "latency_budget_ms": budget, **search}}
    return study_file.check(spec.Study, plain, "test")


def times(study: spec.Study, by_width: float = 1.0) -> dict[str, float]:
    """Fewer blocks and less width take less time; the teacher is in the table too."""
    found = {
        each.name: 13 - each.removed_blocks + by_width * each.width for each in study.students()
    }
    return {"teacher": 40.0, **found}


def test_without_a_budget_or_within_it_the_space_stays_as_it_is() -> None:
    for study in (study_of(None), study_of(100.0)):
        assert feasible.within(study, times(study)) == (study, [])


def test_a_stepped_range_becomes_narrower() -> None:
    study = study_of(7.0)
    narrowed, left = feasible.within(study, times(study))
    ranges = narrowed.search.space
    assert ranges["removed_blocks"] == spec.Range(low=7, high=11, step=2)
    assert ranges["width"] == study.search.space["width"]
    assert ranges["kd_weight"] == study.search.space["kd_weight"]
    assert left == [
        "mobilenet_v2-3-x0.5: 10.5 ms, over search.latency_budget_ms = 7",
        "mobilenet_v2-3: 11 ms, over search.latency_budget_ms = 7",
        "mobilenet_v2-5-x0.5: 8.5 ms, over search.latency_budget_ms = 7",
        "mobilenet_v2-5: 9 ms, over search.latency_budget_ms = 7",
    ]


def test_a_last_value_and_those_that_are_no_neighbours_become_choices() -> None:
    study = study_of(3.0)
    narrowed, _ = feasible.within(study, times(study))
    assert narrowed.search.space["removed_blocks"] == spec.Range(choices=[11])
    odd = {**times(study), "mobilenet_v2-7": 50.0, "mobilenet_v2-7-x0.5": 50.0}
    narrowed, _ = feasible.within(study_of(9.0), odd)
    assert narrowed.search.space["removed_blocks"] == spec.Range(choices=[5, 9, 11])


def test_choices_keep_their_order() -> None:
    study = study_of(4.0, {"width": {"choices": [1.0, 0.25, 2.0, 0.5]}})
    narrowed, _ = feasible.within(study, times(study, by_width=-6.0))
    assert narrowed.search.space["width"] == spec.Range(choices=[1.0, 2.0])


def test_what_is_no_product_is_asked_for_by_name() -> None:
    study = study_of(8.75)
    narrowed, left = feasible.within(study, times(study))
    assert narrowed.search.students == [
        *("mobilenet_v2-5-x0.5", "mobilenet_v2-7-x0.5", "mobilenet_v2-7"),
        *("mobilenet_v2-9-x0.5", "mobilenet_v2-9", "mobilenet_v2-11-x0.5", "mobilenet_v2-11"),
    ]
    assert len(left) == 3
    assert [each.name for each in narrowed.students()] == narrowed.search.students
    assert narrowed.search.space == study.search.space


def test_networks_leave_as_well() -> None:
    networks = {
        "architecture": {"choices": ["resnet18", "mobilenet_v2"]},
        "width": {"choices": [1.0]},
    }
    study = study_of(2.0, networks)
    table = {"teacher": 40.0, "resnet18-5": 3.0, "mobilenet_v2-5": 1.0}
    narrowed, left = feasible.within(study, table)
    assert narrowed.search.space["architecture"] == spec.Range(choices=["mobilenet_v2"])
    assert left == ["resnet18-5: 3 ms, over search.latency_budget_ms = 2"]


def test_students_that_were_listed_stay_a_list() -> None:
    names = ["mobilenet_v2-11", "mobilenet_v2-3"]
    study = study_of(5.0, students=names)
    narrowed, left = feasible.within(study, times(study))
    assert narrowed.search.students == ["mobilenet_v2-11"]
    assert [line.partition(":")[0] for line in left] == ["mobilenet_v2-3"]


@given(
    st.lists(st.floats(0.1, 9.9), min_size=12, max_size=12),
    st.floats(1.0, 10.0),
)
@settings(max_examples=60, deadline=None)
def test_what_is_left_is_what_fits_and_can_be_stored(ms: list[float], budget: float) -> None:
    space = {
        "architecture": {"choices": ["resnet18", "mobilenet_v2"]},
        "removed_blocks": {"low": 1, "high": 3, "step": 1},
        "width": WIDTHS,
    }
    study = study_of(budget, space)
    table = dict(zip((each.name for each in study.students()), ms, strict=True))
    table["teacher"] = 40.0
    fit = [each for each in study.students() if table[each.name] <= budget]
    if not fit:
        with pytest.raises(StudyError, match="no student keeps"):
            feasible.within(study, table)
        return
    narrowed, left = feasible.within(study, table)
    assert sorted(narrowed.students()) == sorted(fit)
    assert len(left) == 12 - len(fit)
    # the same on every host and at every restart, whatever order the table comes in
    assert feasible.within(study, dict(reversed(table.items()))) == (narrowed, left)
    again = study_file.check(spec.Study, narrowed.model_dump(mode="json"), "stored")
    assert again == narrowed
    assert feasible.within(again, table) == (again, [])


def test_if_nothing_fits_the_nearest_is_named_with_what_to_type() -> None:
    study = study_of(1.0)
    with pytest.raises(StudyError) as caught:
        feasible.within(study, {**times(study), "mobilenet_v2-11-x0.5": 2.3415})
    assert str(caught.value) == (
        "study 's': no student keeps search.latency_budget_ms = 1; the nearest is "
        "mobilenet_v2-11-x0.5: 2.34 ms, over search.latency_budget_ms = 1. Type latency_budget_ms "
        "= 2.35, or let search.space hold smaller students (architecture, removed_blocks, width, "
        "resolution)"
    )


@pytest.mark.parametrize("budget", [5.0, 10.0])
def test_where_the_student_does_not_vary_it_must_fit(budget: float) -> None:
    study = study_of(budget, {"kd_weight": {"low": 0.0, "high": 1.0}})
    table = {"teacher": 40.0, "mobilenet_v2-5": 9.0}
    if budget == 10.0:
        assert feasible.within(study, table) == (study, [])
    else:
        with pytest.raises(StudyError, match=r"the nearest is mobilenet_v2-5: 9 ms"):
            feasible.within(study, table)


def test_a_start_point_over_the_budget_is_named() -> None:
    start = [
        {"kd_weight": 0.5},
        {"removed_blocks": 3},
        {"removed_blocks": 11},
        {"removed_blocks": 5, "width": 1.0},
    ]
    study = study_of(8.75, start=start)
    with pytest.raises(StudyError) as caught:
        feasible.within(study, times(study))
    over = "over search.latency_budget_ms = 8.75; leave the point out, or ask for less"
    assert str(caught.value).splitlines() == [
        f"study 's': search.start[1]: mobilenet_v2-3-x0.5 takes 10.5 ms, {over}",
        f"  search.start[3]: mobilenet_v2-5 takes 9 ms, {over}",
    ]


def test_a_speedup_is_over_the_teacher_of_the_same_table() -> None:
    study = study_of(None, min_speedup=8.0)
    narrowed, left = feasible.within(study, times(study))
    assert narrowed.search.space["removed_blocks"] == spec.Range(low=9, high=11, step=2)
    assert left[0] == (
        "mobilenet_v2-3-x0.5: 10.5 ms, 3.81 times as fast as the teacher, under search.min_speedup "
        "= 8"
    )
    slower, _ = feasible.within(study, {**times(study), "teacher": 80.0})
    assert len(slower.students()) > len(narrowed.students())
    assert narrowed.search.min_speedup == 8.0


def test_a_student_that_is_just_so_many_times_faster_stays() -> None:
    study = study_of(None, {"kd_weight": {"low": 0.0, "high": 1.0}}, min_speedup=10.0)
    assert feasible.within(study, {"teacher": 40.0, "mobilenet_v2-5": 4.0}) == (study, [])


@pytest.mark.parametrize(("budget", "speedup"), [(7.0, 5.0), (9.0, 40 / 7), (7.0, 40 / 7)])
def test_of_two_bounds_the_tighter_holds(budget: float, speedup: float) -> None:
    study = study_of(budget, min_speedup=speedup)
    kept, _ = feasible.within(study, times(study))
    alone = study_of(7.0)
    assert kept.students() == feasible.within(alone, times(alone))[0].students()


def test_what_misses_both_bounds_says_so_with_what_to_type_for_each() -> None:
    study = study_of(1.0, min_speedup=20.0)
    with pytest.raises(StudyError) as caught:
        feasible.within(study, times(study))
    said = str(caught.value)
    assert "no student keeps search.latency_budget_ms = 1 and search.min_speedup = 20; " in said
    assert "2.5 ms, over search.latency_budget_ms = 1; 2.5 ms, 16 times as fast" in said
    assert "Type latency_budget_ms = 2.5 and min_speedup = 16, or let" in said


def test_a_start_point_that_is_too_slow_is_named_with_its_speedup() -> None:
    study = study_of(None, min_speedup=8.0, start=[{"removed_blocks": 3, "width": 1.0}])
    with pytest.raises(
        StudyError, match=r"start\[0\]: mobilenet_v2-3 takes 11 ms, 3\.64 times as "
    ):
        feasible.within(study, times(study))


def test_resolutions_leave_as_other_shapes_do() -> None:
    space = {"resolution": {"low": 16, "high": 32, "step": 8}, "kd_weight": SPACE["kd_weight"]}
    study = study_of(None, space, min_speedup=4.0)
    names = [each.name for each in study.students()]
    assert names == ["mobilenet_v2-5-r16", "mobilenet_v2-5-r24", "mobilenet_v2-5-r32"]
    table = {"teacher": 40.0, **dict(zip(names, (5.0, 9.0, 16.0), strict=True))}
    narrowed, left = feasible.within(study, table)
    assert narrowed.search.space["resolution"] == spec.Range(low=16, high=24, step=8)
    assert [line.partition(":")[0] for line in left] == ["mobilenet_v2-5-r32"]


def test_where_one_student_is_left_there_is_no_trade_off_to_seek() -> None:
    objectives = ["accuracy", "latency_ms"]
    alone = study_of(2.5, objectives=objectives, pruner="none")
    with pytest.raises(StudyError, match=r"mobilenet_v2-11-x0\.5 alone keeps"):
        feasible.within(alone, times(alone))
    several = study_of(3.0, objectives=objectives, pruner="none")
    assert len(feasible.within(several, times(several))[0].students()) == 2
