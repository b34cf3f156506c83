"""What a study may say: frozen models, closed to unknown keys.

A Study holds the data, the teacher, the overlays, one decided run (TrialConfig) and the search over
some of its fields. Nothing here imports torch or optuna, so a file is checked in a blink. Names of
sources, samplers and so on are Literals; tests hold them equal to the dicts that implement them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Annotated, Any, Literal, Self, get_args

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from igkd_search import architectures, strategies
from igkd_search.errors import StudyError

Source = Literal["arrays", "cifar10", "cifar100", "digits", "fashion_mnist", "folder", "svhn"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
Sampler = Literal["cmaes", "gp", "grid", "nsga2", "qmc", "random", "tpe"]
Pruner = Literal["asha", "hyperband", "median", "none", "patient", "percentile", "threshold"]
Objective = Literal["accuracy", "latency_ms"]
Rule = Literal[
    "gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"
]
Control = Literal["dim", "none", "random", "shuffled"]
Baseline = Literal["black", "blur", "mean"]
Reduction = Literal["max", "norm", "sum"]


def _check_architecture(name: str) -> str:
    own = [entry.name for entry in architectures.own()]
    known = [*architectures.TORCHVISION, *own]
    if name not in known:
        raise ValueError(
            f"unknown value {name!r}{nearest(name, known)}; allowed: a classifier of torchvision, "
            f"such as mobilenet_v2 or resnet18, or an entry point of {architectures.GROUP} "
            f"(installed: {', '.join(own) or 'none'})"
        )
    if known.count(name) > 1:
        other = "torchvision's" if name in architectures.TORCHVISION else "another entry point's"
        raise ValueError(
            f"{name!r} is {other} name and that of {architectures.origin(name)}, an entry point of "
            f"{architectures.GROUP}: give the latter another name, or uninstall its package"
        )
    return name


ArchitectureName = Annotated[str, AfterValidator(_check_architecture)]
"""A classifier of torchvision, or an entry point of `igkd_search.architectures`."""


class Closed(BaseModel):
    """Frozen, closed to keys that it does not name, and strict: "8" and true are no numbers."""

    model_config = strategies.CLOSED


IMAGE_SIZE = 32
"""Height and width of a folder's images, where data.image_size says nothing."""

MIRRORED: tuple[Source, ...] = ("cifar10", "cifar100", "fashion_mnist")
"""The sources whose images may be mirrored, where data.flip says nothing."""


class Data(Closed):
    """[data]: where images come from and how the training part is split."""

    source: Source = "digits"
    path: str | None = None
    """Folder of the `arrays` or `folder` source; relative to the current folder. Not part of the
    question."""
    image_size: int | None = Field(None, ge=8, le=512)
    """Height and width to which the images of the `folder` source are brought; by default 32."""
    validation: float | int = Field(0.2, gt=0)
    """Share (below 1) or count of the training part that is held out, stratified by class."""
    classes: int | None = Field(None, ge=2)
    """How many classes there are; by default the largest training label says."""
    limit: int | None = Field(None, ge=2)
    """Use only this many training images, drawn stratified by `seed`."""
    seed: int = Field(0, ge=0)
    """Seed of the draw and of the split."""
    shift: int | None = Field(None, ge=0, le=8)
    """Crops move by up to this many pixels; by default what is legal for the source."""
    flip: bool | None = None
    """Whether images may be mirrored; by default what is legal for the source."""
    normalise: bool = True
    """Whether networks see (image - mean) / sd of the fit rows' colours, or the image in [0, 1]."""

    @property
    def mirrored(self) -> bool:
        """Whether images are mirrored."""
        return self.source in MIRRORED if self.flip is None else self.flip

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == "arrays" and self.path is None:
            raise ValueError(
                "path is missing: the arrays source needs the folder of train_images.npy, "
                "train_labels.npy, test_images.npy and test_labels.npy"
            )
        if self.source == "folder" and self.path is None:
            raise ValueError(
                "path is missing: the folder source needs a folder with one directory a class, or "
                "with train and test, each with one directory a class"
            )
        if self.source != "folder" and self.image_size is not None:
            raise ValueError(
                f"image_size is for source = 'folder'; the images of '{self.source}' have theirs"
            )
        if self.validation >= 1 and self.validation != int(self.validation):
            raise ValueError(
                f"validation = {self.validation} is neither a share below 1 nor a count"
            )
        return self


