"""What each step of the agenda types, and which figures it reads from what the commands print.

`agenda.py` runs them. A step is a list of commands, each of which goes on where it was when it is
typed again. With --quick the same commands run on a tiny copy of the study, written to --home.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit

ROOT = Path(__file__).resolve().parents[1]
ARMS = "baseline,kd,ig,kd+ig,kd:shuffled,kd+ig:shuffled,kd+ig:random,kd+ig:dim"
QUICK_ARMS = "baseline,kd+ig,kd+ig:dim"
ARRAYS = {"source": "arrays", "shift": 4, "flip": True}
"""What cifar10 is as a source, for the same images as arrays."""
QUICK: Mapping[str, Mapping[str, Any]] = {
    "data": {"limit": 600, "validation": 300},
    "teacher": {
        "width": 0.25,
        "epochs": 6,
        "batch_size": 16,
        "optimizer": "sgd",
        "schedule": "cosine",
        "warmup": 0.2,
        "learning_rate": 0.05,
        "label_smoothing": 0.0,
        "alternating_flip": False,
        "cutout": 0,
        "ema_decay": 0.0,
        "minimum_accuracy": 0.0,
    },
    "overlays": {"steps": 2},
    "materials": {"views": 2},
    "trial": {
        "width": 0.25,
        "removed_blocks": 13,
        "epochs": 2,
        "batch_size": 16,
        "alternating_flip": False,
        "ema_decay": 0.5,
    },
    "search": {"trials": 2, "pruner": "none"},  # both trials are tried again
}
QUICK_BLOCKS = {"removed_blocks": {"low": 13, "high": 17, "step": 4}}

Figures = dict[str, Any]


class Command(NamedTuple):
    """What is typed, and what is read from the JSON that it prints."""

    words: list[str]
    read: Callable[[Any], Figures] = lambda found: {}


@dataclass(frozen=True)
class Asked:
    """What all steps are told."""

    home: Path
    data: Path | None = None
    device: str | None = None
    quick: bool = False

    @property
    def best(self) -> str:
        """The file that `search` ends with."""
        return str(self.home / "best.toml")

    def study(self, name: str) -> str:
        """What the commands call a study of the package: its name, or a file under --home.

        Such a file is written for a study of other data, the arrays in --data, or for a tiny one.
        """
        if self.data is None and not self.quick:
            return name
        known = tomlkit.parse((ROOT / "studies" / f"{name}.toml").read_text("utf-8"))
        if self.data is not None:
            _update(known, {"data": {**ARRAYS, "path": str(self.data.absolute())}})
        if self.quick:
            known["name"] = name = f"quick_{name}".replace("_cifar10", "")
            # without a bank there are no banked views
            live = known.get("materials", {}).get("targets") == "live"
            _update(known, {**QUICK, "materials": {}} if live else QUICK)
            if "removed_blocks" in known["search"]["space"]:
                _update(known, {"search": {"space": QUICK_BLOCKS}})
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / f"{name}.toml"
        path.write_text(tomlkit.dumps(known), "utf-8")
        return str(path)

    def igkd(self, *words: str, computes: bool = True, data: bool = True) -> list[str]:
        """A command of igkd with the options that it takes of these."""
        found = [sys.executable, "-m", "igkd_search", *words, "--home", str(self.home)]
        if data and self.data is not None:
            found += ["--data", str(self.data)]
        if computes and self.device is not None:
            found += ["--device", self.device]
        return found

    def benchmark(self, name: str, *words: str) -> list[str]:
        """A benchmark on the same device."""
        device = [] if self.device is None else ["--device", self.device]
        return [sys.executable, str(ROOT / "benchmarks" / name), *words, *device]


def _update(known: Any, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and name in known and "choices" not in known[name]:
            _update(known[name], value)
        else:
            known[name] = value


def teacher(asked: Asked) -> list[Command]:
    """The teacher alone: its accuracy on the validation images."""
    words = asked.igkd("prepare", asked.study("cifar10"), "--only", "teacher", "-f", "json")
    return [Command(words, _of_teacher)]


def banks(asked: Asked) -> list[Command]:
    """Maps, targets and the latency table of the search."""
    words = asked.igkd("prepare", asked.study("cifar10"), "-f", "json")
    return [Command(words, _of_banks)]


def search(asked: Asked) -> list[Command]:
    """The search by short trials, its leading ones again by long ones, and the report."""
    study = asked.study("cifar10")
    again = ("2", "1", "3") if asked.quick else ("5", "2", "100")
    longer = [
        word
        for option, value in zip(("--top", "--seeds", "--epochs"), again, strict=True)
        for word in (option, value)
    ]
    report = ("report", study, "-o", str(asked.home / "report"))
    return [
        Command(asked.igkd("run", study, "-f", "json"), _of_search),
        Command(asked.igkd("export", study, "-o", asked.best, *longer, "-f", "json"), _of_export),
        Command(asked.igkd(*report, computes=False, data=False)),
    ]


def ablation(asked: Asked) -> list[Command]:
    """Which part does what: every arm and control, on the test set."""
    folder = str(asked.home / "ablation")
    arms, seeds = (QUICK_ARMS, "1") if asked.quick else (ARMS, "5")
    words = ("train", asked.best, "-o", folder, "--seeds", seeds, "--arms", arms, "-f", "json")
    return [Command(asked.igkd(*words), _of_arms)]


def compression(asked: Asked) -> list[Command]:
    """The paper's eight students."""
    return _each_trial(asked, "cifar10_compression", _of_students)


