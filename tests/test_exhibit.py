"""What the dashboard reads: new trials at once, finished ones once, notes made when they change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study._frozen import FrozenStudy
from optuna.trial import TrialState, create_trial

from igkd_search import charts, registry, results, spec, study_file
from igkd_search.database import Database, connect
from igkd_search.errors import StorageError
from igkd_search.exhibit import Away, Exhibit, raising_away
from tests.databases import KINDS, prepared_url

SPACE = {"space": {"kd_weight": {"low": 0.0, "high": 1.0}}}


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return prepared_url(request.param, tmp_path)


@pytest.fixture
def writer(url: str) -> Iterator[Database]:
    """The database as workers have it."""
    base = connect(url)
    begin(base, "s")
    yield base
    base.close()


@pytest.fixture
def exhibit(url: str, writer: Database) -> Iterator[Exhibit]:
    base = connect(url, read_only=True)
    yield Exhibit(base)
    base.close()


def begin(base: Database, name: str, **search: Any) -> None:
    plain = {"name": name, "search": {**SPACE, **search}}
    registry.register(base, study_file.check(spec.Study, plain, "test"))


def finish(base: Database, value: float, name: str = "s", **more: Any) -> None:
    study = optuna.load_study(study_name=name, storage=base.storage)
    ranges: dict[str, BaseDistribution] = {"kd_weight": FloatDistribution(0.0, 1.0)}
    study.add_trial(
        create_trial(value=value, params={"kd_weight": 0.5}, distributions=ranges, **more)
    )


def shown(exhibit: Exhibit, name: str = "s") -> FrozenStudy:
    """The study as it is shown to who asked for it."""
    number = exhibit.get_study_id_from_name(name)
    with exhibit.asked_for(number):
        (found,) = [each for each in exhibit.get_all_studies() if each._study_id == number]
    return found


def note(exhibit: Exhibit) -> str:
    attributes = shown(exhibit).system_attrs
    parts = [key for key in attributes if key.startswith("dashboard:note_str:")]
    return "".join(attributes[f"dashboard:note_str:{i}"] for i in range(len(parts)))


def test_a_running_search_is_seen_to_go_on(writer: Database, exhibit: Exhibit) -> None:
    number = exhibit.get_study_id_from_name("s")
    assert exhibit.get_all_trials(number) == []
    assert "No trial has completed yet" in note(exhibit)
    study = optuna.load_study(study_name="s", storage=writer.storage)
    trial = study.ask()
    trial.report(0.25, 1)
    (seen,) = exhibit.get_all_trials(number)
    assert (seen.state, seen.intermediate_values) == (TrialState.RUNNING, {1: 0.25})
    trial.report(0.5, 2)
    assert exhibit.get_all_trials(number)[0].intermediate_values == {1: 0.25, 2: 0.5}
    study.tell(trial, 0.75)
    assert exhibit.get_best_trial(number).value == 0.75
    assert "Best so far: 75.0%" in note(exhibit)


def test_note_and_plots_are_made_only_when_something_has_ended(
    writer: Database, exhibit: Exhibit, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    draw = charts.for_dashboard

    def counted(*arguments: Any) -> dict[str, Any]:
        made.append(1)
        return draw(*arguments)

    monkeypatch.setattr(charts, "for_dashboard", counted)
    finish(writer, 0.5)
    first = shown(exhibit).system_attrs
    assert shown(exhibit).system_attrs == first
    exhibit.get_all_studies()  # for who asks for none
    assert len(made) == 1
    finish(writer, 0.6)
    assert shown(exhibit).system_attrs != first
    writer.update_facts("s", teacher_accuracy=0.9)
    assert "| validation accuracy | 90.0% | 60.0% |" in note(exhibit)
    assert len(made) == 3


def test_a_study_is_made_for_who_asked_and_a_foreign_one_never(
    writer: Database, exhibit: Exhibit
) -> None:
    optuna.create_study(study_name="foreign", storage=writer.storage)
    assert [each.system_attrs for each in exhibit.get_all_studies()] == [{}, {}]
    assert shown(exhibit, "foreign").system_attrs == {}
    assert shown(exhibit).system_attrs["study:metric_names"] == ["validation accuracy"]


def test_a_study_that_cannot_be_described_is_shown_even_so(
    writer: Database, exhibit: Exhibit, caplog: pytest.LogCaptureFixture
) -> None:
    finish(writer, 0.5)
    writer.set_question("s", {"of": "another release"})
    assert note(exhibit).startswith("This study cannot be described: `KeyError: ")
    assert "Traceback" in caplog.text
    assert len(exhibit.get_all_trials(exhibit.get_study_id_from_name("s"))) == 1


def test_a_note_does_not_say_where_the_database_is(
    writer: Database, exhibit: Exhibit, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    def damaged(*_: Any) -> None:
        raise StorageError(f"the file 'x' at {url} is damaged")

    monkeypatch.setattr(results, "summary", damaged)
    assert note(exhibit) == "This study cannot be described: the dashboard's log says why"


def test_only_what_may_pass_is_an_outage(exhibit: Exhibit) -> None:
    engine = exhibit._base.engine
    with pytest.raises(sa.exc.SQLAlchemyError), raising_away(), engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    with pytest.raises(Away), raising_away():
        raise sa.exc.OperationalError("x", {}, Exception("gone"), connection_invalidated=True)


def test_only_what_is_written_goes_to_the_writer(url: str, writer: Database) -> None:
    base, begun = connect(url, read_only=True), list[str]()
    exhibit = Exhibit(base, writer)
    study = optuna.load_study(study_name="s", storage=writer.storage)
    number, trial = study._study_id, study.ask()
    sa.event.listen(writer.engine, "begin", lambda _: begun.append("begun"))
    shown(exhibit)
    exhibit.get_all_trials(number)
    exhibit.get_study_system_attrs(number)
    assert begun == []
    exhibit.set_study_system_attr(number, "a", 1)
    exhibit.set_trial_system_attr(trial._trial_id, "b", 2)
    exhibit.set_trial_user_attr(trial._trial_id, "c", 3)
    exhibit.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    assert len(begun) >= 4
    (found,) = exhibit.get_all_trials(number)
    assert (found.value, found.user_attrs, found.system_attrs["b"]) == (0.5, {"c": 3}, 2)
    assert exhibit.get_study_system_attrs(number)["a"] == 1
    base.close()


def test_nothing_of_it_is_stored(writer: Database, exhibit: Exhibit) -> None:
    shown(exhibit)
    assert writer.storage.get_study_system_attrs(exhibit.get_study_id_from_name("s")) == {}


def test_the_best_trial_keeps_its_constraints(writer: Database, exhibit: Exhibit) -> None:
    number = exhibit.get_study_id_from_name("s")
    over = {"constraints:latency_ms": 1.0}
    finish(writer, 0.9, system_attrs=over)
    assert exhibit.get_best_trial(number).value == 0.9  # none keeps them
    finish(writer, 0.5, system_attrs={"constraints:latency_ms": -1.0})
    finish(writer, 0.4)
    assert exhibit.get_best_trial(number).value == 0.5
    best = results.best(optuna.load_study(study_name="s", storage=writer.storage))
    assert best is not None
    assert best.accuracy == 0.5


def test_a_pareto_study_is_shown_too(writer: Database, exhibit: Exhibit) -> None:
    space = {"removed_blocks": {"choices": [3, 5]}}
    begin(writer, "p", objectives=["accuracy", "latency_ms"], pruner="none", space=space)
    attributes = shown(exhibit, "p").system_attrs
    assert attributes["study:metric_names"] == ["validation accuracy", "latency (ms)"]


def test_a_study_that_was_replaced_under_its_number_is_read_anew(
    writer: Database, exhibit: Exhibit
) -> None:
    forgotten: list[int] = []
    exhibit.forget = lambda: forgotten.append(1)
    finish(writer, 0.9)
    number = exhibit.get_study_id_from_name("s")
    shown(exhibit)
    assert len(exhibit.get_all_trials(number)) == 1
    with writer.transaction() as connection:
        connection.exec_driver_sql("UPDATE igkd_studies SET created = 'later'")
        connection.exec_driver_sql("DELETE FROM trial_params")
        connection.exec_driver_sql("DELETE FROM trial_values")
        connection.exec_driver_sql("DELETE FROM trials")
    exhibit.get_all_studies()
    assert forgotten == [1]
    assert exhibit.get_all_trials(number) == []
    assert "No trial has completed yet" in note(exhibit)
