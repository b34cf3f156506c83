"""Samplers and pruners by name, with the options that a study file may give each of them.

An option is named as Optuna's parameter and means the same; a test holds the names to Optuna's
constructors. An option that is not given is decided by the budget and the epochs where Optuna's own
default would not suit them (`space`). Steps are completed epochs. Imports neither torch nor optuna.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)

CLOSED = ConfigDict(
    frozen=True,
    extra="forbid",
    strict=True,
    allow_inf_nan=False,
    use_attribute_docstrings=True,
)
"""What holds for every model of a study file: frozen, no unknown key, and "8" is no number."""

IN_EPOCHS = ("min_resource", "n_warmup_steps", "patience")
"""The options that are epochs, after which there must be something left to prune."""


class Options(BaseModel):
    """What a sampler or pruner may be told."""

    model_config = CLOSED

    def epochs(self) -> Iterator[tuple[str, int]]:
        """The options in epochs that were given, by the place below this table."""
        for name in IN_EPOCHS:
            given = getattr(self, name, None)
            if given is not None:
                yield name, given


class Nothing(Options):
    """Of a sampler or pruner that takes no options."""


class ByChanceFirst(Options):
    """A sampler that learns once there is something to learn from."""

    n_startup_trials: int | None = Field(None, ge=1)
    """Trials by chance before the model proposes; by default a quarter of the budget, at least 3
    and at most 10."""


class Tpe(ByChanceFirst):
    """Tree-structured Parzen estimator."""

    n_ei_candidates: int = Field(24, ge=1)
    """Candidates drawn for each proposal, of which the most promising is taken."""
    multivariate: bool = True
    """Whether fields are modelled together, not each by itself."""
    group: bool = False
    """Whether fields are grouped by the trials they occurred in; needs multivariate."""
    constant_liar: bool = True
    """Whether running trials count as poor ones, so that workers do not crowd together."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group and not self.multivariate:
            raise ValueError("group = true needs multivariate = true")
        return self


class Gp(ByChanceFirst):
    """Gaussian process."""

    deterministic_objective: bool = False
    """Whether the same configuration always shows the same accuracy; with seeds it does not."""


class Cmaes(ByChanceFirst):
    """Covariance matrix adaptation; models numbers, draws choices by chance."""

    popsize: int | None = Field(None, ge=2)
    """Trials a generation; by default 4 + floor(3 ln fields)."""
    consider_pruned_trials: bool = False
    """Whether pruned trials teach the model too."""
    use_separable_cma: bool = False
    """Whether fields are taken as independent."""
    with_margin: bool = False
    """Whether whole numbers and steps are kept from collapsing onto one value."""
    lr_adapt: bool = False
    """Whether the step of the model adapts to noise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = ("lr_adapt", "use_separable_cma", "with_margin")
        on = [name for name in names if getattr(self, name)]
        if len(on) > 1:
            raise ValueError(f"{' and '.join(on)} exclude each other; leave one of them")
        return self


class Nsga2(Options):
    """A genetic algorithm of generations."""

    population_size: int | None = Field(None, ge=2)
    """Trials a generation; by default a fifth of the budget, at least 4."""
    mutation_prob: float | None = Field(None, ge=0, le=1)
    """Chance that a field mutates; by default 1 / fields."""
    crossover_prob: float = Field(0.9, ge=0, le=1)
    """Chance that a child has two parents."""
    swapping_prob: float = Field(0.5, ge=0, le=1)
    """Chance that a field comes from the second parent."""


class Qmc(Options):
    """A sequence that fills the space evenly."""

    qmc_type: Literal["halton", "sobol"] = "sobol"
    scramble: bool = True
    """Whether the sequence is shuffled by the study's seed."""


class Halving(Options):
    """A pruner of rungs: at each, the best share of those that came so far goes on."""

    min_resource: int | None = Field(None, ge=1)
    """Epochs before the first rung; by default a quarter of the epochs, for early ones mislead."""
    reduction_factor: int = Field(3, ge=2)
    """One in so many goes on; rungs lie so many times as far."""
    bootstrap_count: int = Field(0, ge=0)
    """Trials that must have come to a rung before one may go on."""


class Hyperband(Halving):
    """Rungs of several first lengths, so that slow starters have a bracket of their own."""


