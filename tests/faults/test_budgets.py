"""Many workers at one budget: where they begin, when it changes, and beside another search."""

from pathlib import Path

import pytest

from igkd_search import registry
from igkd_search.database import connect
from igkd_search.slots import Slots
from igkd_search.spec import Study
from tests.databases import KINDS, Kind, at_once, fresh_url
from tests.faults.crew import Crew, study_of

PROCESSES = 20


def begin(url: str, study: Study) -> int | None:
    """Open, register and claim, as every worker does that comes first."""
    base = connect(url)
    registry.register(base, study)
    claim = Slots(base, study.name).claim()
    base.close()
    return None if claim is None else claim.slot


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_begin_a_search_at_once_all_get_in(kind: Kind, tmp_path: Path) -> None:
    found = at_once(PROCESSES, begin, fresh_url(kind, tmp_path), study_of(trials=PROCESSES))
    assert sorted(found) == list(range(PROCESSES))


@pytest.mark.parametrize(("budgets", "expected"), [((8,), 8), ((1,), 3), ((7, 2, 5), 5)])
def test_a_budget_that_changes_while_workers_are_at_work_is_exact(
    crew: Crew, budgets: tuple[int, ...], expected: int
) -> None:
    """What somebody works on is finished, even beyond a smaller budget."""
    study = crew.begin(study_of(trials=4))
    members = [crew.hire(study, plan={("train", 2): "wait"}) for _ in range(3)]
    for member in members:
        assert member.at() == ("train", 2)
    for trials in budgets:
        crew.begin(study, trials)
    for member in members:
        member.go()
    for member in members:
        assert "ended: budget" in member.ended()
    crew.check_budget(study, expected)
    assert crew.repeated(study) == 0


def test_two_searches_on_one_database_do_not_mix(crew: Crew) -> None:
    studies = [crew.begin(study_of("s", trials=5)), crew.begin(study_of("S", trials=3, epochs=2))]
    members = [crew.hire(study) for study in studies for _ in range(2)]
    for member in members:
        member.ended()
    for study, trials in zip(studies, (5, 3), strict=True):
        crew.check_budget(study, trials)
