"""A study file to begin with: values that suit the source, each with its meaning beside it.

The meanings are those that stand below the fields of `spec`, so they are written once.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin

import tomlkit
from pydantic import BaseModel

from igkd_search import spec

_WIDTH = 100
_SMALL = 10_000  # images, up to which a recipe of small batches is quick and right

SMALL: Mapping[str, Any] = {
    "teacher": {"epochs": 20, "batch_size": 32, "learning_rate": 0.02},
    "trial": {"epochs": 8, "batch_size": 32},
    "learning_rate": (1e-3, 1e-1, 3e-2),
    "trials": 20,
}
"""The recipe of studies/digits.toml: minutes on two cores."""
LARGE: Mapping[str, Any] = {
    "teacher": {"epochs": 100, "batch_size": 256, "learning_rate": 0.2, "ema_decay": 0.999},
    "trial": {"epochs": 100, "batch_size": 256, "ema_decay": 0.999},
    "learning_rate": (1e-2, 1.0, 0.2),
    "trials": 100,
}
"""A recipe for tens of thousands of images, on GPUs."""
CIFAR: Mapping[str, Any] = {
    **LARGE,
    "teacher": LARGE["teacher"] | {"epochs": 200, "alternating_flip": True, "cutout": 8},
    "trial": LARGE["trial"] | {"epochs": 20, "alternating_flip": True, "ema_decay": 0.998},
}
"""The recipe of studies/cifar10.toml: short trials; igkd export --epochs trains the winner long."""
SAYS: Mapping[str, str] = {
    "digits": "1,797 handwritten digits of 8x8 pixels, from scikit-learn: minutes on two cores",
    "cifar10": "50,000 colour images of 32x32 pixels, downloaded once; meant for GPUs",
    "cifar100": "50,000 colour images of 32x32 pixels, downloaded once; meant for GPUs",
    "svhn": "73,257 house numbers of 32x32 pixels, downloaded once; meant for GPUs",
    "fashion_mnist": "60,000 grey images of 28x28 pixels, downloaded once; meant for GPUs",
    "arrays": "your own images as four .npy files; docs/sources.md says which",
    "folder": "your own images, one directory a class; docs/sources.md says which",
}
"""Source -> what it is."""


TOLD: Mapping[str, Mapping[str, Any]] = {
    "patient": {"patience": 2},
    "percentile": {"percentile": 25.0},
    "threshold": {"lower": 0.5},
}
"""Pruner -> what it must be told; docs/search.md says what that means."""


def recipe_of(source: str, images: int | None = None) -> Mapping[str, Any]:
    """What suits a source; of own data, so many images."""
    own = source in ("arrays", "folder")
    few = images is None or images <= _SMALL
    if source == "digits" or (own and few):
        return SMALL
    return CIFAR if source in ("cifar10", "cifar100") else LARGE


def text(
    name: str,
    source: str,
    *,
    path: str | None = None,
    classes: int | None = None,
    images: int | None = None,
    image_size: int | None = None,
    teacher: str = "mobilenet_v2",
    removed_blocks: int = 5,
    trials: int | None = None,
    epochs: int | None = None,
    sampler: str = "tpe",
    pruner: str = "hyperband",
) -> str:
    """A commented study file; `images` is how many there are to train on, as far as known."""
    recipe = recipe_of(source, images)
    data = {"source": source, "path": path, "image_size": image_size}
    floor = {"digits": 0.95, "cifar10": 0.93}.get(source)
    chance = "" if classes is None else f"; chance is {1 / classes:.2g}"
    low, high, first = recipe["learning_rate"]
    spans = {
        "temperature": _range(1.0, 10.0, sampler, log=True),
        "kd_weight": _range(0.0, 1.0, sampler),
        "overlay_probability": _range(0.0, 0.5, sampler),
        "learning_rate": _range(low, high, sampler, log=True),
    }
    start = {"temperature": 2.5, "kd_weight": 0.01, "overlay_probability": 0.1}
    trial = {"removed_blocks": removed_blocks, **recipe["trial"]}
    lines = [
        f"# {SAYS[source]}.",
        "# Every other field stands with its meaning in igkd_search/spec.py; samplers and pruners",
        "# in docs/search.md.",
        f"name = {tomlkit.item(name).as_string()}",
        "",
        "[data]",
        *_table(spec.Data, {key: value for key, value in data.items() if value is not None}),
        *_table(spec.Data, {"validation": 5000 if source == "cifar10" else 0.2}),
        "",
        "[teacher]",
        *_table(spec.Teacher, {"architecture": teacher, **recipe["teacher"]}),
        *(_table(spec.Teacher, {"minimum_accuracy": floor or 0.0}, chance)),
        "",
        "[overlays]",
        *_table(spec.Overlays, {"steps": 20, "control": "none"}),
        "",
        "# What the space below does not vary keeps this value.",
        "[trial]",
        *_table(spec.TrialConfig, trial | ({} if epochs is None else {"epochs": epochs})),
        "",
        "[search]",
        *_table(spec.Search, {"trials": trials or recipe["trials"]}),
        *_table(spec.Search, {"sampler": sampler, "pruner": pruner}),
        *(f"pruner_options.{key} = {value}" for key, value in TOLD.get(pruner, {}).items()),
        *_table(spec.Search, {"seed": 0}),
        "",
        "# What may vary; log spreads a range evenly over its orders of magnitude.",
        "[search.space]",
        *(f"{key} = {span}" for key, span in spans.items()),
    ]
    if sampler != "grid":  # whose points would have to name every value that it visits
        lines += [
            "",
            "# Tried first: the paper's choice, with a rate that suits this recipe.",
            "[[search.start]]",
            *(f"{key} = {value}" for key, value in start.items()),
            f"learning_rate = {first}",
        ]
    return "\n".join(lines) + "\n"


def _range(low: float, high: float, sampler: str, log: bool = False) -> str:
    if sampler != "grid":
        return f"{{ low = {low}, high = {high}{', log = true' if log else ''} }}"
    steps = (0.0, 0.5, 1.0)
    values = [low * (high / low) ** i if log else low + (high - low) * i for i in steps]
    return f"{{ choices = [{', '.join(repr(float(f'{value:.3g}')) for value in values)}] }}"


def _table(model: type[BaseModel], values: Mapping[str, Any], more: str = "") -> list[str]:
    """Lines of a table, each field below its meaning."""
    lines = []
    for key, value in values.items():
        said = [meanings(model).get(key, ""), _choices(model, key)]
        meaning = "; ".join(filter(None, said)) + more
        lines += textwrap.wrap(meaning, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{key} = {tomlkit.item(value).as_string()}")
    return lines


def _choices(model: type[BaseModel], key: str) -> str:
    """What a field of few values may be."""
    annotation = model.model_fields[key].annotation
    names = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"one of {', '.join(names)}" if names else ""


@cache
def meanings(model: type) -> Mapping[str, str]:
    """What stands below each field of a model of `spec`, in one line, without its full stop."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__ == spec.__name__:
            found |= _below_fields(base)
    return found


def _below_fields(model: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        said = below.value.value if _is_text(below) else None  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and said:
            found[field.target.id] = " ".join(said.split()).removesuffix(".")
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
