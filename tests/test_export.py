"""The exported file is complete, is read back as it was written, and its teacher lies beside it."""

import hashlib
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from igkd_search import __version__, database, export, registry, results, spec, study_file
from igkd_search.errors import MaterialError, StorageError, StudyError
from igkd_search.schema import files
from tests import tiny


@pytest.fixture
def base(searched: Path) -> Iterator[database.Database]:
    """The finished tiny study, to be read only."""
    opened = database.connect(f"sqlite:///{searched / 'igkd.db'}", read_only=True)
    yield opened
    opened.close()


def facts_of(base: database.Database) -> dict[str, Any]:
    record = base.read_study("tiny")
    assert record is not None
    return record.facts


def test_the_file_is_read_back_as_it_was_written(
    base: database.Database, searched: Path, tmp_path: Path
) -> None:
    output = tmp_path / "best.toml"
    written = export.export(base, "tiny", output, searched)
    read = study_file.read_exported(output)
    beside = str(tmp_path / "best.teacher.safetensors")
    assert read.teacher.checkpoint == beside
    teacher = written.teacher.model_copy(update={"checkpoint": beside})
    assert read == written.model_copy(update={"teacher": teacher})


def test_every_field_of_the_configuration_is_written_out(
    base: database.Database, study: spec.Study, searched: Path, tmp_path: Path
) -> None:
    winner = results.best(results.open_study(base, "tiny"))
    assert winner is not None
    export.export(base, "tiny", tmp_path / "best.toml", searched)
    text = (tmp_path / "best.toml").read_text()
    plain = tomllib.loads(text)
    # a resolution that is left out is that of the images
    fields = [name for name in spec.TrialConfig.model_fields if name != "resolution"]
    assert list(plain["trial"]) == fields
    decided = {"architecture": study.teacher.architecture} | winner.parameters
    assert plain["trial"] == study.trial.model_dump(exclude_none=True) | decided
    assert plain["data"] == study.data.model_dump(exclude_none=True) | {"classes": tiny.CLASSES}
    assert plain["overlays"] == study.overlays.model_dump()
    for line in text.splitlines():
        name = line.partition(" = ")[0]
        if name in spec.TrialConfig.model_fields and name not in ("epochs", "learning_rate"):
            assert line.endswith("# searched") == (name in winner.parameters), line


def test_how_targets_were_obtained_is_decided_in_the_file(
    base: database.Database, study: spec.Study, searched: Path, tmp_path: Path
) -> None:
    assert study.materials.targets == "auto"
    written = export.export(base, "tiny", tmp_path / "best.toml", searched)
    assert written.materials.targets == facts_of(base)["targets"] == "bank"


def test_provenance_says_where_it_comes_from(
    base: database.Database, study: spec.Study, searched: Path, tmp_path: Path
) -> None:
    winner, facts = results.best(results.open_study(base, "tiny")), facts_of(base)
    assert winner is not None
    found = export.export(base, "tiny", tmp_path / "best.toml", searched).provenance
    assert (found.study, found.trial, found.slot) == ("tiny", winner.number, winner.slot)
    assert found.validation_accuracy == winner.accuracy
    assert found.seed == spec.trial_seed(study.search.seed, found.slot)
    assert found.fingerprints == facts["fingerprints"]
    assert set(found.fingerprints) == {"data", "teacher", "targets", "overlays"}
    assert datetime.fromisoformat(found.exported).tzinfo is not None
    assert found.versions["igkd-search"] == __version__
    assert {"torch", "optuna", "captum"} < set(found.versions)
    for engine in ("onnxruntime", "pytorch"):
        for role, name in (("teacher", "teacher"), ("student", winner.attributes["architecture"])):
            assert found.latency[engine][role] == facts["latency"][name][engine]["median_ms"]


