"""What each chart of a report shows, said in words: its title, its finding, and what to know of it.

The finding is the chart's text alternative, so it holds the figures that a reader would take away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igkd_search import amounts, charts, spec
from igkd_search.importances import FEW, METHODS

_TOP = 5


@dataclass(frozen=True)
class Caption:
    """A heading, the finding in a sentence or two, and a remark on how to read the chart."""

    title: str
    finding: str
    remark: str = ""


def of(
    content: Mapping[str, Any],
    ids: Sequence[str],
    curves_of_best: Mapping[str, Any] | None = None,
) -> dict[str, Caption]:
    """A caption for each chart of these ids, of what it was drawn from (`report_charts.draw`)."""
    found = {}
    for name in ids:
        if name.startswith("slice-"):
            found[name] = _slice(content, name.removeprefix("slice-"))
        elif name == "losses":
            assert curves_of_best is not None
            found[name] = _losses(content, curves_of_best)
        else:
            found[name] = _CAPTIONS[name](content)
    return found


def question(content: Mapping[str, Any]) -> str:
    """What the study asks, in one sentence."""
    asked, trial = content["provenance"]["question"], content["provenance"]["question"]["trial"]
    names = list(asked["search"].get("space") or {})
    if asked["search"].get("students"):
        names.insert(0, "student")
    space = amounts.listed([charts.label(name) for name in names])
    teacher, source = asked.get("teacher", {}), asked.get("data", {})
    student = "the best student" if content["summary"]["front"] is None else "the best trade-off"
    of_teacher = f" of {teacher['architecture']}" if teacher.get("architecture") else ""
    if not {spec.STUDENT, *spec.SHAPE} & set(names):
        width, side, blocks = (trial.get(n) for n in ("width", "resolution", "removed_blocks"))
        of_teacher += f" of width {width:g}" if width not in (None, 1) else ""
        of_teacher += f" at {side}x{side} pixels" if side else ""
        of_teacher += f" without its last {amounts.several(blocks, 'block')}" if blocks else ""
    on = f", on {source['source']}" if source.get("source") else ""
    bounds = spec.bounds_in_words(asked["search"])
    return f"Which {space or 'configuration'} make {student}{of_teacher}{on}" + (
        f", {bounds}?" if bounds else "?"
    )


def no_answer(content: Mapping[str, Any]) -> str:
    """Why there is no winner; as the end of a sentence."""
    search = content["provenance"]["question"]["search"]
    return spec.no_winner_in_words(search, bool(content["summary"]["trials"]["complete"]))


def trust(answer: Mapping[str, Any]) -> str:
    """How far the winner is ahead of the others, in a sentence."""
    count, inside = answer["complete"], answer["contenders"]
    if count < 2:
        return "One trial alone can win so far: there is nothing to compare it with."
    if inside is None:
        return "How many images were validated on is not known, so the winner has no interval."
    if len(inside) > 1:
        return (
            f"{len(inside):,} of {count:,} complete trials, the winner among them, lie within its "
            "interval: treat them as good as equal until they are compared over several seeds."
        )
    return (
        "No other complete trial lies within the winner's interval, but that does not hold the "
        "luck of the seed: compare the leading ones over several seeds all the same."
    )


def progress(content: Mapping[str, Any]) -> str:
    """How far the search is, in one sentence."""
    status, budget = content["status"], content["status"]["budget"]
    done = f"{amounts.count(budget['done'])} of {amounts.several(budget['trials'], 'trial')} done"
    if status["ended"]:
        return f"The search has ended, {done}." + (
            f" It was stopped: {status['stopped']}." if status["stopped"] else ""
        )
    at_work = sum(status["workers"].get(state, 0) for state in ("training", "waiting"))
    left = status["seconds"]["left"]
    words = f"The search is running: {done}, {amounts.several(at_work, 'worker')} at work"
    if not at_work:
        words = f"The search has not ended: {done}, and nobody is at work"
    return words + (f", about {amounts.span(left)} left." if left else ".")


def heading(name: str) -> str:
    """A parameter's name at the head of a column or a chart."""
    return _sentence(charts.label(name))


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _history(content: Mapping[str, Any]) -> Caption:
    trials, best = content["summary"]["trials"], content["summary"]["best"]
    counts = amounts.several(trials["complete"], "complete trial") + "".join(
        f", {trials[state]:,} {state}"
        for state in ("pruned", "failed", "running")
        if trials.get(state)
    )
    if best is None:
        return Caption("Accuracy, trial by trial", f"{_sentence(no_answer(content))}: {counts}.")
    before = sum(each["number"] < best["number"] for each in content["trials"])
    return Caption(
        "Accuracy, trial by trial",
        f"Trial {best['number']}, the {_ordinal(before + 1)} to begin, is the best with "
        f"{amounts.percent(best['accuracy'])}: {counts}.",
        "Triangles on the lower edge, if any, are trials below the axis; their accuracy is in "
        "their label.",
    )


