"""A database as optuna-dashboard is shown it: every study with its note and plots, made when read.

Nothing of it is stored, so note and plots are never behind the search, cost the workers nothing
and are there where one may only read. A note that a person wrote is stored and goes before ours.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
import plotly.graph_objects as go
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from igkd_search import charts, code_spans, database, patience, results, schema, study_note
from igkd_search.errors import StorageError, StorageLost, reason_of

log = logging.getLogger(__name__)

T = TypeVar("T")
_NOTE_VERSION = "dashboard:note_ver"
_NOTE = "dashboard:note_str:"
_PLOT = "dashboard:plot_data:"
_METRICS = "study:metric_names"
_OBJECTIVES = {"accuracy": "validation accuracy", "latency_ms": "latency (ms)"}
_PART = 2045
"""Characters of a part, as optuna-dashboard cuts notes and plots; their number is free."""


class Away(BaseException):
    """The database does not answer; no Exception, so that no route takes it for its own fault."""


class NoPatience(patience.Patience):
    """Who looks at a dashboard is told at once that the database is away."""

    def __init__(self) -> None:
        super().__init__(0)

    def __call__(self, action: Callable[[], T]) -> T:
        with raising_away():
            return super().__call__(action)


@contextmanager
def raising_away() -> Iterator[None]:
    """Within, an error of the database that may pass is `Away`; what it refuses for good is not."""
    try:
        yield
    except (StorageLost, StorageInternalError, sa.exc.SQLAlchemyError) as error:
        if not patience.passes(error):
            raise
        raise Away(patience.said_by(error).removeprefix("the database is away: ")) from error


@dataclass(frozen=True)
class _Made:
    """What was made of a study as it was: its row in the database, how many trials ended how."""

    record: database.StudyRow
    states: Counter[TrialState]
    attributes: dict[str, Any]


class Exhibit(_CachedStorage):
    """Optuna's storage of a database; finished trials are read once, studies have their notes.

    Safe to use from several threads. `forget` is called when a study was replaced by another one
    under the same number, as SQLite gives numbers again. What is written goes to `writing`, the
    same database: on SQLite whoever may write waits for the workers even when he only reads.
    """

    def __init__(self, base: database.Database, writing: database.Database | None = None) -> None:
        super().__init__(base.storage)
        self._base = base
        self._writing = (writing or base).storage
        self._asked = threading.local()
        self._making = threading.Lock()
        self._made: dict[int, _Made] = {}
        self._seen: dict[int, tuple[str, str | None]] = {}
        self.forget: Callable[[], None] = lambda: None

    @contextmanager
    def asked_for(self, study_id: int | None) -> Iterator[None]:
        """Within, and in this thread, this one study is given its note and plots.

        optuna-dashboard reads all studies wherever it needs one, and they are not made for all.
        """
        self._asked.study_id = study_id
        try:
            yield
        finally:
            self._asked.study_id = None

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies, that which was asked for with its note and plots among its attributes."""
        found = super().get_all_studies()
        self._drop_replaced(found)
        wanted = getattr(self._asked, "study_id", None)
        for study in found:
            if study._study_id == wanted:
                study.system_attrs = self._additions(study) | study.system_attrs
        return found

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best trial that keeps the constraints, of which Optuna's storage knows nothing.

        As Optuna's study finds it, so that of equal ones it is the same as elsewhere.
        """
        found = super().get_best_trial(study_id)
        if results.keeps_constraints(found):
            return found
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [trial for trial in complete if results.keeps_constraints(trial)]
        (direction,) = self.get_study_directions(study_id)
        sign = 1 if direction == StudyDirection.MAXIMIZE else -1
        return max(feasible, key=lambda trial: sign * (trial.value or 0.0), default=found)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write a note, or the name of a file, of a study."""
        self._writing.set_study_system_attr(study_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write the name of a file of a trial that runs."""
        self._writing.set_trial_system_attr(trial_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute of a trial that runs."""
        self._writing.set_trial_user_attr(trial_id, key, value)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Tell how a trial ended."""
        return bool(self._writing.set_trial_state_values(trial_id, state, values))

    def _drop_replaced(self, found: list[FrozenStudy]) -> None:
        with self._base.transaction() as connection:
            table = schema.studies
            rows = connection.execute(sa.select(table.c.study_name, table.c.created))
            created = {row.study_name: row.created for row in rows}
        names = {study._study_id: study.study_name for study in found}
        now = {number: (name, created.get(name)) for number, name in names.items()}
        with self._lock:
            replaced = [number for number, who in self._seen.items() if now.get(number) != who]
            self._seen = now
            if replaced:
                self._studies.clear()
                self._trial_id_to_study_id_and_number.clear()
                self._study_id_and_number_to_trial_id.clear()
                self._made.clear()
        if replaced:
            self.forget()

    def _additions(self, study: FrozenStudy) -> dict[str, Any]:
        """Note and plots of a study, made again when it has changed; none of one that is not ours.

        What was written by a person replaces the note, unless it is empty.
        """
        record = self._base.read_study(study.study_name)
        if record is None:
            return {}
        trials = self.get_all_trials(study._study_id, deepcopy=False)
        states = Counter(trial.state for trial in trials)
        with self._making:
            made = self._made.get(study._study_id)
            if made is None or (made.record, made.states) != (record, states):
                made = _Made(record, states, self._described(record))
                self._made[study._study_id] = made
        own = [key for key in study.system_attrs if key.startswith(_NOTE)]
        if any(study.system_attrs[key] for key in own):
            return {key: each for key, each in made.attributes.items() if not _is_note(key)}
        for key in own:  # the empty parts of a note that was emptied
            del study.system_attrs[key]
        return made.attributes

    def _described(self, record: database.StudyRow) -> dict[str, Any]:
        """Note and plots, or why there are none: the trials are shown whatever is wrong."""
        try:
            with raising_away():
                return self._make(record)
        except Exception as error:
            log.exception("study %s cannot be described", record.name)
            why = code_spans.code(f"{type(error).__name__}: {reason_of(error)}")
            if isinstance(error, StorageError):
                why = "the dashboard's log says why"  # it would say where the database is
            return {_NOTE_VERSION: 0} | _parts(_NOTE, f"This study cannot be described: {why}")

    def _make(self, record: database.StudyRow) -> dict[str, Any]:
        """All attributes by which optuna-dashboard knows note and plots."""
        name = record.name
        study = optuna.load_study(study_name=name, storage=self)
        summary = results.summary(self._base, name, study)
        objectives = record.question["search"]["objectives"]
        attributes: dict[str, Any] = {
            _METRICS: [_OBJECTIVES.get(each, each) for each in objectives],
            _NOTE_VERSION: 0,  # so that a person's first note has the version after it
        }
        attributes |= _parts(_NOTE, study_note.markdown(summary, record))
        figures = charts.for_dashboard(summary, results.rows(study), record.question)
        for title, figure in figures.items():
            attributes |= _parts(f"{_PLOT}{title}:", _titled(figure, title).to_json())
        return attributes


def _is_note(key: str) -> bool:
    return key == _NOTE_VERSION or key.startswith(_NOTE)


def _titled(figure: go.Figure, title: str) -> go.Figure:
    """The figure under its title, which optuna-dashboard does not show by itself."""
    figure.update_layout(
        title={"text": title.replace("-", " "), "x": 0, "xref": "paper", "font": {"size": 17}},
        margin={"t": 56},
        legend={"y": -0.22, "yanchor": "top"},
    )
    return figure


def _parts(prefix: str, text: str) -> dict[str, str]:
    starts = range(0, len(text), _PART)
    return {f"{prefix}{i}": text[start : start + _PART] for i, start in enumerate(starts)}
