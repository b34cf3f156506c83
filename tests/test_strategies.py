"""Options have the names of Optuna's parameters, and are chosen by the name beside them."""

import inspect
from pathlib import Path
from typing import get_args

import pytest

from igkd_search import spec, strategies
from tests.optunas import OPTUNAS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "search.md"

NOT_OFFERED = {
    # ours, or objects, which a file cannot name
    *("seed", "max_resource", "x0", "gamma", "weights", "mutation", "crossover", "source_trials"),
    *("independent_sampler", "constraints_func", "elite_population_selection_strategy"),
    *("child_generation_strategy", "after_trial_strategy"),
    # of the log
    *("warn_independent_sampling", "warn_asynchronous_seeding"),
    # deprecated
    *("consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints"),
    *("restart_strategy", "inc_popsize", "sigma0"),
}


@pytest.mark.parametrize("name", OPTUNAS)
def test_options_are_the_parameters_of_optunas_constructors(name: str) -> None:
    model = {**strategies.SAMPLERS, **strategies.PRUNERS}[name]
    ours = set(model.model_fields) - {"wrapped_pruner_options"}
    theirs = set(inspect.signature(OPTUNAS[name]).parameters)
    assert ours == theirs - NOT_OFFERED


def test_what_takes_no_options_has_none() -> None:
    models = {**strategies.SAMPLERS, **strategies.PRUNERS}
    without = {name for name, model in models.items() if not model.model_fields}
    assert without == set(models) - set(OPTUNAS) == {"grid", "random", "none"}


def test_a_patient_pruner_wraps_any_other() -> None:
    wrapped = strategies.Patient.model_fields["wrapped_pruner"].annotation
    assert {*get_args(wrapped), "patient"} == set(strategies.PRUNERS)


@pytest.mark.parametrize("table", strategies.CHOOSERS)
def test_the_name_beside_a_table_chooses_its_options(table: str) -> None:
    key, default, models = strategies.CHOOSERS[table]
    owner = strategies.Patient if key == "wrapped_pruner" else spec.Search
    assert owner.model_fields[key].default == default
    assert strategies.model_of(table, {}) is models[default]
    for name, model in models.items():
        assert strategies.model_of(table, {key: name}) is model
    for wrong in ("none such", 3, ["tpe"]):
        assert strategies.model_of(table, {key: wrong}) is None


def test_options_in_epochs_are_named_by_their_place() -> None:
    given = {"patience": 2, "wrapped_pruner": "median"}
    inner = {"n_warmup_steps": 5, "n_startup_trials": 9}
    made = strategies.Patient.model_validate({**given, "wrapped_pruner_options": inner})
    found = [("patience", 2), ("wrapped_pruner_options.n_warmup_steps", 5)]
    assert list(made.epochs()) == found
    assert list(strategies.Hyperband().epochs()) == []
    named = {name for model in strategies.PRUNERS.values() for name in model.model_fields}
    assert set(strategies.IN_EPOCHS) <= named


def test_the_page_names_every_key_sampler_pruner_and_option() -> None:
    page = PAGE.read_text(encoding="utf-8")
    models = [*strategies.SAMPLERS.values(), *strategies.PRUNERS.values()]
    wanted = {name for model in models for name in model.model_fields}
    wanted |= {*strategies.SAMPLERS, *strategies.PRUNERS}
    keys = {field.alias or name for name, field in spec.Search.model_fields.items()}
    wanted |= keys - {*strategies.CHOOSERS, "space", "start"}
    assert [name for name in sorted(wanted) if f"`{name}`" not in page] == []
    for table in ("[search.sampler_options]", "[search.pruner_options]", "[search.space]"):
        assert table in page
    assert "[[search.start]]" in page
