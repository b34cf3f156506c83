"""A report as GitHub Markdown, to be pasted into a pull request: its dict without pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from igkd_search import amounts, charts, latency_table, report_captions

_TOP = 5
_MOST_FAILURES = 10


def render(content: Mapping[str, Any]) -> str:
    """The text; it ends with a newline."""
    answer = content["answer"]
    parts = [f"# {_plain(content['study'])}: {_headline(content)}"]
    parts.append(_plain(report_captions.question(content)))
    parts.append(_plain(report_captions.progress(content)))
    if answer is not None:
        parts += _answer(content, answer)
    parts.append("## Budget")
    parts.append(_budget(content))
    if answer is not None:
        rows = content["summary"]["front"]
        title = "## The most accurate trials" if rows is None else "## Front"
        parts += [title, _trials(content), "## Latency", _latency(content, answer)]
    if content["failures"]:
        parts += ["## Failures", _failures(content)]
    parts.append(_provenance(content))
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(content: Mapping[str, Any]) -> str:
    answer = content["answer"]
    if answer is None:
        return report_captions.no_answer(content)
    smaller = answer["compression"]
    at = f" with {amounts.factor(smaller, 'fewer', 'more')} parameters" if smaller else ""
    return f"{amounts.percent(answer['accuracy'])} on validation{at}"


def _answer(content: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    configuration = [
        [charts.label(name), f"`{value}`"] for name, value in answer["parameters"].items()
    ]
    commands = "\n".join(answer["commands"])
    return [
        _comparison(answer),
        f"**Trial {answer['trial']}**",
        _table(["parameter", "value"], configuration),
        f"```\n{commands}\n```",
        f"> {_plain(' '.join(filter(None, [report_captions.trust(answer), answer['flattery']])))}",
    ]


def _comparison(answer: Mapping[str, Any]) -> str:
    rows = [
        [
            "validation accuracy",
            _accuracy(answer["teacher_accuracy"], answer["teacher_interval"]),
            _accuracy(answer["accuracy"], answer["interval"]),
            "",
        ]
    ]
    for engine, title in (("onnxruntime", "ONNX Runtime"), ("pytorch", "PyTorch")):
        timed = answer["latency"][engine]
        if timed is not None:
            both = [amounts.milliseconds(timed[who]["median_ms"]) for who in ("teacher", "student")]
            rows.append([f"latency, {title}", *both, amounts.times(timed["ratio"])])
    for key, title in (("parameters_count", "parameters"), ("macs", "multiply-accumulates")):
        pair = answer[key]
        if pair["ratio"] is not None:
            both = [amounts.count(pair[who]) for who in ("teacher", "student")]
            rows.append([title, *both, amounts.times(pair["ratio"])])
    said = "\n\nLatency: one thread, batch 1, CPU, median of warm runs. Interval: Wilson, 95%."
    return _table(["", "teacher", "student", "ratio"], rows) + said


def _accuracy(accuracy: float | None, interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return amounts.percent(accuracy)
    low, high = (amounts.percent(interval[end], 1) for end in ("low", "high"))
    return f"{amounts.percent(accuracy)} ({low} to {high})"


def _latency(content: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """The whole table of `igkd latency`, or what the search has measured."""
    if content["timings"] is None:
        return _plain(latency_table.markdown_of_search(answer["latency"], content["study"]))
    return _plain(latency_table.markdown(content["timings"]))


def _budget(content: Mapping[str, Any]) -> str:
    status, spent = content["status"], content["spent"]
    states = ", ".join(f"{number:,} {state}" for state, number in status["states"].items())
    epochs = spent["epochs"]
    by = ", ".join(f"{number:,} {who}" for who, number in spent["proposed_by"].items())
    rows = [
        ["trials", f"{status['budget']['done']:,} of {status['budget']['trials']:,} done"],
        ["states", states],
        ["proposed by", by],
        [
            "epochs",
            f"{epochs['trained']:,} trained, {epochs['without_pruning']:,} without pruning",
        ],
        ["time", amounts.span(spent["seconds"])],
        ["hosts", ", ".join(host["host"] for host in spent["hosts"])],
    ]
    return _table(["", ""], [row for row in rows if row[1]])


def _trials(content: Mapping[str, Any]) -> str:
    """The five most accurate complete trials, or the whole front."""
    front = content["summary"]["front"]
    complete = [content["trials"][number] for number in content["ranking"]]
    if front is not None:
        numbers = [row["number"] for row in front]
        complete = [each for each in complete if each["number"] in numbers]
    shown = complete if front is not None else complete[:_TOP]
    names = list(dict.fromkeys(name for each in shown for name in each["parameters"]))
    rows = [
        [
            str(each["number"]),
            amounts.percent(each["accuracy"]),
            amounts.milliseconds(each["latency_ms"]),
            *(amounts.value(each["parameters"].get(name, "")) for name in names),
        ]
        for each in shown
    ]
    return _table(["trial", "accuracy", "latency", *map(charts.label, names)], rows)


def _failures(content: Mapping[str, Any]) -> str:
    failures = content["failures"]
    rows = [
        [str(each["trial"]), each["cause"], each["reason"] or ""]
        for each in failures[:_MOST_FAILURES]
    ]
    more = len(failures) - len(rows)
    said = f"\n\n{amounts.several(more, 'more failure')} in report.json." if more else ""
    return _table(["trial", "cause", "reason"], rows) + said


def _provenance(content: Mapping[str, Any]) -> str:
    found = content["provenance"]
    lines = [
        ["written", content["written"]],
        ["igkd-search", found["igkd_search"]],
        *[[name, version] for name, version in found["versions"].items() if name != "igkd-search"],
        *[
            [f"fingerprint of {name}", f"`{digest}`"]
            for name, digest in found["fingerprints"].items()
        ],
        *[
            [f"seed of {name.replace('_', ' ')}", str(seed)]
            for name, seed in found["seeds"].items()
            if seed is not None
        ],
        ["latency measured on", _pairs(found["machine"])],
    ]
    table = _table(["", ""], [line for line in lines if line[1]])
    # longer than any fence that a value could hold
    question = f"````toml\n{found['question_toml'].rstrip()}\n````"
    return f"<details>\n<summary>Provenance</summary>\n\n{table}\n\n{question}\n\n</details>"


def _pairs(found: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (found or {}).items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] + ["---:" if len(head) > 2 else "---"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", "\\|")


def _plain(text: str) -> str:
    """A text that shall not be taken for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
