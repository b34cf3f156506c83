"""The winning trial -> a complete file with provenance, TOML or JSON, and its teacher beside it.

The file needs no database: data, teacher, overlays, every field of the configuration, what it has
shown, what was searched, and where it comes from. `igkd train` reads it, and checks an edited one
like a study file.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomlkit

from igkd_search import (
    __version__,
    amounts,
    database,
    registry,
    results,
    space,
    spec,
    study_file,
    uncertainty,
    vault,
)
from igkd_search.errors import MaterialError, StudyError

_PACKAGES = ("torch", "torchvision", "captum", "optuna", "onnxruntime", "numpy")
_COMMENTS = {
    "data": "the search read the fit rows of the training part; final training reads all of it",
    "teacher": "read from the file beside this one; its recipe is kept to train it again",
    "overlays": "Integrated Gradients maps, as in the search",
    "materials": "how soft targets were obtained",
    "trial": "the configuration, complete",
    "provenance": "where it comes from; validation_accuracy flatters the best of many trials",
    "validation": "what it has shown on the validation rows, which it was chosen by",
    "search": "what was searched; igkd train --tune-arms searches it again for each arm",
}


def export(
    base: database.Database,
    name: str,
    output: Path,
    home: Path,
    trial: int | None = None,
    reruns: Sequence[spec.Rerun] = (),
    epochs: int | None = None,
) -> spec.Exported:
    """Write the winner or one trial to `output`, and `<stem>.teacher.safetensors` beside it.

    Of `reruns` the first is the winner. `epochs` are by default those of the search. The file is
    JSON where it is named so. StudyError when there is no such trial or none has completed;
    MaterialError when the teacher's file under `home` is another one, or is gone and the database
    has not kept it.
    """
    row = _chosen(base, name, reruns[0].trial if reruns else trial)
    record = base.read_study(name)
    assert record is not None
    study = study_file.check(spec.Study, record.question, f"study '{name}' in the storage")
    teacher_file = output.with_name(f"{output.stem}.teacher.safetensors")
    weights = _teacher_bytes(base, record.facts, home, name)
    searched = space.fields(study, row.parameters)
    decided = {"architecture": study.trial.architecture or study.teacher.architecture}
    longer = {} if epochs is None else {"epochs": epochs}
    chosen = study.trial.model_copy(update=decided | searched | longer)
    teacher = study.teacher.model_copy(
        update={
            "checkpoint": teacher_file.name,
            "checkpoint_sha256": record.facts["fingerprints"]["teacher"],
        }
    )
    exported = spec.Exported(
        schema_version=1,
        # what the source decided is written out, so that the file stands by itself
        data=study.data.model_copy(
            update={name: record.facts["rows"][name] for name in ("classes", "shift", "flip")}
        ),
        teacher=teacher,
        overlays=study.overlays,
        materials=study.materials.model_copy(update=_targets(record.facts)),
        trial=chosen,
        provenance=_provenance(name, row, record.facts, study),
        validation=_validation(base, study, row, record.facts, reruns),
        search=study.search,
    )
    stated = exported.provenance.model_copy(update={"configuration": exported.digest()})
    exported = exported.model_copy(update={"provenance": stated})
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{output.parent}: cannot be made: {error}") from error
    vault.write_whole(teacher_file, weights)
    vault.write_whole(output, written(exported, output, set(searched)).encode())
    return exported


def written(exported: spec.Exported, output: Path, searched: set[str]) -> str:
    """What a file of this name says: TOML with comments, or JSON."""
    if output.suffix == ".json":
        plain = exported.model_dump(mode="json", exclude_none=True)
        return json.dumps(plain, indent=2) + "\n"
    return _document(exported, searched)


def _targets(facts: dict[str, Any]) -> dict[str, Any]:
    """What `auto` has chosen; a live teacher answers about all views."""
    return {"targets": facts["targets"]} | ({"views": None} if facts["targets"] == "live" else {})


def _chosen(base: database.Database, name: str, trial: int | None) -> results.Row:
    study = results.open_study(base, name)
    if trial is None:
        winner = results.best(study)
        if winner is None:
            raise no_winner(base, name)
        return winner
    found = [row for row in results.rows(study) if row.number == trial]
    if not found or found[0].state != "complete":
        complete = [str(row.number) for row in results.rows(study) if row.state == "complete"]
        state = found[0].state if found else "absent"
        raise StudyError(
            f"study '{name}': trial {trial} is {state}; complete are: "
            f"{', '.join(complete) or 'none'}"
        )
    return found[0]


def no_winner(base: database.Database, name: str) -> StudyError:
    """Why nothing of a study can be exported, and what to type."""
    found = results.rows(results.open_study(base, name))
    record = base.read_study(name)
    assert record is not None
    why = results.no_winner(found, record.question["search"])
    return StudyError(f"study '{name}': {why}; go on with 'igkd run {name}'")


def _teacher_bytes(base: database.Database, facts: dict[str, Any], home: Path, name: str) -> bytes:
    wanted: str = facts["fingerprints"]["teacher"]
    path: Path = home / facts["teacher_file"]  # an absolute path stands for itself
    if path.is_file() and vault.file_digest(path) == wanted:
        return path.read_bytes()
    kept = registry.kept_teacher(base, name, wanted)
    if kept is not None:
        return kept
    found = "is another one now" if path.is_file() else "is not there"
    raise MaterialError(
        f"{path}: the teacher of study '{name}' {found}, and the database keeps none; give the "
        f"--home it was trained in, or train it again with 'igkd prepare {name}'"
    )


def _validation(
    base: database.Database,
    study: spec.Study,
    row: results.Row,
    facts: dict[str, Any],
    reruns: Sequence[spec.Rerun],
) -> spec.Validation:
    assert row.accuracy is not None
    images = facts["rows"]["validation"]
    low, high = uncertainty.of_accuracy(row.accuracy, images)
    found = results.rows(results.open_study(base, study.name))
    return spec.Validation(
        images=images,
        accuracy=row.accuracy,
        low=low,
        high=high,
        complete=len(results.answers(found)),
        loss=row.attributes.get("validation_loss"),
        calibration_error=row.attributes.get("calibration_error"),
        epochs=study.trial.epochs,
        reruns=list(reruns),
    )


def _provenance(
    name: str, row: results.Row, facts: dict[str, Any], study: spec.Study
) -> spec.Provenance:
    assert row.slot is not None and row.seed is not None and row.accuracy is not None
    table = facts["latency"]
    return spec.Provenance(
        study=name,
        trial=row.number,
        slot=row.slot,
        seed=row.seed,
        validation_accuracy=row.accuracy,
        exported=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprints=facts["fingerprints"],
        versions={"igkd-search": __version__} | {name: version(name) for name in _PACKAGES},
        latency={
            engine: {
                "teacher": table["teacher"][engine]["median_ms"],
                "student": table[row.attributes["architecture"]][engine]["median_ms"],
            }
            for engine in ("onnxruntime", "pytorch")
        },
        teacher_trained=study.teacher.checkpoint is None,
    )


def _document(exported: spec.Exported, searched: set[str]) -> str:
    document = tomlkit.document()
    number = exported.provenance.trial
    document.add(tomlkit.comment(f"The configuration of trial {number}, ready to be trained:"))
    document.add(tomlkit.comment("igkd train THIS_FILE -o final/"))
    for line in _told(exported):
        document.add(tomlkit.comment(line))
    document.add("schema_version", tomlkit.item(exported.schema_version))
    plain = exported.model_dump(mode="json", exclude={"schema_version"}, exclude_none=True)
    for name, section in plain.items():
        table = tomlkit.table()
        table.comment(_COMMENTS[name])
        for key, value in section.items():
            item = tomlkit.item(value)
            if name == "trial" and key in searched:
                item.comment("searched")
            table.add(key, item)
        document.add(tomlkit.nl())
        document.add(name, table)
    return tomlkit.dumps(document)


def _told(exported: spec.Exported) -> list[str]:
    """What is trained longer than it was searched, and what was tried again, a line each."""
    lines, epochs, searched = [], exported.trial.epochs, exported.searched_epochs
    if searched != epochs:
        lines.append(f"searched over {searched} epochs, to be trained over {epochs}")
    for each in exported.validation.reruns if exported.validation else ():
        lines.append(
            f"trial {each.trial}: {100 * each.searched:.2f} % in the search, "
            f"{amounts.spread(each.mean, each.sd)} % by "
            f"{amounts.several(len(each.accuracies), 'fresh seed')}"
        )
    return lines
