"""The model card of a final student: what it is, how good, how it was made, and what is not shown.

It is made of result.json alone, so a card can be written again for an old result. Front matter and
sections are those that Hugging Face reads (`model_card.md.j2`); a section without content is left
out, and nothing is said that the result does not hold.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from igkd_search import ablation, amounts, code_spans, spec, uncertainty

_TEMPLATE = "model_card.md.j2"
_ENGINES = {
    "pytorch": "PyTorch, eager",
    "compiled": "PyTorch, compiled",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime, int8",
}


def render(result: Mapping[str, Any]) -> str:
    """The card as Markdown with YAML front matter, from the content of result.json."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("igkd_search", ""),
        autoescape=False,  # no page; what users chose stands in code spans
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "code": code_spans.code,
        "count": amounts.count,
        "several": amounts.several,
        "json": json.dumps,
        "parity": _parity,
        "percent": amounts.percent,
        "size": _size,
        "times": amounts.times,
        "value": amounts.value,
    }
    return environment.get_template(_TEMPLATE).render(_content(result))


def _content(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the template reads."""
    asked, student = result["configuration"], result["student"]
    name = student["arm"]
    own = result["arms"][name]
    return {
        **result,
        "data": asked["data"],
        "overlays": asked["overlays"],
        "provenance": asked["provenance"],
        "options": asked["teacher"],
        "trial": _trial(result).model_dump(),
        "control": own["control"],
        "targets": own["targets"],
        "title": _title(result),
        "accuracies": list(_accuracies(result)),
        "compared": None if result["ablation"] is None else ablation.markdown(result["ablation"]),
        "timed": list(_timed(result)),
        "timed_on": (result["latency"] or {}).get("machine") or result["machine"],
        "own_search": _own_search(result),
        "history": result.get("history", []),
        "same_teacher": not list(_teacher(result)),
        "untuned": _untuned(result),
        "as_exported": student.get("as_exported", True),
        "searched_epochs": _searched_epochs(result),
        "quiet": ((result["latency"] or {}).get("machine") or {}).get("quiet", True),
        "skipped": (result["latency"] or {}).get("skipped", []),
        "limits": list(_limits(result)),
        "versions": _versions(result),
        "sides": "x".join(map(str, result["image_shape"][1:])),
    }


def _title(result: Mapping[str, Any]) -> str:
    data = result["configuration"]["data"]["source"]
    network = _trial(result).architecture or result["configuration"]["teacher"]["architecture"]
    return f"{_provenance(result)['study']}: a student of {network} for {data}"


def _trial(result: Mapping[str, Any]) -> spec.TrialConfig:
    """That of the student shipped; fields that came later have their defaults."""
    return spec.TrialConfig.model_validate(result["arms"][result["student"]["arm"]]["trial"])


def _searched_epochs(result: Mapping[str, Any]) -> int:
    """The epochs after which the search had the accuracy that is told."""
    validation = result["configuration"].get("validation") or {}
    return int(validation.get("epochs") or _trial(result).epochs)


def _accuracies(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Lines of the table of test accuracies: model, accuracy, interval by the test set's size."""
    images, found, files = result["test"]["images"], result["student"], result["deployment"]

    def line(model: str, accuracy: float, shown: str = "") -> list[str]:
        low, high = uncertainty.of_accuracy(accuracy, images)
        ends = f"{amounts.percent(low)} to {amounts.percent(high)}"
        return [model, shown or amounts.percent(accuracy), ends]

    yield line("teacher", result["teacher"]["accuracy"])
    of = found["accuracy"]
    if of["n"] > 1:
        shown = f"{amounts.percent(of['mean'])} +- {100 * of['sd']:.2f}"
        yield line(f"student, mean +- sd of {of['n']} seeds", of["mean"], shown)
    yield line("the student shipped, in PyTorch", found["shipped"]["accuracy"])
    for kind in ("onnx", "int8"):
        if files[kind].get("accuracy") is not None:
            yield line(f"`{files[kind]['file']}`", files[kind]["accuracy"])


def _timed(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Lines of the latency table; without a measurement those of the table of the search."""
    rows = (result["latency"] or {}).get("rows") or [
        {
            "engine": engine,
            "batch": 1,
            "threads": 1,
            "teacher": result["teacher"][engine],
            "student": result["student"][engine],
        }
        for engine in ("pytorch", "onnxruntime")
    ]
    for row in rows:
        both = [row[who]["median_ms"] for who in ("teacher", "student")]
        spread = [amounts.milliseconds(row[who]["iqr_ms"]) for who in ("teacher", "student")]
        yield [
            _ENGINES.get(row["engine"], row["engine"]),
            amounts.count(row["batch"]),
            amounts.count(row["threads"]),
            *(f"{amounts.milliseconds(ms)} ({iqr})" for ms, iqr in zip(both, spread, strict=True)),
            amounts.times(both[0] / both[1]),
        ]


def _limits(result: Mapping[str, Any]) -> Iterator[str]:
    """What the figures do not show."""
    data, test, of = result["configuration"]["data"], result["test"], result["student"]["accuracy"]
    low, high = uncertainty.of_accuracy(of["mean"], test["images"])
    yield (
        f"Accuracies are of {amounts.several(test['images'], 'test image')} of {data['source']}. "
        f"By that number alone {amounts.percent(of['mean'])} may be anything from "
        f"{amounts.percent(low)} to {amounts.percent(high)} (95%, Wilson)."
    )
    if of["n"] == 1:
        yield "One seed was trained, so how far another one would end elsewhere is not known."
    yield from _choice(result)
    yield from _teacher(result)
    if len(result.get("history", ())) > 1:
        asked = "; then ".join(
            f"{', '.join(each['arms'])} with {amounts.several(each['seeds'], 'seed')}"
            for each in result["history"]
        )
        yield f"Not all was trained at once, but after test accuracies were known: first {asked}."
    if test["duplicates"]:
        yield (
            f"{amounts.several(test['duplicates'], 'test image')} occur in the training part as "
            "well: the test accuracy may be too high."
        )
    if test["reads"] > 1:
        yield (
            f"The test set was read {test['reads']} times by a model, since a run was stopped "
            "while it read; no choice was made in between."
        )
    if result["ablation"] is None:
        yield (
            "No student was trained without a part of the method beside this one, so what each "
            "part brings is not shown here."
        )
    if not result["latency"]:
        yield "Latency was measured for one image on one thread only."
    if result["faithfulness"] is None:
        yield "Whether the student looks where its teacher looks was not measured."
    yield (
        "One teacher and one data set. Images of other cameras, sizes or classes, robustness and "
        "fairness were not looked at."
    )


def _choice(result: Mapping[str, Any]) -> Iterator[str]:
    """By what the configuration was chosen, as far as that flatters it."""
    validation = result["configuration"].get("validation") or {}
    searched = amounts.percent(_provenance(result)["validation_accuracy"])
    nothing = "nothing was chosen by the test accuracies."
    if _own_search(result):
        yield f"The settings were chosen by validation accuracy in a search of the arm; {nothing}"
    elif reruns := validation.get("reruns"):
        yield (
            f"The configuration was chosen among {len(reruns)} leading trials of the search by its "
            f"mean validation accuracy over fresh seeds; {nothing}"
        )
    elif validation.get("complete") != 1:
        yield (
            "The configuration was chosen by validation accuracy, of which the best of several "
            f"trials flatters itself ({searched}); {nothing}"
        )


def _teacher(result: Mapping[str, Any]) -> Iterator[str]:
    """What is not as in the search, or not known of it."""
    provenance = _provenance(result)
    if not provenance.get("teacher_trained", True):
        yield (
            "The teacher was read from a file: what it was trained on is not known, and may be "
            "images that are tested here."
        )
    before, now = provenance["fingerprints"], result["fingerprints"]
    for name, what in (("teacher", "teacher"), ("data", "training part")):
        stated, found = before.get(name), now.get(name)
        if stated and found and stated != found:
            yield f"The {what} is another than that of the search."


def _own_search(result: Mapping[str, Any]) -> bool:
    """Whether the arm that is shipped has settings of a search of its own."""
    tuning = result["tuning"] or {"arms": {}}
    return bool((tuning["arms"].get(result["student"]["arm"]) or {}).get("parameters"))


def _untuned(result: Mapping[str, Any]) -> list[str]:
    """The arms that had nothing to search."""
    tuning = result["tuning"] or {"arms": {}}
    return [name for name, found in tuning["arms"].items() if not found["parameters"]]


def _parity(share: float) -> str:
    """Rounded up to one digit: what is said must be at least what is so."""
    if share == 0:
        return "0"
    digit = 10 ** math.floor(math.log10(share))
    return f"{math.ceil(share / digit - 1e-9) * digit:.0e}"


def _provenance(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result["configuration"]["provenance"]
    return found


def _versions(result: Mapping[str, Any]) -> list[str]:
    """Of the search, then of the final training where they are others."""
    found = dict(_provenance(result)["versions"])
    # torch says of itself what it was built for: 2.9.0+cu128
    now = {name: result["machine"][name].partition("+")[0] for name in ("torch", "onnxruntime")}
    return [
        f"{name} {version}"
        + (f" (final training: {now[name]})" if now.get(name, version) != version else "")
        for name, version in found.items()
    ]


def _size(count: float) -> str:
    """Bytes as people read them, in decimal units."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
