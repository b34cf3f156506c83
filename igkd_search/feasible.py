"""Bounds on latency: students that take too long leave the space before the first trial.

What is left is asked for as before where it can be: narrower ranges, shorter choices. Where the
students that fit are no such product, Optuna is asked for one of them by name. Optuna freezes the
choices a study began with, so the answer depends on the question and its latency table alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from igkd_search import spec
from igkd_search.errors import StudyError


def within(study: spec.Study, latency_ms: Mapping[str, float]) -> tuple[spec.Study, list[str]]:
    """The study with only those students that keep its bounds, and a line for each that left.

    `latency_ms` maps a student's name, or "teacher", to the median time of one image in ONNX
    Runtime: the figures that the study keeps, not those of this host. StudyError when no student is
    left, or when a point of search.start asks for one that left.
    """
    search = study.search
    if not search.is_bounded:
        return study, []
    why = {each: _why_not(search, each.name, latency_ms) for each in study.students()}
    fit = [each for each, reason in why.items() if not reason]
    if not fit:
        raise _nothing_left(study, latency_ms)
    left = [f"{each.name}: {reason}" for each, reason in why.items() if reason]
    if not left:
        return study, []
    narrowed = _narrowed(study, fit)
    if search.is_pareto and len(fit) == 1:
        raise StudyError(
            f"study '{study.name}': {fit[0].name} alone keeps {_bounds(search)}, so there is "
            "no trade-off to seek; ask for less, or leave latency_ms out of search.objectives"
        )
    _check_start(study, narrowed, latency_ms)
    return narrowed, left


def _why_not(search: spec.Search, name: str, latency_ms: Mapping[str, float]) -> str:
    """What bounds a student misses, and by how much; nothing where it keeps them."""
    took, speedup = latency_ms[name], speedup_of(name, latency_ms)
    excess = search.excess(took, speedup)
    missed = []
    if excess.get("latency_ms", 0) > 0:
        budget = search.latency_budget_ms
        missed.append(f"{took:.3g} ms, over search.latency_budget_ms = {budget:g}")
    if excess.get("speedup", 0) > 0:
        missed.append(
            f"{took:.3g} ms, {speedup:.3g} times as fast as the teacher, under search.min_speedup "
            f"= {search.min_speedup:g}"
        )
    return "; ".join(missed)


def speedup_of(name: str, latency_ms: Mapping[str, float]) -> float:
    """How many times faster than the teacher a student is."""
    return latency_ms["teacher"] / latency_ms[name]


def _nothing_left(study: spec.Study, latency_ms: Mapping[str, float]) -> StudyError:
    search = study.search
    name = min((latency_ms[each.name], each.name) for each in study.students())[1]
    enough = {
        "latency_budget_ms": math.ceil(latency_ms[name] * 100) / 100,
        "min_speedup": math.floor(speedup_of(name, latency_ms) * 100) / 100,
    }
    missed = {"latency_ms": "latency_budget_ms", "speedup": "min_speedup"}
    excess = search.excess(latency_ms[name], speedup_of(name, latency_ms))
    keys = [missed[bound] for bound, by in excess.items() if by > 0]
    return StudyError(
        f"study '{study.name}': no student keeps {_bounds(search)}; the nearest is {name}: "
        f"{_why_not(search, name, latency_ms)}. Type "
        + " and ".join(f"{key} = {enough[key]:g}" for key in keys)
        + f", or let search.space hold smaller students ({', '.join(spec.SHAPE)})"
    )


def _bounds(search: spec.Search) -> str:
    keys = ("latency_budget_ms", "min_speedup")
    given = {key: getattr(search, key) for key in keys}
    return " and ".join(f"search.{key} = {to:g}" for key, to in given.items() if to is not None)


def _check_start(study: spec.Study, narrowed: spec.Study, latency_ms: Mapping[str, float]) -> None:
    faults = []
    for position, point in enumerate(study.search.start):
        if not narrowed.agreeing(point):
            name = min((latency_ms[each.name], each.name) for each in study.agreeing(point))[1]
            faults.append(
                f"search.start[{position}]: {name} takes "
                f"{_why_not(study.search, name, latency_ms)}; leave the point out, or ask for less"
            )
    if faults:
        raise StudyError(f"study '{study.name}': " + "\n  ".join(faults))


def _narrowed(study: spec.Study, fit: Sequence[spec.Architecture]) -> spec.Study:
    axes = {name: {each.as_fields()[name] for each in fit} for name in spec.SHAPE}
    product = math.prod(len(values) for values in axes.values()) == len(fit)
    if study.search.students is not None or not product:
        return _with(study, students=[each.name for each in fit])
    ranges = {
        name: _range(span, axes[name]) if name in spec.SHAPE else span
        for name, span in study.search.space.items()
    }
    return _with(study, space=ranges)


def _range(span: spec.Range, kept: set[Any]) -> spec.Range:
    """A range of these of its values: still a range where they are neighbours."""
    values = span.values()
    if span.choices is not None:
        return spec.Range(choices=[value for value in span.choices if value in kept])
    places = [place for place, value in enumerate(values) if value in kept]
    first, last = places[0], places[-1]
    if len(places) > 1 and last - first + 1 == len(places):
        return spec.Range(low=values[first], high=values[last], step=span.step)
    return spec.Range(choices=[values[place] for place in places])


def _with(study: spec.Study, **search: Any) -> spec.Study:
    return study.model_copy(update={"search": study.search.model_copy(update=search)})