def packing(asked: Asked) -> list[Command]:
    """Several workers on one device, at the paper's batch and at the study's."""
    if asked.quick:
        quick = ("--quick", "--workers", "1,2", "--repeats", "1", "--batch-size", "4")
        return [Command(asked.benchmark("training_loop.py", *quick), _of_packing)]
    return [
        Command(
            asked.benchmark("training_loop.py", "--workers", "1,2,4", "--batch-size", size),
            _of_packing,
        )
        for size in ("64", "256")
    ]


def latency(asked: Asked) -> list[Command]:
    """Teacher and winner in every engine, on the CPU."""
    quick = ("--engines", "pytorch,onnxruntime", "--batch", "1", "--threads", "1", "--rounds", "2")
    words = ("latency", asked.study("cifar10"), *(quick if asked.quick else ()), "-f", "json")
    return [Command(asked.igkd(*words, computes=False), _of_latency)]


def recipes(asked: Asked) -> list[Command]:
    """Before all others, where a recipe is in doubt: that of the teacher, then the student's."""
    studies = [asked.study(name) for name in ("cifar10_teacher", "cifar10_recipe")]
    return [
        Command(
            asked.igkd("run", study, "-f", "json"),
            lambda found: {found["study"]: _of_search(found)},
        )
        for study in studies
    ]


def paper(asked: Asked) -> list[Command]:
    """What the paper's public code does."""
    return _each_trial(asked, "paper", _of_weights)


def _each_trial(asked: Asked, name: str, read: Callable[[Any], Figures]) -> list[Command]:
    """A whole grid, and what each of its trials has shown."""
    study = asked.study(name)
    trials = asked.igkd("trials", study, "-f", "json", computes=False, data=False)
    return [Command(asked.igkd("run", study, "-f", "json"), _of_search), Command(trials, read)]


STEPS: dict[str, Callable[[Asked], list[Command]]] = {
    "teacher": teacher,
    "banks": banks,
    "search": search,
    "ablation": ablation,
    "compression": compression,
    "packing": packing,
    "latency": latency,
    "recipes": recipes,
    "paper": paper,
}
"""Name -> the commands of a step: seven in the order in which they are to be taken, and two that
stand alone."""
NEEDED = {"ablation": "best.toml"}
"""Step -> what must lie in --home, since `search` ended with it."""


def _of_teacher(found: Any) -> Figures:
    return {"teacher_validation_accuracy": found["teacher_accuracy"]}


def _of_banks(found: Any) -> Figures:
    timed = {name: row["onnxruntime"] for name, row in found["latency"].items()}
    kept = ("map_fidelity", "completeness_gap", "targets")
    return {**_of_teacher(found), **{name: found[name] for name in kept}, "onnxruntime": timed}


def _of_search(found: Any) -> Figures:
    best = found["best"] and {name: found["best"][name] for name in ("parameters", "accuracy")}
    kept = {name: found[name] for name in ("trials", "epochs", "rows")}
    return {**kept, "search_seconds": found["seconds"], "best": best}


def _of_export(found: Any) -> Figures:
    shown = found.get("validation", {})
    return {"exported": found["trial"], "reruns": shown.get("reruns"), "validation": shown}


def _of_arms(found: Any) -> Figures:
    arms = {name: arm["accuracy"] for name, arm in found["arms"].items()}
    ablation = found["ablation"] or {}
    return {
        "teacher_test_accuracy": found["teacher"]["accuracy"],
        "test_accuracy": arms,
        "words": ablation.get("words"),
    }


def _of_students(found: Any) -> Figures:
    kept = ("compression", "latency_ms", "speedup")
    return {
        "students": {
            blocks: {
                "validation_accuracy": row["accuracy"],
                "seconds": row["seconds"],
                **{name: row["attributes"].get(name) for name in kept},
            }
            for blocks, row in _complete(found, "removed_blocks").items()
        }
    }


def _of_weights(found: Any) -> Figures:
    rows = _complete(found, "kd_weight")
    return {
        "validation_accuracy_by_kd_weight": {
            weight: row["accuracy"] for weight, row in rows.items()
        }
    }


def _complete(rows: Any, parameter: str) -> dict[str, Any]:
    """The complete trials, by what a parameter is in them and in its order."""
    found = {row["parameters"][parameter]: row for row in rows if row["state"] == "complete"}
    return {f"{value:g}": found[value] for value in sorted(found)}


def _of_packing(found: Any) -> Figures:
    kept = ("images_per_s", "ratio", "spread", "workers", "mps")
    return {f"batch_{found['batch_size']}": {name: found[name] for name in kept}}


def _of_latency(found: Any) -> Figures:
    return {name: value for name, value in found.items() if name != "study"}
