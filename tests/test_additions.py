"""`igkd add`: values of the field's type, every fault at once, and whether there is room."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igkd_search import additions, queued, registry, slots, spec, study_file
from igkd_search.database import Database, connect
from igkd_search.errors import StorageError, StudyError
from tests.databases import prepared_url

SPACE = {
    "temperature": {"low": 1.0, "high": 10.0, "log": True},
    "kd_weight": {"low": 0.0, "high": 1.0, "step": 0.25},
    "batch_size": {"low": 8, "high": 64, "step": 8},
    "alternating_flip": {"choices": [True, False]},
    "cutout": {"choices": [0, 4]},
    "optimizer": {"choices": ["sgd", "adam"]},
}


def study_of(trials: int = 3, **search: Any) -> spec.Study:
    asked = {"trials": trials, "space": SPACE, "start": [{"temperature": 2.0}]}
    plain = {"name": "s", "data": {"flip": True}, "search": asked | search}
    return study_file.check(spec.Study, plain, "test")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Database]:
    opened = connect(prepared_url("sqlite", tmp_path))
    registry.register(opened, study_of())
    yield opened
    opened.close()


def test_values_have_the_type_of_their_field() -> None:
    words = ["temperature=4", "kd_weight=0.5", "batch_size=16", "alternating_flip=true"]
    point = additions.parse(study_of(), [*words, "cutout=4", "optimizer=adam"])
    assert point == {
        "temperature": 4.0,
        "kd_weight": 0.5,
        "batch_size": 16,
        "alternating_flip": True,
        "cutout": 4,
        "optimizer": "adam",
    }
    assert [type(value) for value in point.values()] == [float, float, int, bool, int, str]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("temperature", "type NAME=VALUE"),
        ("=4", "type NAME=VALUE"),
        ("temperatur=4", "not a name of search.space; did you mean 'temperature'?"),
        ("removed_blocks=4", "removed_blocks: not a name of search.space"),
        ("temperature=hot", "temperature = 'hot' is no number"),
        ("batch_size=16.5", "batch_size = '16.5' is no whole number"),
        ("alternating_flip=1", "alternating_flip = '1' is no true or false"),
        ("temperature=11", r"temperature = 11.0 is outside of \[1, 10\]"),
        ("temperature=nan", "temperature = nan is outside of"),
        ("kd_weight=0.3", r"kd_weight = 0.3 is outside of \[0, 1\] in steps of 0.25"),
        ("cutout=3", r"cutout = 3 is outside of \[0, 4\]"),
        ("optimizer=adamw", "optimizer = adamw is outside of"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_the_reason(
    base: Database, word: str, said: str
) -> None:
    with pytest.raises(StudyError, match=said):
        additions.add(base, "s", [word])
    assert queued.waiting(base, "s") == []


def test_all_faults_are_told_at_once(base: Database) -> None:
    words = ["temperature=hot", "kd_weight=2", "tau=1", "kd_weight=1", "cutout"]
    with pytest.raises(StudyError) as caught:
        additions.add(base, "s", words)
    for said in ("'hot' is no number", "kd_weight = 2.0", "tau: not", "given twice", "NAME=VALUE"):
        assert said in str(caught.value)


def test_the_place_in_the_queue_and_the_room_for_it_are_told(base: Database) -> None:
    first = additions.add(base, "s", ["temperature=4"])
    assert first == additions.Queue("s", [{"temperature": 4.0}], fresh=2, trials=3)
    assert first.trials_needed is None
    additions.add(base, "s", ["kd_weight=0.5"])
    third = additions.add(base, "s", ["temperature=4"])
    assert third.waiting == [{"temperature": 4.0}, {"kd_weight": 0.5}, {"temperature": 4.0}]
    assert third.trials_needed == 4 == third.as_dict()["trials_needed"]
    registry.register(base, study_of(), trials=4)
    assert additions.queue_of(base, "s").trials_needed is None


def test_only_slots_that_are_free_count_as_room(base: Database) -> None:
    table = slots.Slots(base, "s")
    while claim := table.claim():
        table.finish(claim, "complete")
    assert additions.add(base, "s", ["temperature=4"]).trials_needed == 4


def test_a_study_that_is_not_there_is_said(base: Database) -> None:
    with pytest.raises(StorageError, match="no study 'other'"):
        additions.add(base, "other", ["temperature=4"])


def test_a_student_over_the_latency_budget_is_refused(base: Database) -> None:
    space = {"removed_blocks": {"choices": [5, 10]}}
    study = study_of(space=space, start=[], latency_budget_ms=1.0)
    study = study.model_copy(update={"name": "quick"})
    registry.register(base, study)
    rows = {"teacher": 4.0, "mobilenet_v2-5": 2.0, "mobilenet_v2-10": 0.5}
    table = {name: {"onnxruntime": {"median_ms": ms}} for name, ms in rows.items()}
    base.update_facts("quick", latency=table)
    additions.add(base, "quick", ["removed_blocks=10"])
    with pytest.raises(StudyError, match="removed_blocks = 5 is outside of"):
        additions.add(base, "quick", ["removed_blocks=5"])