class Recipe(Closed):
    """How one network is fitted; the teacher and every trial use the same fields."""

    epochs: int = Field(8, ge=1)
    batch_size: int = Field(64, ge=2)
    optimizer: Optimizer = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    """Peak rate, after a linear warm-up."""
    schedule: Schedule = "cosine"
    """What follows the warm-up: a cosine to zero, or the peak rate to the end (constant)."""
    warmup: float = Field(0.2, ge=0, lt=1)
    """Share of all steps spent warming up."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov momentum of sgd; unused by adam and adamw."""
    weight_decay: float = Field(5e-4, ge=0)
    """Not applied to norms and biases."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """Exponential moving average of the weights, which is what is validated; 0 = off."""
    alternating_flip: bool = False
    """Mirror each image in every other epoch, in place of by chance in each (cifar10-airbench)."""
    cutout: int = Field(0, ge=0)
    """Side in pixels of a square at a random place that shows the mean colour (arXiv 1708.04552);
    0 = off."""


class Teacher(Recipe):
    """[teacher]: trained on the fit rows only, or read from a file."""

    architecture: ArchitectureName = "mobilenet_v2"
    width: float = Field(1.0, gt=0, le=4)
    """Channel multiplier; mobilenet_v2 and own architectures take others than 1."""
    checkpoint: str | None = None
    """A safetensors file, or a plain state dict (.pt, .pth, .bin), to use instead of training;
    relative to the file that names it."""
    checkpoint_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """What the checkpoint's bytes must hash to, when given."""
    minimum_accuracy: float = Field(0.0, ge=0, le=1)
    """On validation; below it, or at chance level whatever it is, the study stops before banks are
    spent on a poor teacher."""
    seed: int = Field(0, ge=0)
    epochs: int = Field(20, ge=1)


class Overlays(Closed):
    """[overlays]: the attribution maps that are laid over training images."""

    steps: int = Field(20, ge=1)
    """Integrated Gradients steps."""
    rule: Rule = "gausslegendre"
    """How the path integral is summed."""
    baseline: Baseline = "mean"
    """Where the path begins: the fit rows' mean colour, black, or the image itself, blurred."""
    reduction: Reduction = "sum"
    """How |attribution| of three channels becomes one value: sum, maximum or Euclidean norm."""
    dtype: Literal["fp16", "uint8"] = "uint8"
    """How a map is stored."""
    control: Control = "none"
    """What the overlay really is: the image's map (none), another image's (shuffled), the map's
    values at random places (random), or darkening alone (dim)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.steps == 1 and self.rule != "gausslegendre":
            raise ValueError(f"rule = '{self.rule}' needs steps = 2 or more")
        return self


class MaterialsOptions(Closed):
    """[materials]: what is stored and what is computed as trials run."""

    targets: Literal["auto", "bank", "live", "shuffled"] = "auto"
    """Where soft targets come from: a bank of all views, a live teacher, or the cheaper one; or, as
    a control, a bank in which each image has the targets of another (shuffled)."""
    views: int | None = Field(None, ge=1)
    """Train on this many views of each image only, drawn once by `data.seed`, and bank just these;
    by default on all."""
    max_bytes: int = Field(2 * 1024**3, ge=0)
    """The largest bank of targets that `auto` builds."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.views is not None and self.targets == "live":
            raise ValueError(
                f"views = {self.views} restricts training to banked views, but targets = 'live' "
                "asks for no bank; leave one of them out"
            )
        return self


