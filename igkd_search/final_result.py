"""What a final training has shown: result.json, of models that have read the test set once each."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from igkd_search import ablation, arms, candidates, comparison, held_out, latency, spec
from igkd_search.arms import Arm
from igkd_search.workshop import Workshop

SCHEMA_VERSION = 2


def settle(workshop: Workshop, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Deploy the shipped student, have every model read the test set, and tell all of it.

    `earlier` is the history of the folder so far. The keys are those of docs/final.md.
    """
    plan, shared = workshop.plan, workshop.shared
    deployed, witness = candidates.deployed(workshop), candidates.Witness(workshop)
    teacher, exact = candidates.teacher(workshop), candidates.exact(workshop)
    small = candidates.quantised(workshop)
    students = {
        key: candidates.student(workshop, run, witness) for key, run in workshop.all_runs.items()
    }
    reader = workshop.use(plan.shipped)[0].stock.reader
    test = held_out.read(
        [teacher, *students.values(), exact, small],
        plan.exported.data,
        shared.data,
        reader,
        workshop.folder,
        workshop.home,
    )
    answers = {key: each.answers() for key, each in students.items()}
    told = {str(each): _arm(workshop, each, answers) for each in plan.arms}
    every = [*answers.values(), teacher.answers(), exact.answers(), small.answers()]
    for kind, candidate in (("onnx", exact), ("int8", small)):
        deployed[kind]["accuracy"] = candidate.answers()["accuracy"]
    shipped = str(plan.shipped)
    return {
        "schema_version": SCHEMA_VERSION,
        "asked": plan.asked,
        "configuration": plan.exported.model_dump(mode="json"),
        "fingerprints": dict(shared.fingerprints),
        "test": {
            "images": test["images"],
            "reads": max(each["reads"] for each in every),
            "duplicates": test["duplicates"],
        },
        "classes": list(shared.data.class_names),
        "image_shape": list(shared.data.image_shape),
        "rows": len(shared.data.labels),
        "teacher": {
            "accuracy": teacher.answers()["accuracy"],
            "folder": _relative(workshop, teacher.folder),
            **shared.latency["teacher"].as_dict(),
        },
        "student": {
            "arm": shipped,
            **{name: told[shipped][name] for name in ("accuracy", "seeds", "trial")},
            "shipped": told[shipped]["seeds"][0],
            "as_exported": _as_exported(workshop),
            **_student_figures(workshop),
        },
        "arms": told,
        "ablation": _ablation(workshop, told, test["images"]),
        "tuning": _tuning(workshop),
        "deployment": deployed,
        "latency": candidates.timed(workshop),
        "faithfulness": answers[plan.shipped, 0]["faithfulness"],
        "machine": latency.machine(),
        "history": [*earlier, _asked_now(workshop)],
    }


def _asked_now(workshop: Workshop) -> dict[str, Any]:
    return {
        "arms": list(map(str, workshop.plan.arms)),
        "seeds": workshop.plan.seeds,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _arm(
    workshop: Workshop, arm: Arm, answers: Mapping[tuple[Arm, int], Mapping[str, Any]]
) -> dict[str, Any]:
    exported = workshop.decided[arm]
    own = [answers[arm, index] for index in range(workshop.plan.seeds)]
    return {
        "accuracy": comparison.moments([each["accuracy"] for each in own]),
        "seeds": [
            {
                "seed": workshop.all_runs[arm, index].seed,
                "accuracy": each["accuracy"],
                "reads": each["reads"],
                "folder": _relative(workshop, workshop.all_runs[arm, index].folder),
            }
            for index, each in enumerate(own)
        ],
        "trial": exported.trial.model_dump(mode="json"),
        "control": exported.overlays.control,
        "targets": exported.materials.targets,
        "faithfulness": _faithful([each["faithfulness"] for each in own]),
    }


def _faithful(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each seed's student has shown on average over images, with the spread over seeds."""
    places = {
        "rank_correlation": ("agreement", "own_image", "rank_correlation"),
        "another_image": ("agreement", "another_image", "rank_correlation"),
        "top_overlap": ("agreement", "own_image", "top_overlap"),
        "deletion_gain": ("deletion", "student", "gain"),
        "insertion_gain": ("insertion", "student", "gain"),
    }
    values = {name: [_at(each, *keys) for each in found] for name, keys in places.items()}
    return {
        name: None
        if None in own
        else comparison.moments([each for each in own if each is not None])
        for name, own in values.items()
    }


def _at(found: Mapping[str, Any], *keys: str) -> float | None:
    """The mean of a figure; None where its maps had no order."""
    value: Any = found
    for key in keys:
        value = value and value[key]
    return None if value is None else float(value["mean"])


def _relative(workshop: Workshop, folder: Path) -> str:
    return folder.relative_to(workshop.folder).as_posix()


def _ablation(
    workshop: Workshop, told: Mapping[str, Mapping[str, Any]], images: int
) -> dict[str, Any] | None:
    if len(told) == 1:
        return None
    accuracies = {name: [each["accuracy"] for each in arm["seeds"]] for name, arm in told.items()}
    exported = workshop.plan.exported
    found = ablation.summarise(
        accuracies,
        images=images,
        tuned=workshop.plan.tune,
        winner=str(arms.of(exported)),
        chosen=exported.was_chosen,
    )
    found["words"]["limits"] += _exceptions(workshop)
    return found


def _exceptions(workshop: Workshop) -> list[str]:
    """What is not as the names of arms would have it, a sentence each."""
    said = []
    kept = [str(arm) for arm, found in workshop.tuned.items() if not found["parameters"]]
    if kept:
        said.append(
            f"Nothing that was searched is a parameter of {' and '.join(kept)}: the settings there "
            "are the winner's."
        )
    for arm, exported in workshop.decided.items():
        if arms.of(exported) != arm:
            said.append(f"The search of {arm} chose what is {arms.of(exported)}, and nothing else.")
    if workshop.plan.exported.trial.initialisation == "teacher":
        said.append(
            "Every arm, the baseline too, begins with the teacher's first blocks "
            "(trial.initialisation)."
        )
    return said


def _tuning(workshop: Workshop) -> dict[str, Any] | None:
    if workshop.plan.tune is None:
        return None
    found = {str(arm): each for arm, each in workshop.tuned.items()}
    epochs = workshop.plan.exported.trial.epochs
    return {"trials": workshop.plan.tune, "epochs": epochs, "arms": found}


def _as_exported(workshop: Workshop) -> bool:
    """Whether what is shipped was trained as the trial that was exported: not edited, not tuned."""
    exported = workshop.plan.exported
    return not exported.is_edited and workshop.decided[workshop.plan.shipped] == exported


def _student_figures(workshop: Workshop) -> dict[str, Any]:
    exported, table = workshop.plan.exported, workshop.shared.latency
    name = spec.Architecture.of(exported.trial, exported.teacher.architecture).name
    compression = table["teacher"].parameters / table[name].parameters
    return {"architecture": name, "compression": compression, **table[name].as_dict()}