def _front(content: Mapping[str, Any]) -> Caption:
    answer, front = content["answer"], content["summary"]["front"]
    found = {each["latency_ms"] for each in content["trials"] if each["state"] == "complete"}
    timed = sorted(each for each in found if each is not None)
    teacher = content["summary"]["teacher"]["latency"].get("onnxruntime")
    against = f" The teacher takes {amounts.milliseconds(teacher['median_ms'])}." if teacher else ""
    if front:
        words = (
            f"{amounts.several(len(front), 'trial')} that none beats in both, from "
            f"{amounts.percent(front[0]['accuracy'])} to {amounts.percent(front[-1]['accuracy'])}."
        )
    elif len(timed) == 1:
        words = f"Every trial trains the same student, of {amounts.milliseconds(timed[0])}."
    else:
        best = f"the best has {amounts.percent(answer['accuracy'])}" if answer else ""
        words = (
            f"Students take from {amounts.milliseconds(timed[0])} to "
            f"{amounts.milliseconds(timed[-1])}; {best or 'none is within the bounds on latency'}."
        )
    remark = "ONNX Runtime, one thread, batch 1, CPU: median, warm, interleaved with the teacher."
    return Caption("Accuracy against latency", words + against, remark)


def _importances(content: Mapping[str, Any]) -> Caption:
    found = content["importances"]
    words, remarks = [], []
    for method, title in METHODS.items():
        one = found[method]
        if one["values"]:
            name, share = next(iter(one["values"].items()))
            words.append(f"{title} puts {charts.label(name)} first, with {share:.0%}")
            of_all = f" of {one['complete']:,}" if one["trials"] < one["complete"] else ""
            trees = f", {one['trees']} trees" if "trees" in one else ""
            remarks.append(f"{title}: {one['trials']:,}{of_all} complete trials{trees}")
        else:
            remarks.append(f"{title}: {one['reason']}")
    how = "fANOVA asks what moves accuracy over the whole space, PED-ANOVA what the best tenth has."
    if any(one["values"] and one["complete"] < FEW for one in found.values()):
        how += f" Of fewer than {FEW} complete trials this is hardly more than noise."
    return Caption(
        "Importance of each parameter",
        f"{'; '.join(words)}.",
        f"{'. '.join(remarks)}. {how}" if remarks else how,
    )


def _slice(content: Mapping[str, Any], name: str) -> Caption:
    label, title, best = charts.label(name), heading(name), content["summary"]["best"]
    theirs = content["paper"]["choice"].get(name)
    remark = "" if theirs is None else f"The paper's choice: {theirs:g}."
    if best is None or name not in best["parameters"]:
        return Caption(title, f"No complete trial has shown which {label} is best yet.", remark)
    ordered = [content["trials"][number] for number in content["ranking"][:_TOP]]
    values = [each["parameters"][name] for each in ordered if name in each["parameters"]]
    words = f"The best has {amounts.value(best['parameters'][name])}"
    if len(set(values)) == 1 and len(values) > 1:
        words += f", as have all of the {len(values)} most accurate"
    elif len(values) > 1 and all(isinstance(value, int | float) for value in values):
        words += (
            f"; the {len(values)} most accurate lie between {amounts.value(min(values))} and "
            f"{amounts.value(max(values))}"
        )
    return Caption(title, f"{words}.", remark)