class TrialConfig(Recipe):
    """[trial]: one decided training of a student; what the space does not vary stays so."""

    architecture: ArchitectureName | None = None
    """The network whose first blocks the student is; by default the teacher's."""
    removed_blocks: int = Field(5, ge=0)
    """How many of its network's last blocks the student lacks; 5 is the paper's student."""
    width: float = Field(1.0, gt=0, le=4)
    """Channel multiplier of the student; see teacher.width."""
    resolution: int | None = Field(None, ge=4, le=512)
    """The larger side in pixels to which the student itself brings images before its first layer;
    by default as they are. Augmentation, overlay and teacher see them in full."""
    initialisation: Literal["random", "teacher"] = "random"
    kd_weight: float = Field(0.5, ge=0, le=1)
    """Share of the soft targets in the loss; the paper's alpha."""
    temperature: float = Field(4.0, gt=0)
    overlay_probability: float = Field(0.1, ge=0, le=1)
    overlay_strength: float = Field(0.5, ge=0, le=1)
    """Share of the map in an overlaid pixel."""
    overlay_exponent_max: float = Field(2.0, ge=1)
    """The map's exponent is log-uniform in [1, this], drawn per sample and read."""
    attention_weight: float = Field(0.0, ge=0)
    """Weight of attention transfer from the teacher's block beside the student's last one; 0 = off
    (arXiv 1612.03928)."""


@dataclass(frozen=True, order=True)
class Architecture:
    """What a student is made of; equal architectures share one latency figure."""

    network: str
    """The name of the network it is cut from."""
    removed_blocks: int
    width: float = 1.0
    resolution: int | None = None
    """The larger side of what its first layer sees, in pixels; None: that of the images."""

    @classmethod
    def of(cls, trial: TrialConfig, teacher: str) -> Architecture:
        """That of a trial, whose network is by default the teacher's."""
        network = trial.architecture or teacher
        return cls(network, trial.removed_blocks, trial.width, trial.resolution)

    @property
    def name(self) -> str:
        """The key of this architecture in tables, such as `mobilenet_v2-5-x0.5-r16`."""
        width = f"-x{self.width:g}" if self.width != 1 else ""
        resolution = f"-r{self.resolution}" if self.resolution is not None else ""
        return f"{self.network}-{self.removed_blocks}{width}{resolution}"

    def as_fields(self) -> dict[str, Any]:
        """The fields of [trial] that make it, by name."""
        return dict(zip(SHAPE, astuple(self), strict=True))


SHAPE = ("architecture", "removed_blocks", "width", "resolution")
"""The fields of [trial] that make a student's architecture."""

STUDENT = "student"
"""What the search asks for in place of these fields, where search.students lists names."""