class Asha(Halving):
    """Asynchronous successive halving: one bracket."""

    min_early_stopping_rate: int = Field(0, ge=0)
    """How many rungs are skipped at the beginning."""


class Ranked(Options):
    """A pruner by the accuracies that earlier trials showed at the same epoch."""

    n_startup_trials: int = Field(3, ge=0)
    """Trials that must be complete before any is pruned."""
    n_warmup_steps: int | None = Field(None, ge=0)
    """Epochs in which nothing is pruned; by default a quarter of the epochs."""
    interval_steps: int = Field(1, ge=1)
    """Epochs between two judgements."""
    n_min_trials: int = Field(1, ge=1)
    """Trials that must have shown an accuracy at this epoch."""


class Median(Ranked):
    """Prunes what is below the median of earlier trials at the same epoch."""


class Percentile(Ranked):
    """Prunes what is not among the best share of earlier trials at the same epoch."""

    percentile: float = Field(ge=0, le=100)
    """The share that goes on, in per cent: 25 keeps the best quarter."""


class Threshold(Options):
    """Prunes by an accuracy that is known beforehand."""

    lower: float | None = Field(None, ge=0, le=1)
    """Accuracy below which a trial is pruned."""
    upper: float | None = Field(None, ge=0, le=1)
    """Accuracy above which a trial is pruned."""
    n_warmup_steps: int | None = Field(None, ge=0)
    """Epochs in which nothing is pruned; by default a quarter of the epochs."""
    interval_steps: int = Field(1, ge=1)
    """Epochs between two judgements."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lower is None and self.upper is None:
            raise ValueError(
                "threshold needs lower, the accuracy below which a trial is pruned (or upper); "
                "type lower = 0.5, say"
            )
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"lower = {self.lower:g} is above upper = {self.upper:g}")
        return self


def _chosen(value: object, info: ValidationInfo) -> Options:
    assert info.field_name is not None
    model = model_of(info.field_name, info.data)
    if model is None:
        return Nothing()  # the name is at fault, and said to be
    return model.model_validate({} if isinstance(value, Nothing) else value)


Chosen = Annotated[SerializeAsAny[Options], PlainValidator(_chosen)]
"""Options of what an earlier field of the same table names; see `CHOOSERS`."""


class Patient(Options):
    """Prunes what has not improved for some epochs, and what another pruner says of it."""

    wrapped_pruner: Literal["asha", "hyperband", "median", "none", "percentile", "threshold"] = (
        "none"
    )
    """The pruner that is asked then; with none patience alone decides."""
    wrapped_pruner_options: Chosen = Field(Nothing(), validate_default=True)
    """Options of that pruner."""
    patience: int = Field(ge=0)
    """Epochs without an improvement that are forgiven."""
    min_delta: float = Field(0.0, ge=0)
    """Accuracy by which an epoch must fall short to count as none."""

    def epochs(self) -> Iterator[tuple[str, int]]:
        """Its own, and those of the wrapped pruner."""
        yield from super().epochs()
        for name, given in self.wrapped_pruner_options.epochs():
            yield f"wrapped_pruner_options.{name}", given


SAMPLERS: Mapping[str, type[Options]] = {
    "cmaes": Cmaes,
    "gp": Gp,
    "grid": Nothing,
    "nsga2": Nsga2,
    "qmc": Qmc,
    "random": Nothing,
    "tpe": Tpe,
}
"""Sampler -> its options."""

PRUNERS: Mapping[str, type[Options]] = {
    "asha": Asha,
    "hyperband": Hyperband,
    "median": Median,
    "none": Nothing,
    "patient": Patient,
    "percentile": Percentile,
    "threshold": Threshold,
}
"""Pruner -> its options."""

CHOOSERS: Mapping[str, tuple[str, str, Mapping[str, type[Options]]]] = {
    "sampler_options": ("sampler", "tpe", SAMPLERS),
    "pruner_options": ("pruner", "hyperband", PRUNERS),
    "wrapped_pruner_options": ("wrapped_pruner", "none", PRUNERS),
}
"""A table of options -> the key that chooses its model, that key's default, name -> model."""


def model_of(table: str, given: Mapping[str, Any]) -> type[Options] | None:
    """The model of a table of options, in view of its sister keys; None where their name is none.

    `table` is a key of CHOOSERS.
    """
    key, default, models = CHOOSERS[table]
    name = given.get(key, default)
    return models.get(name) if isinstance(name, str) else None