def _curves(content: Mapping[str, Any]) -> Caption:
    found, best = content["curves"], content["summary"]["best"]
    shown = len(found["trials"])
    ends = sorted(each["epochs"][-1] for each in found["trials"] if each["state"] == "pruned")
    words = []
    if best is not None:
        words.append(
            f"The best trial ends at {amounts.percent(best['accuracy'])} after "
            f"{amounts.several(best['epochs'], 'epoch')}"
        )
    if ends:
        words.append(
            f"half of the {amounts.several(len(ends), 'pruned trial')} were stopped by epoch "
            f"{ends[(len(ends) - 1) // 2]} of {found['epochs']}"
            if len(ends) > 1
            else f"the one pruned trial was stopped after epoch {ends[0]} of {found['epochs']}"
        )
    drawn = ""
    if shown < found["of"]:
        drawn = f"Drawn are {shown:,} of {found['of']:,} trials: the best, others by a fixed seed."
    finding = "; ".join(words) or f"{amounts.several(shown, 'trial')} on the way"
    return Caption("Accuracy by epoch", f"{_sentence(finding)}.", drawn)


def _losses(content: Mapping[str, Any], kept: Mapping[str, Any]) -> Caption:
    training, validation = kept["loss"], kept["validation_loss"]
    lowest = min(range(len(validation)), key=validation.__getitem__)
    return Caption(
        f"Losses of trial {content['summary']['best']['number']}, the best",
        f"In training from {training[0]:.3g} to {training[-1]:.3g}, on validation from "
        f"{validation[0]:.3g} to {validation[-1]:.3g}; lowest on validation after epoch "
        f"{kept['epoch'][lowest]} of {kept['epoch'][-1]}.",
        "The training loss is of soft targets too, so the two are of different height.",
    )


def _confusion(content: Mapping[str, Any]) -> Caption:
    student, best = content["summary"]["student"], content["summary"]["best"]
    known = {name: share for name, share in student["class_accuracy"].items() if share is not None}
    names, counts = list(student["class_accuracy"]), student["confusion"]
    wrong = [
        (count, names[true], names[answer], sum(row))
        for true, row in enumerate(counts)
        for answer, count in enumerate(row)
        if answer != true and count
    ]
    words = "Every image is answered right."
    if wrong:
        weakest = min(known, key=known.__getitem__)
        count, true, answer, images = max(wrong, key=lambda each: each[0])
        words = (
            f"The weakest class is {weakest} with {amounts.percent(known[weakest])}; most often "
            f"{true} is taken for {answer}: {count:,} of {amounts.several(images, 'image')}."
        )
    return Caption(f"Answers of trial {best['number']}, the best", words)


def _compression(content: Mapping[str, Any]) -> Caption:
    ours, paper = content["students"], content["paper"]
    source = content["provenance"]["question"].get("data", {}).get("source", "this study's data")
    best = max(ours, key=lambda each: each["accuracy"])
    smaller = amounts.factor(best["compression"], "fewer parameters", "more parameters")
    blocks, last = paper["arms_of_removed_blocks"], paper["arms"][-1]
    return Caption(
        "Accuracy against compression",
        f"Ours: {smaller} than the teacher at "
        f"{amounts.percent(best['accuracy'])} on validation images of {source}. The paper's, with "
        f"{blocks} blocks removed: {amounts.percent(last['mean'])} ({last['name']}, mean of ten) on"
        " CIFAR-10's test images.",
        f"{paper['source']}: mean and sd of ten runs, chosen on the test set, so heights compare "
        f"with ours at most as a guide. Accuracies are held here for {blocks} removed blocks "
        "alone; the eight sizes are the ticks on the lower edge.",
    )


def _saved(content: Mapping[str, Any]) -> Caption:
    epochs = content["spent"]["epochs"]
    share = epochs["saved"] / epochs["without_pruning"] if epochs["without_pruning"] else 0.0
    return Caption(
        "What pruning saved",
        f"{epochs['trained']:,} epochs were trained; {epochs['without_pruning']:,} it would have "
        f"been without pruning: {epochs['saved']:,} saved, {share:.0%}.",
        "Trials that failed or still run count with the epochs that they have trained.",
    )


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{'th' if number % 100 in (11, 12, 13) else last}"


_CAPTIONS = {
    "history": _history,
    "front": _front,
    "importances": _importances,
    "curves": _curves,
    "confusion": _confusion,
    "compression": _compression,
    "saved": _saved,
}
