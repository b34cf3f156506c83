"""What STUDY means, that a question stays as it began, and which budget a call leaves."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
import tomlkit

from igkd_search import database, registry, slots, spec, study_file
from igkd_search.errors import StorageError, StudyError
from tests.databases import prepared_url


@pytest.fixture
def base(tmp_path: Path) -> Iterator[database.Database]:
    opened = database.connect(prepared_url("sqlite", tmp_path))
    yield opened
    opened.close()


def plain(trials: int = 3, **trial: Any) -> dict[str, Any]:
    space = {"kd_weight": {"low": 0.0, "high": 1.0}}
    return {"name": "mine", "trial": trial, "search": {"trials": trials, "space": space}}


def study_of(trials: int = 3, **trial: Any) -> spec.Study:
    return study_file.check(spec.Study, plain(trials, **trial), "test")


def content(base: database.Database) -> dict[str, list[Any]]:
    """Every row of every table."""
    with base.transaction() as connection:
        names = sa.inspect(connection).get_table_names()
        rows = {name: connection.execute(sa.text(f'SELECT * FROM "{name}"')) for name in names}
        return {name: [tuple(row) for row in found] for name, found in rows.items()}


def budget(base: database.Database) -> int:
    record = base.read_study("mine")
    assert record is not None
    assert slots.Slots(base, "mine").counts().total == record.trials
    return record.trials


def work_off(base: database.Database, count: int) -> None:
    table = slots.Slots(base, "mine")
    for _ in range(count):
        claim = table.claim()
        assert claim is not None
        table.finish(claim, "complete")


def test_a_study_is_found_by_the_path_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(tomlkit.dumps(plain()))
    assert registry.find(str(path)) == study_of()
    assert registry.name_of(str(path)) == "mine", "the name in the file, not that of the file"


def test_a_file_needs_no_suffix_but_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "question"
    path.write_text(tomlkit.dumps(plain()))
    assert registry.find(str(path)) == study_of()
    with pytest.raises(StudyError, match=r"gone\.toml: no such file"):
        registry.find(str(tmp_path / "gone.toml"))


@pytest.mark.parametrize("name", sorted(registry.shipped_studies()))
def test_a_shipped_study_is_found_by_its_name(name: str) -> None:
    assert registry.find(name).name == name == registry.name_of(name)


def test_shipped_studies_bear_the_names_of_their_files() -> None:
    shipped = registry.shipped_studies()
    assert list(shipped) == sorted(shipped)
    assert [study_file.read_study(path).name for path in shipped.values()] == list(shipped)


def test_a_study_in_the_storage_needs_no_file(base: database.Database) -> None:
    registry.register(base, study_of(epochs=5), trials=9)
    assert registry.find("mine", base) == study_of(epochs=5)
    assert registry.name_of("mine") == "mine"


def test_an_unknown_name_is_answered_with_those_that_would_do(base: database.Database) -> None:
    with pytest.raises(StudyError, match=r"digit: no such study.*cifar10.*digits.*none yet"):
        registry.find("digit", base)
    registry.register(base, study_of())
    with pytest.raises(StudyError, match=r"storage \(mine\)"):
        registry.find("digit", base)
    with pytest.raises(StudyError, match="none yet"):
        registry.find("mine")


def test_registering_makes_the_study_its_budget_and_the_one_of_optuna(
    base: database.Database,
) -> None:
    registry.register(base, study_of())
    assert slots.Slots(base, "mine").counts() == slots.Counts(3, 3, 0, 0)
    theirs = optuna.load_study(study_name="mine", storage=base.storage)
    assert theirs.direction == optuna.study.StudyDirection.MAXIMIZE
    record = base.read_study("mine")
    assert record is not None
    assert spec.Study.model_validate(record.question) == study_of()


def test_optuna_is_told_which_way_each_objective_is_sought(base: database.Database) -> None:
    shaped = {"removed_blocks": {"choices": [3, 5]}}
    search = {"objectives": ["accuracy", "latency_ms"], "space": shaped}
    pareto = study_file.check(spec.Study, {"name": "mine", "search": search}, "test")
    registry.register(base, pareto)
    registry.register(base, registry.find("mine", base))
    theirs = optuna.load_study(study_name="mine", storage=base.storage)
    maximize, minimize = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    assert theirs.directions == [maximize, minimize]


def test_a_grid_takes_no_larger_budget_than_it_has_points(base: database.Database) -> None:
    search = {"sampler": "grid", "trials": 2, "space": {"batch_size": {"choices": [16, 32]}}}
    grid = study_file.check(spec.Study, {"name": "mine", "search": search}, "test")
    for _ in range(2):  # before it is stored, and then
        for call in (registry.is_finished, registry.register):
            with pytest.raises(StudyError, match="the grid has 2 points, trials = 3"):
                call(base, grid, 3)
        registry.register(base, grid)
    assert budget(base) == 2


def test_what_is_no_part_of_the_question_may_change(base: database.Database) -> None:
    search: dict[str, Any] = {"space": {"kd_weight": {"low": 0.0, "high": 1.0}}}
    for changes in ({"hours": 2.5}, {"from": "theirs"}, {"patience": 3, "max_attempts": 2}, {}):
        plain = {"name": "mine", "search": {**search, **changes}}
        asked = study_file.check(spec.Study, plain, "test")
        registry.register(base, asked)
        # as it is now, for workers that have no file
        assert registry.find("mine", base) == asked


def test_registering_twice_changes_nothing(base: database.Database) -> None:
    registry.register(base, study_of())
    before = content(base)
    registry.register(base, study_of())
    assert content(base) == before


def test_another_question_is_refused_with_the_difference_and_nothing_is_written(
    base: database.Database,
) -> None:
    registry.register(base, study_of(epochs=5))
    before = content(base)
    for call in (registry.register, registry.check_question, registry.is_finished):
        with pytest.raises(StudyError) as refused:
            call(base, study_of(trials=8, epochs=6, batch_size=32))
        lines = str(refused.value).splitlines()
        assert "'mine' asks another question" in lines[0]
        assert [line.strip() for line in lines[1:-1]] == [
            "trial.batch_size: 64 -> 32",
            "trial.epochs: 5 -> 6",
        ]
    assert content(base) == before


def test_what_is_written_out_is_not_another_question(base: database.Database) -> None:
    registry.register(base, study_of())
    default = spec.TrialConfig().epochs
    registry.check_question(base, study_of(epochs=default))
    with pytest.raises(StudyError, match="epochs"):
        registry.check_question(base, study_of(epochs=default + 1))


def test_where_files_lie_is_not_part_of_the_question(base: database.Database) -> None:
    def at(path: str) -> spec.Study:
        data = {"source": "arrays", "path": path}
        return study_file.check(spec.Study, plain() | {"data": data}, "test")

    registry.register(base, at("/here"))
    registry.register(base, at("/there"))
    assert registry.find("mine", base).data.path == "/there"


@pytest.mark.parametrize(
    ("calls", "left"),
    [
        ([(3, None)], 3),
        ([(3, 7)], 7),
        ([(3, None), (5, None)], 5),
        ([(3, None), (3, 7)], 7),
        ([(3, None), (3, 7), (3, None)], 7),
        ([(3, None), (3, 7), (5, None)], 5),
        ([(3, None), (3, 7), (5, None), (5, None)], 5),
        ([(3, None), (3, 2)], 2),
    ],
    ids=str,
)
def test_the_budget_changes_by_an_option_or_by_a_file_that_changed(
    base: database.Database, calls: list[tuple[int, int | None]], left: int
) -> None:
    for in_file, option in calls:
        registry.register(base, study_of(in_file), option)
    assert budget(base) == left


def test_a_death_between_two_writes_loses_no_budget(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(base, study_of(3))
    places: list[tuple[type, str]] = [
        (database.Database, "write_study"),
        (slots.Slots, "set_budget"),
        (database.Database, "set_question"),
    ]

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    for owner, name in places:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, die)
            with pytest.raises(KeyboardInterrupt):
                registry.register(base, study_of(5))
        registry.register(base, study_of(5))
        assert budget(base) == 5
        registry.register(base, study_of(3))


@pytest.mark.parametrize("trials", [None, 5])
def test_a_study_that_nobody_began_is_not_finished(
    base: database.Database, trials: int | None
) -> None:
    assert not registry.is_finished(base, study_of(), trials)
    assert base.study_names() == []


def test_a_study_is_finished_when_its_budget_is_spent(base: database.Database) -> None:
    registry.register(base, study_of())
    work_off(base, 2)
    assert not registry.is_finished(base, study_of())
    work_off(base, 1)
    before = content(base)
    assert registry.is_finished(base, study_of())
    assert registry.is_finished(base, study_of(), trials=2)
    assert not registry.is_finished(base, study_of(), trials=4)
    assert not registry.is_finished(base, study_of(4))
    assert content(base) == before, "asking writes nothing"


def test_a_slot_that_somebody_works_on_is_not_finished(base: database.Database) -> None:
    registry.register(base, study_of())
    work_off(base, 2)
    assert slots.Slots(base, "mine").claim() is not None
    assert not registry.is_finished(base, study_of())


def test_what_is_stored_is_the_whole_question(base: database.Database) -> None:
    registry.register(base, study_of())
    record = base.read_study("mine")
    assert record is not None
    assert json.loads(json.dumps(record.question)) == study_of().model_dump(mode="json")


def test_a_study_is_read_as_it_began(base: database.Database) -> None:
    registry.register(base, study_of(epochs=5), trials=9)
    record, study = registry.stored(base, "mine")
    assert study == study_of(epochs=5) and record.trials == 9
    with pytest.raises(StorageError, match="no study 'yours'"):
        registry.stored(base, "yours")


def test_checkpoints_are_of_one_study_only(base: database.Database) -> None:
    registry.register(base, study_of())
    record, _ = registry.stored(base, "mine")
    name = registry.checkpoints_of(record)
    assert name.startswith("mine-") and name == registry.checkpoints_of(record)
    later = dataclasses.replace(record, created="another day")
    assert registry.checkpoints_of(later) != name


def test_a_worker_takes_the_question_from_the_storage_before_a_shipped_study_of_that_name(
    base: database.Database, tmp_path: Path
) -> None:
    begun = study_of(epochs=4).model_copy(update={"name": "digits"})
    registry.register(base, begun)
    assert registry.begun(base, "digits") == begun
    with pytest.raises(StudyError, match="no such study"):
        registry.begun(base, "mine")
    file = tmp_path / "mine.toml"
    file.write_text(tomlkit.dumps(plain(epochs=4)))
    assert registry.begun(base, str(file)) == study_of(epochs=4)
    registry.register(base, study_of(epochs=5))
    with pytest.raises(StudyError, match="asks another question"):
        registry.begun(base, str(file))


def test_only_a_study_that_has_begun_is_resumed(base: database.Database) -> None:
    before = content(base)
    assert not registry.resume(base.url, study_of(), 9)
    assert content(base) == before
    registry.register(base, study_of())
    assert registry.resume(base.url, study_of(), 9)
    assert budget(base) == 9
    with pytest.raises(StudyError, match="asks another question"):
        registry.resume(base.url, study_of(epochs=5))


def test_a_budget_is_spent_when_all_of_it_is(base: database.Database) -> None:
    assert not registry.is_spent(base, "mine"), "it has not begun"
    registry.register(base, study_of(trials=2))
    work_off(base, 1)
    assert not registry.is_spent(base, "mine")
    work_off(base, 1)
    assert registry.is_spent(base, "mine")
