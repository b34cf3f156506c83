"""Final training from an exported file: train and validation rows, the test set read once a model.

Resumable: a finished folder is not trained again, and its test set is not read again. The shipped
student is that of the first seed, fixed before training, for any later choice would be a selection
on the test set.
"""

import json
import logging
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from igkd_search import (
    augment,
    checkpoints,
    compiling,
    datasets,
    devices,
    evaluation,
    latency,
    materials,
    spec,
    stages,
    study_file,
    training,
    users,
    vault,
)
from igkd_search.errors import StorageError, StudyError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Bench:
    """What all seeds of a final training share."""

    exported: spec.Exported
    shared: materials.Materials
    stock: training.Stock
    rows: Tensor
    """Every row of the training part: fit and validation."""
    folder: Path


def train(
    exported: spec.Exported, folder: Path, home: Path, seeds: int = 1, device: str | None = None
) -> dict[str, Any]:
    """Train `seeds` students, evaluate each once on the test set, write everything to `folder`.

    Writes student.safetensors (first seed) and result.json; returns the latter. StudyError when the
    folder holds the result of another configuration, or `device` (devices.choose) or IGKD_COMPILE
    is none.
    """
    chosen = devices.choose(device)
    compiling.asked()
    asked = _asked(exported, seeds)
    # no study of this storage may name what is read here
    with users.using(home / "vault"):
        return _finished(folder, asked, exported.data, home) or _train(
            exported, folder, home, seeds, asked, chosen
        )


def _train(
    exported: spec.Exported,
    folder: Path,
    home: Path,
    seeds: int,
    asked: str,
    device: torch.device,
) -> dict[str, Any]:
    bench = _bench(exported, folder, home, seeds, device)
    _make(folder)
    students = [_train_seed(bench, index, seeds) for index in range(seeds)]
    # only now, with every model finished, is the test set opened, and the reading counted
    data = bench.shared.data
    test = datasets.load_test(exported.data, home, data.classes)
    reads = _count_read(folder)
    duplicates = _count_duplicates(data, test)
    images, labels = _normalised(test, bench.stock.reader)
    accuracies = [evaluation.evaluate(student, images, labels).accuracy for student in students]
    result: dict[str, Any] = {
        "asked": asked,
        "configuration": exported.model_dump(mode="json"),
        "fingerprints": dict(bench.shared.fingerprints),
        "test": {"images": len(labels), "reads": reads, "duplicates": duplicates},
        "teacher": {
            "accuracy": evaluation.evaluate(bench.shared.teacher.network, images, labels).accuracy,
            **bench.shared.latency["teacher"].as_dict(),
        },
        "student": {
            "accuracy": _spread(accuracies),
            "seeds": [
                {"seed": final_seed(exported, index), "accuracy": accuracy}
                for index, accuracy in enumerate(accuracies)
            ],
            **_student_figures(bench),
        },
        "machine": latency.machine(),
    }
    weights = {key: value.contiguous().cpu() for key, value in students[0].state_dict().items()}
    vault.write_whole(folder / "student.safetensors", save(weights))
    vault.write_whole(folder / "result.json", json.dumps(result, indent=2).encode())
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result


def _asked(exported: spec.Exported, seeds: int) -> str:
    return spec.fingerprint([exported.question(), exported.provenance.seed, seeds])


def _asked_before(result: Mapping[str, Any], path: Path) -> str:
    """What a result answers, if it were asked now: fields that came later have their defaults."""
    configuration = study_file.check(spec.Exported, result["configuration"], str(path))
    return _asked(configuration, len(result["student"]["seeds"]))


def final_seed(exported: spec.Exported, index: int) -> int:
    """The seed of the index-th final student, independent of the trial's."""
    return spec.trial_seed(exported.provenance.seed, index, "final")


def _finished(folder: Path, asked: str, data: spec.Data, home: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        trained, known = _asked_before(result, path), result["fingerprints"]["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path}: not a result of 'igkd train' ({error!r}); give an empty folder with -o"
        ) from error
    same_data = known == datasets.load(data, home).fingerprint
    if trained != asked or not same_data:
        what = "configuration or number of seeds" if same_data else "data set"
        raise StudyError(
            f"{path}: the result of another {what}; give an empty folder with -o, or remove this "
            "one"
        )
    log.info("%s: finished already; the test set is not read again", folder)
    return result


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o"
        ) from error


def _count_read(folder: Path) -> int:
    """One more reading of the test set; 1 unless a run was killed between reading and writing."""
    path = folder / "test_reads.json"
    reads = 1 + (int(json.loads(path.read_bytes())) if path.exists() else 0)
    vault.write_whole(path, json.dumps(reads).encode())
    return reads


def _count_duplicates(data: datasets.Dataset, test: datasets.Part) -> int:
    duplicates = datasets.count_duplicates(data.images, test[0])
    if duplicates:
        log.warning(
            "%d of %d test images are in the training part too: the test accuracy may be too high",
            duplicates,
            len(test[0]),
        )
    return duplicates


def _bench(
    exported: spec.Exported, folder: Path, home: Path, seeds: int, device: torch.device
) -> _Bench:
    shared = materials.prepare(exported, home, device)
    _warn_of_other_data(exported.provenance.fingerprints, shared.fingerprints)
    planned = seeds * exported.planned_epochs()
    stock = training.Stock.of(shared, exported, device, planned_epochs=planned)
    rows = torch.arange(len(shared.data.labels), device=device)
    return _Bench(exported, shared, stock, rows, folder)


def _warn_of_other_data(stated: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, digest in stated.items():
        if name in found and found[name] != digest:
            log.warning(
                "the %s are not those of the search (sha256 %s, now %s)",
                name,
                digest[:12],
                found[name][:12],
            )


def _train_seed(bench: _Bench, index: int, seeds: int) -> nn.Module:
    config, seed = bench.exported.trial, final_seed(bench.exported, index)
    # named by what is trained: the killed run of another configuration must not be continued
    trained = spec.fingerprint([bench.exported.question(), dict(bench.shared.fingerprints), seed])
    save_to = bench.folder / "checkpoints" / trained[:16]
    student = training.build(config, bench.stock, seed)
    epochs = training.train(
        config,
        bench.stock,
        seed,
        student=student,
        rows=bench.rows,
        save_to=save_to,
        resume_from=checkpoints.newest(save_to),
    )
    name = "student" if seeds == 1 else f"student {index + 1}/{seeds}"
    with stages.stage(name, config.epochs, "epochs") as stage:
        for record in epochs:
            stage.advance(note=f"loss {record.loss:.3f}")
    return student.eval()


def _normalised(test: datasets.Part, reader: augment.Reader) -> tuple[Tensor, Tensor]:
    device = reader.mean.device
    pixels = torch.tensor(np.asarray(test[0])).to(device)
    unit = pixels.float().div_(255).contiguous(memory_format=torch.channels_last)
    return augment.normalise(unit, reader.mean, reader.sd), torch.tensor(test[1]).to(device)


def _student_figures(bench: _Bench) -> dict[str, Any]:
    name = spec.Architecture.of(bench.exported.trial, bench.stock.architecture).name
    figures, teacher = bench.shared.latency[name], bench.shared.latency["teacher"]
    compression = teacher.parameters / figures.parameters
    return {"architecture": name, "compression": compression, **figures.as_dict()}


def _spread(values: list[float]) -> dict[str, float | int | None]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}