class Range(Closed):
    """One line of [search.space]: low and high with log or step, or choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(None, gt=0)
    choices: list[bool | int | float | str] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices is not None:
            if self.model_fields_set - {"choices"}:
                raise ValueError("choices stand alone, without low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must stay above 0, but low = {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # written out, the defaults of the other keys would not stand beside choices
        return {"choices": self.choices} if self.choices is not None else dict(plain(self))

    def ends(self) -> list[Any]:
        """The values whose legality decides that of all others."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def values(self, step: float | None = None) -> list[Any]:
        """All values of choices or of a stepped range, in order; `step` stands for a missing one.

        A range of whole numbers needs no step of its own: `step=1` counts it.
        """
        if self.choices is not None:
            return sorted(set(self.choices))
        step = self.step or step
        assert self.low is not None and self.high is not None and step is not None
        count = math.floor((self.high - self.low) / step + 1e-9)
        whole = all(value == int(value) for value in (self.low, step))
        return [
            int(value) if whole else value
            for value in (min(self.low + i * step, self.high) for i in range(count + 1))
        ]

    def contains(self, value: Any) -> bool:
        """Whether the search could propose this value itself."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return self.step is None or abs(steps - round(steps)) < 1e-8

    def __str__(self) -> str:
        """The range as a message shows it."""
        if self.choices is not None:
            return str(self.choices)
        return f"[{self.low:g}, {self.high:g}]" + (
            f" in steps of {self.step:g}" if self.step else ""
        )


def _check_searchable(name: str) -> str:
    if name not in TrialConfig.model_fields:
        near = nearest(name, TrialConfig.model_fields)
        raise ValueError(f"unknown key{near}; allowed are the fields of [trial]")
    if name == "epochs":
        raise ValueError("epochs cannot vary, since trials are compared epoch by epoch")
    return name


NOT_ASKED = (
    "trials",
    "checkpoint_every",
    "hours",
    "patience",
    "priority",
    "max_attempts",
    "from",
    "from_trials",
)
"""The keys of [search] that are no part of the question: they may change between runs."""


class Search(Closed):
    """[search]: what may vary, and how much to spend on finding out."""

    model_config = ConfigDict(serialize_by_alias=True)  # beside those of Closed

    trials: int = Field(20, ge=1)
    """The budget; more trials is not a different question."""
    hours: float | None = Field(None, gt=0)
    """Wall-clock budget: once workers have searched for so long, nothing fresh is begun."""
    patience: int | None = Field(None, ge=1)
    """Begin nothing fresh once so many trials in a row have brought none that is better."""
    objectives: list[Objective] = ["accuracy"]
    """What is sought: the highest accuracy, or, with latency_ms beside it, the best trade-offs."""
    latency_budget_ms: float | None = Field(None, gt=0)
    """The median time of one image in ONNX Runtime that a student may take; slower ones leave the
    space before the first trial."""
    min_speedup: float | None = Field(None, gt=0)
    """How many times faster than the teacher a student must be, by the same figures; slower ones
    leave the space before the first trial."""
    sampler: Sampler = "tpe"
    sampler_options: strategies.Chosen = Field(strategies.Nothing(), validate_default=True)
    """What the sampler is told; docs/search.md lists them."""
    pruner: Pruner = "hyperband"
    """With two objectives none, since Optuna prunes by one."""
    pruner_options: strategies.Chosen = Field(strategies.Nothing(), validate_default=True)
    """What the pruner is told; docs/search.md lists them."""
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(1, ge=1)
    """Epochs between two checkpoints of a trial, which are the most that a kill costs."""
    max_attempts: int = Field(5, ge=1)
    """Attempts that end with their worker's death before a trial is given up as lost."""
    priority: int = 0
    """Order in which `igkd worker --any` serves studies, higher ones first."""
    warm_start: str | None = Field(None, alias="from")
    """Another study of the same storage, whose best configurations are tried after those of start
    when this one begins."""
    from_trials: int = Field(3, ge=1)
    """How many of them."""
    space: dict[Annotated[str, AfterValidator(_check_searchable)], Range] = Field(min_length=1)
    """TrialConfig field -> what it may be."""
    students: list[str] | None = Field(None, min_length=1)
    """Only these students of the space, by name, such as mobilenet_v2-5-x0.5; by default all."""
    start: list[dict[str, bool | int | float | str]] = []
    """Configurations tried first, as the first slots of the budget."""

    @model_validator(mode="before")
    @classmethod
    def _without_pruning(cls, plain: Any) -> Any:
        if not isinstance(plain, Mapping) or {"pruner", "pruner_options"} & set(plain):
            return plain
        pareto = plain.get("objectives") == list(get_args(Objective))
        return {**plain, "pruner": "none"} if pareto else plain

    @property
    def is_pareto(self) -> bool:
        """Whether trade-offs are sought, in place of one best trial."""
        return self.objectives == list(get_args(Objective))

    @property
    def is_bounded(self) -> bool:
        """Whether students have to be fast enough."""
        return self.latency_budget_ms is not None or self.min_speedup is not None

    def excess(self, latency_ms: float, speedup: float) -> dict[str, float]:
        """By how much a student misses each bound on its latency; at most 0 where it keeps it.

        `speedup` is how many times faster than the teacher it is.
        """
        found = {}
        if self.latency_budget_ms is not None:
            found["latency_ms"] = latency_ms - self.latency_budget_ms
        if self.min_speedup is not None:
            found["speedup"] = self.min_speedup - speedup
        return found

    def faults(self, epochs: int) -> list[str]:
        """What keys of this table say together that cannot be, for trials of so many epochs."""
        found = [
            f"search.pruner_options.{name} = {given}: trials of {epochs} epochs leave nothing to "
            f"prune after that; "
            + (f"at most {epochs - 1}, or " if epochs > 1 else "")
            + 'type pruner = "none"'
            for name, given in self.pruner_options.epochs()
            if given >= epochs
        ]
        if self.sampler == "cmaes" and all(span.choices for span in self.space.values()):
            found.append(
                "search.sampler = 'cmaes' models numbers, and the space has only choices; type "
                'sampler = "tpe"'
            )
        return found + self._faults_of_objectives()

    def _faults_of_objectives(self) -> list[str]:
        legal = list(get_args(Objective))
        if self.objectives not in ([legal[0]], legal):
            return [
                f"search.objectives = {json.dumps(self.objectives)}: allowed are "
                f"{json.dumps(legal[:1])} and {json.dumps(legal)}"
            ]
        found = []
        if self.is_pareto and self.pruner != "none":
            found.append(
                f"search.pruner = '{self.pruner}': Optuna prunes by one objective, and here are "
                "two; leave it out, or bound the latency instead: latency_budget_ms or min_speedup"
            )
        if self.is_pareto and self.sampler == "cmaes":
            found.append(
                "search.sampler = 'cmaes' seeks one objective, and here are two; type sampler = "
                '"nsga2", "tpe" or "gp"'
            )
        return found


