"""Optuna's storage as workers need it: it outlives an outage, and writes only for who may write.

A worker that was frozen or cut off may wake when another has taken its slot over. A check before
a write would leave a gap between the two, so the proof of the lease is made in the very transaction
of the write: either both are committed or neither.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from igkd_search.errors import StorageLost
from igkd_search.patience import Patience, passes, said_by

Guard = Callable[[Session], None]
"""Raises LeaseLost, within the session's transaction, unless the caller may write."""

WRITES = (
    "create_new_study",
    "create_new_trial",
    "_create_new_trial",
    "set_trial_param",
    "_set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_study_user_attr",
    "set_study_system_attr",
)
READS = (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "get_all_trials",
    "_get_trials",
    "_get_best_trial_id",
)
"""What Optuna and its cache call; private names too, since the cache calls those."""


class FencedStorage(RDBStorage):
    """Optuna's storage, each operation of which is repeated while the database is away.

    All of them may be repeated: a trial that was made twice waits for ever beside the one that is
    used, and what was told twice raises UpdateFinishedTrialError, after which its slot heals.
    """

    def __init__(self, *arguments: Any, patience: Patience, **options: Any) -> None:
        self.patience = patience
        self._local = threading.local()
        super().__init__(*arguments, **options)
        event.listen(self.scoped_session, "before_commit", self._prove)

    @contextmanager
    def guarded(self, guard: Guard) -> Iterator[None]:
        """Within, and in this thread, a write is committed only together with the guard's word."""
        before = getattr(self._local, "guard", None)
        self._local.guard = guard
        try:
            yield
        finally:
            self._local.guard = before

    def set_trial_attrs(
        self, trial_id: int, user: Mapping[str, Any], system: Mapping[str, Any] | None = None
    ) -> None:
        """Set all user and system attributes in one transaction; Optuna would take one for each."""
        kinds = ((models.TrialUserAttributeModel, user), (models.TrialSystemAttributeModel, system))

        def write() -> None:
            with self.scoped_session() as session, session.begin():
                for kind, attributes in kinds:
                    for name, value in (attributes or {}).items():
                        self._set_trial_attr_without_commit(session, kind, trial_id, name, value)

        self._repeated(write, writes=True)

    def _prove(self, session: Session) -> None:
        guard = getattr(self._local, "guard", None)
        if guard is not None and getattr(self._local, "writing", False):
            guard(session)

    def _repeated(self, operation: Callable[[], Any], writes: bool) -> Any:
        def once() -> Any:
            before = getattr(self._local, "writing", False)
            self._local.writing = before or writes
            try:
                return operation()
            except (StorageInternalError, SQLAlchemyError) as error:
                if not passes(error):
                    raise
                raise StorageLost(f"the database is away: {said_by(error)}") from error
            finally:
                self._local.writing = before

        return self.patience(once)


def _repeating(name: str, writes: bool) -> Callable[..., Any]:
    plain = getattr(RDBStorage, name)

    @functools.wraps(plain)
    def method(self: FencedStorage, *arguments: Any, **options: Any) -> Any:
        return self._repeated(lambda: plain(self, *arguments, **options), writes)

    return method


for _name in (*WRITES, *READS):
    setattr(FencedStorage, _name, _repeating(_name, _name in WRITES))
