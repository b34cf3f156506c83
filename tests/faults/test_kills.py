"""Workers that are killed, one after the other and at each place between two writes."""

import random
import signal
from collections import Counter

import sqlalchemy as sa

from igkd_search import database, worker
from tests.faults.crew import Crew, study_of

WORKERS, TRIALS = 8, 40


def test_a_search_survives_the_death_of_worker_after_worker(crew: Crew) -> None:
    """A random worker is killed each time two more trials have finished, another one comes."""
    study = crew.begin(study_of(trials=TRIALS, epochs=2, max_attempts=TRIALS))
    chance, kills, killed_at = random.Random(5), 0, 0
    connections: Counter[str] = Counter()

    def come() -> None:
        name = f"worker-{len(crew.members)}"
        crew.hire(study, url=named(crew, name))

    def step() -> bool:
        nonlocal kills, killed_at, connections
        connections |= open_connections(crew)  # the most that each has had
        done = crew.table(study).counts().done
        at_work = [member for member in crew.members if member.process.is_alive()]
        if killed_at + 2 <= done < TRIALS and at_work:
            kills, killed_at = kills + 1, done
            chance.choice(at_work).kill()
            come()
        return done == TRIALS

    for _ in range(WORKERS):
        come()
    crew.until(step, "the end of the search")
    for member in crew.members:
        member.process.join()
    assert kills >= 10
    crew.check_budget(study, TRIALS, deaths=kills)
    assert any(attempt.end == "died" for attempt in crew.table(study).attempts())
    assert crew.repeated(study) <= kills
    assert not list(crew.folder.rglob("epoch-*"))
    if crew.kind == "postgresql":
        assert len(connections) >= WORKERS
        assert max(connections.values()) <= database.CONNECTIONS, "its own and its lease's"


def test_a_death_at_any_place_between_two_writes_heals(crew: Crew) -> None:
    studies = {point: crew.begin(study_of(point, trials=2, epochs=2)) for point in worker.POINTS}
    doomed = {point: crew.hire(study, plan={(point, 1): "die"}) for point, study in studies.items()}
    for point, member in doomed.items():
        member.ended(-signal.SIGKILL)
        (attempt,) = crew.table(studies[point]).attempts()
        assert (attempt.slot, attempt.attempt) == (0, 1)
        assert attempt.end == ("done" if point == "finished" else None)
    healers = [crew.hire(study) for study in studies.values()]
    for healer in healers:
        healer.ended()
    for point, study in studies.items():
        crew.check_budget(study, 2, deaths=0 if point == "finished" else 1)
        # what was trained is on the disk before any of these places, so none is trained twice
        assert crew.repeated(study) == 0


def test_a_trial_whose_checkpoint_is_out_of_sight_starts_anew_and_says_so(crew: Crew) -> None:
    study = crew.begin(study_of(epochs=3))
    crew.hire(study, plan={("reported", 2): "die"}).ended(-signal.SIGKILL)
    said = crew.hire(study, checkpoints=crew.folder / "another disk").ended()
    assert "attempt 2 goes on from epoch 0, since there is no checkpoint here" in said
    crew.check_budget(study, 1, deaths=1)
    begun = [(note.attempt, note.epoch) for note in crew.notes(study) if note.what == "begun"]
    assert begun == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]


def test_a_trial_that_takes_worker_after_worker_with_it_is_given_up(crew: Crew) -> None:
    study = crew.begin(study_of(max_attempts=2))
    for _ in range(2):
        crew.hire(study, plan={("train", 1): "die"}).ended(-signal.SIGKILL)
    said = crew.hire(study).ended()
    assert "trial 0 failed: lost: 2 attempts" in said
    (row,) = crew.table(study).rows()
    assert (row.state, row.attempt, row.outcome) == ("done", 3, "failed:lost")
    (trial,) = crew.trials(study)
    assert (trial.state.name, trial.user_attrs["cause"]) == ("FAIL", "lost")


def named(crew: Crew, name: str) -> str:
    """The URL by which Postgres can tell who has opened a connection."""
    if crew.kind == "sqlite":
        return crew.url
    url = sa.make_url(crew.url).update_query_dict({"application_name": name})
    return url.render_as_string(hide_password=False)


def open_connections(crew: Crew) -> Counter[str]:
    if crew.kind == "sqlite":
        return Counter()
    query = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'worker-%'"
    with crew.reader.transaction() as connection:
        return Counter(connection.scalars(sa.text(query)))