def no_winner_in_words(search: Mapping[str, Any], complete: bool) -> str:
    """Why no trial wins, as the end of a sentence; `complete` says whether one is."""
    if not complete:
        return "no trial is complete yet"
    bounds = bounds_in_words(search) or "within the bounds on latency"
    return f"none of the complete trials is {bounds}"


def bounds_in_words(search: Mapping[str, Any]) -> str:
    """The bounds on latency in a stored [search], such as `within 2 ms an image`; "" without any.

    What is written there is plain JSON, perhaps of a version that did not know them all.
    """
    budget, speedup = search.get("latency_budget_ms"), search.get("min_speedup")
    words = [f"within {budget:g} ms an image"] if budget else []
    words += [f"at least {speedup:g} times as fast as the teacher"] if speedup else []
    return " and ".join(words)


class Run(Closed):
    """What it takes to train one student: the part that a study and an exported file share."""

    data: Data = Data()
    teacher: Teacher = Teacher()
    overlays: Overlays = Overlays()
    materials: MaterialsOptions = MaterialsOptions()
    trial: TrialConfig = TrialConfig()

    @model_validator(mode="after")
    def _check_all(self) -> Self:
        faults = self.faults()
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def faults(self) -> list[str]:
        """Combinations that mean nothing, one line each with the reason and what to type."""
        return [
            *self._faults_of_baseline(),
            *self._faults_of_flips(),
            *self._faults_of_attention(),
            *self._faults_of_prefix(),
        ]

    def _faults_of_baseline(self) -> list[str]:
        if self.data.normalise or self.overlays.baseline != "mean":
            return []
        return [
            "overlays.baseline = 'mean': with data.normalise = false no mean colour is taken; type "
            'baseline = "black", or "blur"'
        ]

    def _faults_of_flips(self) -> list[str]:
        sections = {"teacher": self.teacher.alternating_flip}
        sections["trial"] = True in self.ends_of("alternating_flip")
        why = None
        if not self.data.mirrored:
            why = f"images of source '{self.data.source}' are not mirrored; leave it out" + (
                ", or say data.flip = true" if self.data.flip is None else ""
            )
        found = [f"{name}.alternating_flip: {why}" for name, on in sections.items() if on and why]
        if sections["trial"] and not why and self.materials.views is not None:
            found.append(
                f"trial.alternating_flip: materials.views = {self.materials.views} restricts each "
                "image to views whose flips are drawn once; leave one of them out"
            )
        return found

    def _faults_of_attention(self) -> list[str]:
        others = self._others_than("architecture", self.teacher.architecture)
        if max(self.ends_of("attention_weight")) == 0 or not others:
            return []
        return [
            "trial.attention_weight compares the maps of the same block in both networks, so "
            f"trial.architecture = {others[0]} must be teacher.architecture = "
            f"{self.teacher.architecture}; or type attention_weight = 0"
        ]

    def _faults_of_prefix(self) -> list[str]:
        if "teacher" not in self.ends_of("initialisation"):
            return []
        return [
            f"trial.initialisation = 'teacher' copies blocks, so trial.{name} = {others[0]} must "
            f"be teacher.{name} = {theirs}"
            for name, theirs in (
                ("architecture", self.teacher.architecture),
                ("width", f"{self.teacher.width:g}"),
            )
            if (others := self._others_than(name, theirs))
        ]

    def _others_than(self, name: str, theirs: str) -> list[str]:
        """What this field of [trial] may be beside the teacher's, as text."""
        ours = [value for value in self.values_of(name) if value is not None]
        shown = [value if isinstance(value, str) else f"{value:g}" for value in ours]
        return [value for value in shown if value != theirs]

    def values_of(self, name: str) -> list[Any]:
        """Every value that a field of [trial] may take, in order."""
        return [getattr(self.trial, name)]

    def ends_of(self, name: str) -> list[Any]:
        """The values of a field of [trial] whose legality decides that of all others."""
        return [getattr(self.trial, name)]

    def students(self) -> list[Architecture]:
        """Every student that may be trained, in order."""
        return [
            Architecture(name or self.teacher.architecture, removed_blocks, width, resolution)
            for name in self.values_of("architecture")
            for removed_blocks in self.values_of("removed_blocks")
            for width in self.values_of("width")
            for resolution in self.values_of("resolution")
        ]

    def planned_epochs(self) -> int:
        """The most epochs that will be trained: here those of one student."""
        return self.trial.epochs

    def question(self) -> dict[str, Any]:
        """What is asked, as plain JSON: not budget, checkpoints, file places and provenance."""
        plain = self.model_dump(mode="json")
        for name in NOT_ASKED:
            (plain.get("search") or {}).pop(name, None)
        del plain["data"]["path"], plain["teacher"]["checkpoint"]
        return plain


