"""The trial of a slot: found, or made once, with the slot as its birthmark.

A trial carries its slot from the transaction that makes it, so whoever claims slot i looks for
trial i first, and a crash between any two writes heals itself.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial

from igkd_search import database, queued, slots, space, spec


def find(study: optuna.Study, slot: int) -> FrozenTrial | None:
    """The trial of a slot: the first that was made for it, or the last retry of that one."""
    return among(study.get_trials(deepcopy=False), slot)


def among(trials: Sequence[FrozenTrial], slot: int) -> FrozenTrial | None:
    """The same among trials that were read already."""
    mine = [trial for trial in trials if trial.user_attrs.get("slot") == slot]
    found = next((trial for trial in mine if "retry_of" not in trial.user_attrs), None)
    while found is not None:
        number = found.number
        again = next((trial for trial in mine if trial.user_attrs.get("retry_of") == number), None)
        if again is None:
            return found
        found = again
    return None


def make(
    study: optuna.Study,
    question: spec.Study,
    base: database.Database,
    slot: int,
    prove: Callable[[sa.Connection], None] = lambda connection: None,
) -> FrozenTrial:
    """Make the trial of a slot that has none; it waits, with what start or queue gives to it.

    `prove` raises, within a transaction, unless the caller holds the slot.
    """
    fixed, by = _fixed(question, base, slot, prove)
    tries = itertools.count()

    def make_it() -> FrozenTrial:
        # the word that it was made may have been lost with the connection
        made = find(study, slot) if next(tries) else None
        if made is None:
            study.enqueue_trial(fixed, user_attrs={"slot": slot, **by})
            made = find(study, slot)
        assert made is not None
        return made

    def try_once() -> FrozenTrial:
        with base.patience.once():
            return make_it()

    return base.patience(try_once)


def configure(trial: optuna.Trial, question: spec.Study, claim: slots.Claim) -> spec.TrialConfig:
    """Ask for what the trial is, and note who proposed it, its seed and its attempts."""
    config = space.suggest(trial, question)
    if claim.attempt == 1 or "seed" not in trial.user_attrs:
        if "proposed_by" not in trial.user_attrs:
            by = space.proposer(question, trial)
            trial.set_user_attr("proposed_by", by)
        trial.set_user_attr("seed", spec.trial_seed(question.search.seed, claim.slot))
    trial.set_user_attr("attempts", claim.attempt)
    return config


def _fixed(
    question: spec.Study,
    base: database.Database,
    slot: int,
    prove: Callable[[sa.Connection], None],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters that are given to the trial of a slot, and by whom it is proposed then."""
    start = question.search.start
    if slot < len(start):
        return space.fixed(question, start[slot]), {"proposed_by": "start"}
    point = queued.take(base, question.name, slot, prove)
    if point is None:
        return {}, {}
    return space.fixed(question, point), {"proposed_by": "queue"}