def test_the_teacher_lies_beside_it_with_the_digest_that_is_stated(
    base: database.Database, searched: Path, tmp_path: Path
) -> None:
    written = export.export(base, "tiny", tmp_path / "sub" / "mine.toml", searched)
    assert written.teacher.checkpoint == "mine.teacher.safetensors", "so both may be moved"
    weights = (tmp_path / "sub" / "mine.teacher.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert digest == written.teacher.checkpoint_sha256 == facts_of(base)["fingerprints"]["teacher"]


@pytest.mark.parametrize("number", [0, 1])
def test_any_complete_trial_can_be_exported(
    base: database.Database, searched: Path, tmp_path: Path, number: int
) -> None:
    row = results.rows(results.open_study(base, "tiny"))[number]
    written = export.export(base, "tiny", tmp_path / "it.toml", searched, trial=number)
    assert written.provenance.trial == number
    assert row.parameters.items() <= written.trial.model_dump().items()


def test_exporting_again_replaces_the_file(
    base: database.Database, searched: Path, tmp_path: Path
) -> None:
    for number in (0, 1):
        export.export(base, "tiny", tmp_path / "it.toml", searched, trial=number)
    assert study_file.read_exported(tmp_path / "it.toml").provenance.trial == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_trial_that_is_not_complete_is_refused_with_those_that_are(
    mine: tuple[database.Database, Path], tmp_path: Path
) -> None:
    base, home = mine
    results.open_study(base, "tiny").ask()
    for number, state in ((2, "running"), (7, "absent")):
        with pytest.raises(StudyError, match=f"trial {number} is {state}; complete are: 0, 1"):
            export.export(base, "tiny", tmp_path / "it.toml", home, trial=number)
    assert not (tmp_path / "it.toml").exists()


def test_without_a_complete_trial_there_is_nothing_to_export(
    mine: tuple[database.Database, Path], study: spec.Study, tmp_path: Path
) -> None:
    base, home = mine
    registry.register(base, study.model_copy(update={"name": "begun"}))
    with pytest.raises(StudyError, match="no trial is complete yet; go on with 'igkd run begun'"):
        export.export(base, "begun", tmp_path / "it.toml", home)
    with pytest.raises(StorageError, match="no study 'unknown'"):
        export.export(base, "unknown", tmp_path / "it.toml", home)


def test_a_teacher_that_is_gone_or_another_is_refused_and_nothing_is_written(
    mine: tuple[database.Database, Path], tmp_path: Path
) -> None:
    base, home = mine
    weights = home / facts_of(base)["teacher_file"]
    weights.chmod(0o644)
    weights.write_bytes(b"another")
    with base.transaction() as connection:
        connection.execute(sa.delete(files))  # as in a database that an older igkd-search made
    with pytest.raises(MaterialError, match="teacher of study 'tiny' is another one now"):
        export.export(base, "tiny", tmp_path / "it.toml", home)
    weights.unlink()
    with pytest.raises(
        MaterialError, match="is not there, and the database keeps none; give the --home"
    ):
        export.export(base, "tiny", tmp_path / "it.toml", home)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_teacher_comes_from_the_database_where_the_home_lacks_it(
    base: database.Database, searched: Path, tmp_path: Path
) -> None:
    here = export.export(base, "tiny", tmp_path / "here.toml", searched)
    there = export.export(base, "tiny", tmp_path / "there.toml", tmp_path / "another home")
    assert there.teacher.checkpoint_sha256 == here.teacher.checkpoint_sha256
    weights = [tmp_path / f"{name}.teacher.safetensors" for name in ("here", "there")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_changed_file_does_not_matter_where_the_database_keeps_the_teacher(
    mine: tuple[database.Database, Path], searched: Path, tmp_path: Path
) -> None:
    base, home = mine
    weights = home / facts_of(base)["teacher_file"]
    expected = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(b"another")
    export.export(base, "tiny", tmp_path / "it.toml", home)
    assert (tmp_path / "it.teacher.safetensors").read_bytes() == expected


def test_a_study_with_a_live_teacher_exports_what_train_accepts(
    mine: tuple[database.Database, Path], study: spec.Study, tmp_path: Path
) -> None:
    # as many views as there are, or more, restrict nothing, so `auto` may choose either
    base, home = mine
    options = study.materials.model_copy(update={"targets": "auto", "views": 99})
    asked = study.model_copy(update={"materials": options})
    base.set_question("tiny", asked.model_dump(mode="json"))
    base.update_facts("tiny", targets="live")
    export.export(base, "tiny", tmp_path / "it.toml", home)
    found = study_file.read_exported(tmp_path / "it.toml").materials
    assert (found.targets, found.views) == ("live", None)


def test_a_place_that_cannot_be_made_is_named(
    base: database.Database, searched: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be made"):
        export.export(base, "tiny", tmp_path / "file" / "best.toml", searched)


def test_a_student_that_was_asked_for_by_name_is_written_as_the_fields_that_make_it(
    mine: tuple[database.Database, Path], tmp_path: Path
) -> None:
    base, home = mine
    record = base.read_study("tiny")
    assert record is not None
    blocks = {"choices": [tiny.REMOVED_BLOCKS - 1, tiny.REMOVED_BLOCKS]}
    ranges = {"removed_blocks": blocks, "kd_weight": {"low": 0.0, "high": 1.0}}
    search = record.question["search"] | {"space": ranges, "students": [tiny.STUDENT]}
    base.set_question("tiny", record.question | {"search": search})
    student = optuna.distributions.CategoricalDistribution([tiny.STUDENT])
    trial = optuna.trial.create_trial(
        value=1.0,
        params={"student": tiny.STUDENT, "kd_weight": 0.75},
        distributions={
            "student": student,
            "kd_weight": optuna.distributions.FloatDistribution(0.0, 1.0),
        },
        user_attrs={"slot": 2, "seed": 1, "attempts": 1, "architecture": tiny.STUDENT},
    )
    results.open_study(base, "tiny").add_trial(trial)
    export.export(base, "tiny", tmp_path / "best.toml", home, trial=2)
    text = (tmp_path / "best.toml").read_text()
    written = study_file.read_exported(tmp_path / "best.toml").trial
    assert (written.removed_blocks, written.kd_weight) == (tiny.REMOVED_BLOCKS, 0.75)
    lines = text.partition("[trial]")[2].partition("[provenance]")[0].splitlines()
    searched = [line.partition(" = ")[0] for line in lines if line.endswith("# searched")]
    assert searched == ["removed_blocks", "kd_weight"]
    assert "student" not in [line.partition(" = ")[0] for line in lines]


def test_an_edited_file_is_known_as_one(
    base: database.Database, searched: Path, tmp_path: Path
) -> None:
    output = tmp_path / "best.toml"
    export.export(base, "tiny", output, searched)
    assert not study_file.read_exported(output).is_edited
    text = output.read_text()
    output.write_text(text.replace("overlay_strength = 0.5", "overlay_strength = 0.4"))
    assert study_file.read_exported(output).is_edited