class Study(Run):
    """A whole study file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)
    search: Search

    def faults(self) -> list[str]:
        """Those of a run, and those of the space and the points that are tried first."""
        faults: list[str] = []
        for name, span in self.search.space.items():
            faults += _faults_of_range(name, span)
        if len(self.search.start) > self.search.trials:
            count = len(self.search.start)
            faults.append(f"search.start: {count} points, but search.trials = {self.search.trials}")
        for position, point in enumerate(self.search.start):
            faults += self.faults_of_point(point, f"search.start[{position}].")
        # a range that is wrong by itself says nothing about combinations
        return faults or [
            *self.search.faults(self.trial.epochs),
            *self._faults_of_students(),
            *self._faults_of_grid(),
            *super().faults(),
        ]

    def faults_of_point(self, point: Mapping[str, Any], where: str = "") -> list[str]:
        """Why the search could not propose these values itself, a line each, after `where`."""
        faults = []
        for name, value in point.items():
            span = self.search.space.get(name)
            if span is None:
                near = nearest(name, self.search.space)
                faults.append(f"{where}{name}: not a name of search.space{near}")
            elif not span.contains(value):
                faults.append(f"{where}{name} = {value} is outside of {span}")
            else:
                faults += _faults_of_value(f"{where}{name}", name, value)
        return faults

    def _faults_of_students(self) -> list[str]:
        search, known = self.search, [each.name for each in super().students()]
        found = [
            f"search.students: {name!r} is no student of the space{nearest(name, known)}; "
            f"allowed: {_some(known)}"
            for name in search.students or []
            if name not in known
        ]
        if found:
            return found
        found = [
            f"search.start[{position}]: no student of search.students is so"
            for position, point in enumerate(search.start)
            if not self.agreeing(point)
        ]
        if search.is_pareto and len(self.students()) == 1:
            found.append(
                f"search.objectives: every trial has the latency of {self.students()[0].name}; let "
                f"{', '.join(SHAPE)} vary in search.space, or leave latency_ms out"
            )
        if search.warm_start == self.name:
            found.append("search.from: a study cannot begin with what itself has found")
        return found

    def _faults_of_grid(self) -> list[str]:
        if self.search.sampler != "grid":
            return []
        endless = [name for name, values in self.axes().items() if values is None]
        if endless:
            return [_fault_of_endless(name, self.search.space[name]) for name in endless]
        points, search = self.grid_size(), self.search
        assert points is not None
        found = []
        if points > LARGEST_GRID:
            found.append(
                f"search.sampler: the grid has {points} points, more than {LARGEST_GRID}; type "
                'fewer choices, larger steps, or sampler = "random"'
            )
        found += _fault_of_budget(points, search.trials)
        if search.warm_start is not None:
            found.append("search.from: a grid visits each of its points once; leave it out")
        for position, point in enumerate(search.start):
            missing = [name for name in search.space if name not in point]
            if missing:
                found.append(
                    f"search.start[{position}]: a point of a grid names every field of the space; "
                    f"missing: {', '.join(missing)}"
                )
            elif any(_same_point(point, other) for other in search.start[:position]):
                found.append(f"search.start[{position}]: a grid visits each of its points once")
        return found

    def agreeing(self, point: Mapping[str, Any]) -> list[Architecture]:
        """The students of the space that are as a point says, in order."""
        asked = {name: value for name, value in point.items() if name in SHAPE}
        return [
            each
            for each in self.students()
            if all(same(each.as_fields()[name], value) for name, value in asked.items())
        ]

    def students(self) -> list[Architecture]:
        """Every student the search may train, in order."""
        found = super().students()
        only = self.search.students
        return found if only is None else [each for each in found if each.name in only]

    def axes(self) -> dict[str, list[Any] | None]:
        """What Optuna is asked for -> all its values, or None where a range has no end of them.

        With search.students that is one name in place of the fields that make a student.
        """
        found: dict[str, list[Any] | None] = {}
        if self.search.students is not None:
            found[STUDENT] = [each.name for each in self.students()]
        for name, span in self.search.space.items():
            if self.search.students is not None and name in SHAPE:
                continue
            step = 1 if is_whole(name) else None
            endless = span.choices is None and span.step is None and step is None
            found[name] = None if endless else span.values(step)
        return found

    def grid_size(self) -> int | None:
        """How many configurations the space holds; None when there is no end of them."""
        axes = list(self.axes().values())
        return None if None in axes else math.prod(len(values or ()) for values in axes)

    def values_of(self, name: str) -> list[Any]:
        """Every value that the search may give to a field that shapes the student, in order."""
        span = self.search.space.get(name)
        return super().values_of(name) if span is None else span.values()

    def ends_of(self, name: str) -> list[Any]:
        """The values that decide whether all that the search may give to a field are legal."""
        span = self.search.space.get(name)
        return super().ends_of(name) if span is None else span.ends()

    def planned_epochs(self) -> int:
        """The budget times the epochs of a trial; pruning saves some of them."""
        return self.search.trials * self.trial.epochs


class Provenance(Closed):
    """[provenance]: where an exported configuration comes from."""

    study: str
    trial: int
    slot: int
    seed: int
    """The seed of that trial; final training derives its own from it."""
    validation_accuracy: float
    exported: str
    fingerprints: dict[str, str]
    versions: dict[str, str]
    latency: dict[str, dict[str, float]]
    """Median ms of one image: engine -> teacher, student."""
    configuration: str | None = None
    """The digest of what was exported (`Exported.digest`): whoever edits the file changes it."""
    teacher_trained: bool = True
    """Whether [teacher] says how its weights were made; where not, they were read from a file."""


class Rerun(Closed):
    """A leading trial of a search, trained again on the same split by fresh seeds."""

    trial: int
    searched: float
    """The validation accuracy that made it a leading one."""
    accuracies: list[float] = Field(min_length=1)
    """Validation accuracy of each fresh seed, in order."""

    @property
    def mean(self) -> float:
        """What it is compared by."""
        return statistics.fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation; None of one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


class Validation(Closed):
    """[validation]: what the configuration has shown on the validation rows."""

    images: int
    accuracy: float
    low: float
    """Wilson's 95 % interval of that accuracy, for so many images."""
    high: float
    complete: int
    """The complete trials of the search, of which this one was chosen."""
    loss: float | None = None
    calibration_error: float | None = None
    epochs: int | None = Field(None, ge=1)
    """The epochs of a trial of the search; trial.epochs are those of `reruns`."""
    reruns: list[Rerun] = []
    """The leading trials again, if they were: the one with the highest mean was chosen."""


