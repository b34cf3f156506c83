"""The latency budget: students that take too long leave the space before the first trial.

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
    """The study with only those students that fit its budget, and a line for each that left.

    `latency_ms` maps a student's name to the median time of one image in ONNX Runtime: the figures
    that the study keeps, not those of this host. StudyError when no student is left, or when a
    point of search.start asks for one that left.
    """
    budget = study.search.latency_budget_ms
    if budget is None:
        return study, []
    every = study.students()
    fit = [each for each in every if latency_ms[each.name] <= budget]
    if not fit:
        raise _nothing_left(study, {each.name: latency_ms[each.name] for each in every}, budget)
    left = [
        f"{each.name}: {latency_ms[each.name]:.3g} ms, over search.latency_budget_ms = {budget:g}"
        for each in every
        if each not in fit
    ]
    if not left:
        return study, []
    narrowed = _narrowed(study, fit)
    _check_start(study, narrowed, latency_ms, budget)
    return narrowed, left


def _nothing_left(study: spec.Study, latency_ms: Mapping[str, float], budget: float) -> StudyError:
    name = min(latency_ms, key=lambda each: (latency_ms[each], each))
    enough = math.ceil(latency_ms[name] * 100) / 100
    return StudyError(
        f"study '{study.name}': no student is within search.latency_budget_ms = {budget:g}; the "
        f"nearest is {name} with {latency_ms[name]:.3g} ms. Type latency_budget_ms = {enough:g}, "
        f"or let search.space hold smaller students ({', '.join(spec.SHAPE)})"
    )


def _check_start(
    study: spec.Study, narrowed: spec.Study, latency_ms: Mapping[str, float], budget: float
) -> None:
    faults = []
    for position, point in enumerate(study.search.start):
        if not narrowed.agreeing(point):
            name = min((latency_ms[each.name], each.name) for each in study.agreeing(point))[1]
            faults.append(
                f"search.start[{position}]: {name} takes {latency_ms[name]:.3g} ms, over "
                f"search.latency_budget_ms = {budget:g}; leave the point out, or raise the budget"
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
