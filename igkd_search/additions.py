"""Configurations that a person wants to be tried next, typed as NAME=VALUE (`igkd add`)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from igkd_search import database, feasible, queued, registry, slots, space, spec
from igkd_search.errors import StudyError


@dataclass(frozen=True)
class Queue:
    """What waits to be tried, and how many slots are left for it.

    fresh counts the slots that nobody has claimed and that have no point of search.start.
    """

    study: str
    waiting: list[dict[str, Any]]
    fresh: int
    trials: int

    @property
    def trials_needed(self) -> int | None:
        """The budget with which all that waits would be tried; None when there is room for it."""
        missing = len(self.waiting) - self.fresh
        return self.trials + missing if missing > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "trials_needed": self.trials_needed}


def queue_of(base: database.Database, name: str) -> Queue:
    """What waits in a study; StorageError when the database does not hold it."""
    _, study = registry.stored(base, name)
    rows = slots.Slots(base, name).rows()
    first = len(study.search.start)
    fresh = sum(row.state == "open" and row.attempt == 0 and row.slot >= first for row in rows)
    return Queue(name, queued.waiting(base, name), fresh, len(rows))


def add(base: database.Database, name: str, words: Sequence[str]) -> Queue:
    """Queue the configuration that NAME=VALUE words say; what they leave out is sampled.

    StudyError with every reason why the search could not try it.
    """
    point = parse(_as_searched(*registry.stored(base, name)), words)
    queued.add(base, name, [point])
    return queue_of(base, name)


def parse(study: spec.Study, words: Sequence[str]) -> dict[str, Any]:
    """The values of NAME=VALUE words, each of its field's type; StudyError as `add`."""
    point: dict[str, Any] = {}
    faults: list[str] = []
    for word in words:
        name, is_pair, text = word.partition("=")
        if not is_pair or not name:
            faults.append(f"{word!r}: type NAME=VALUE")
        elif name in point:
            faults.append(f"{name}: given twice")
        else:
            try:
                point[name] = _value(study, name, text)
            except ValueError:
                faults.append(f"{name} = {text!r} is no {_kind(name)}")
    if faults:
        faults += study.faults_of_point(point)
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise StudyError(f"study '{study.name}' cannot try this:{listed}")
    space.check_point(study, point)
    return point


def _as_searched(record: database.StudyRow, study: spec.Study) -> spec.Study:
    """The study without the students that miss its bounds on latency."""
    table = record.facts.get("latency", {})
    latency_ms = {name: row["onnxruntime"]["median_ms"] for name, row in table.items()}
    return feasible.within(study, latency_ms)[0]


def _value(study: spec.Study, name: str, text: str) -> Any:
    kind = _type(name)
    value: Any = text
    if kind is bool:
        value = {"true": True, "false": False}.get(text.lower())
        if value is None:
            raise ValueError
    elif kind in (int, float):
        value = kind(text)
    span = study.search.space.get(name)
    choices = span.choices if span is not None and span.choices is not None else []
    # as the file writes it: 1 and 1.0 are the same choice
    return next((choice for choice in choices if choice == value), value)


def _type(name: str) -> Any:
    return spec.kind_of(name) if name in spec.TrialConfig.model_fields else str


def _kind(name: str) -> str:
    return {bool: "true or false", int: "whole number", float: "number"}[_type(name)]