class Exported(Run):
    """A file that `igkd export` writes and `igkd train` reads; it needs no database."""

    schema_version: Literal[1]
    provenance: Provenance
    validation: Validation | None = None
    search: Search | None = None
    """What was searched; `igkd train --tune-arms` searches it once more for each arm."""

    @property
    def was_chosen(self) -> bool:
        """Whether it may be the best of several trials, as far as is known, or was the only one."""
        if self.validation is None or self.search is None:
            return True
        return self.validation.complete > 1 or self.search.trials > 1

    @property
    def searched_epochs(self) -> int:
        """The epochs after which the search had its accuracy, as far as is known."""
        validation = self.validation
        return (validation and validation.epochs) or self.trial.epochs

    def digest(self) -> str:
        """Of data, overlays, materials and trial; the teacher's is among the fingerprints."""
        plain = self.question()
        return fingerprint([plain[name] for name in ("data", "overlays", "materials", "trial")])

    @property
    def is_edited(self) -> bool:
        """Whether the file says something else than what was exported, as far as is known."""
        return self.provenance.configuration not in (None, self.digest())

    def question(self) -> dict[str, Any]:
        """What is trained, as plain JSON: not where it comes from and how it was found."""
        plain = super().question()
        return {name: plain[name] for name in ("schema_version", *Run.model_fields)}


LARGEST_GRID = 100_000
"""Points of a grid, all of which are put in order whenever a trial begins."""


def check_budget(study: Study, trials: int) -> None:
    """StudyError when a budget is more than the search can spend: a grid has so many points."""
    points = study.grid_size() if study.search.sampler == "grid" else None
    for fault in _fault_of_budget(points, trials) if points is not None else ():
        raise StudyError(f"study '{study.name}': {fault}")


def _fault_of_budget(points: int, trials: int) -> list[str]:
    if trials <= points:
        return []
    return [
        f"the grid has {points} points, trials = {trials}: each is visited once, so type trials = "
        f"{points} or less, or give the space more values"
    ]


def _fault_of_endless(name: str, span: Range) -> str:
    assert span.low is not None and span.high is not None
    if span.log:
        values = [span.low * (span.high / span.low) ** (i / 3) for i in range(4)]
        advice = f"choices = [{', '.join(f'{value:.3g}' for value in values)}]"
    else:
        advice = f"step = {(span.high - span.low) / 4:.3g}"
    return (
        f"search.space.{name}: a grid needs choices, or low, high and step; type {advice}, say, or "
        'sampler = "qmc"'
    )


def _some(names: list[str], most: int = 12) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def _same_point(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return set(one) == set(other) and all(same(one[name], other[name]) for name in one)


def same(one: Any, other: Any) -> bool:
    """Whether two values of a range are the same, in spite of binary fractions."""
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-9)


def is_whole(name: str) -> bool:
    """Whether a field of [trial] is a whole number."""
    return kind_of(name) is int


def kind_of(name: str) -> Any:
    """bool, int, float, str or a Literal: what a field of [trial] is where it is not left out."""
    annotation = TrialConfig.model_fields[name].annotation
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(annotation) else annotation


def _faults_of_range(name: str, span: Range) -> list[str]:
    where = f"search.space.{name}"
    if is_whole(name) and any(
        isinstance(end, float) and end != int(end) for end in [*span.ends(), span.step or 1]
    ):
        return [f"{where}: {name} is a whole number, but its range is not"]
    faults = []
    if name in SHAPE[1:] and span.choices is None and span.step is None:
        faults.append(
            f"{where}: give choices or a step, since the latency of each student is measured"
        )
    for end in span.ends():
        # low and high are read as floats, whole ones stand for integers
        whole = span.choices is None and isinstance(end, float) and end == int(end)
        faults += _faults_of_value(where, name, int(end) if whole else end)
    return faults


def _faults_of_value(where: str, name: str, value: Any) -> list[str]:
    try:
        TrialConfig.model_validate({name: value})
    except pydantic.ValidationError as error:
        return [
            f"{where}: {value!r} is not allowed: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
    return []


def trial_seed(study_seed: int, slot: int, purpose: str = "trial") -> int:
    """sha256(study seed, slot) as a 63-bit seed; `purpose` separates uses of one slot."""
    digest = hashlib.sha256(f"{purpose}:{study_seed}:{slot}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fingerprint(plain: Any) -> str:
    """sha256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two plain dicts, one `path: old -> new` a line."""
    before, after = _flatten(old), _flatten(new)
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before | after)
        if before.get(key, absent) != after.get(key, absent)
    ]


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [
            _flatten(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()
        ]
        return {key: item for part in parts for key, item in part.items()}
    return {path: json.dumps(value)}


def nearest(name: str, legal: Iterable[str]) -> str:
    """`; did you mean ...?` with the legal name closest to a typo, or nothing."""
    close = difflib.get_close_matches(name, list(legal), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
