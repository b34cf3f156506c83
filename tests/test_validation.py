"""Every fault of a file with its line; what only torch and the data know; and what it would ask."""

import json
from pathlib import Path

import numpy as np
import pytest
import tomlkit

from igkd_search import export, spec, study_file, validation
from tests import tiny


def examined(path: Path, **options: bool) -> list[tuple[int | None, str]]:
    return [(f.line, f.place) for f in validation.examine(path, path.parent, **options)[1]]


@pytest.fixture
def file(arrays: Path, tmp_path: Path) -> Path:
    return tiny.write_study(tmp_path / "tiny.toml", arrays)


def broken(file: Path, old: str, new: str) -> int:
    """Replace a line of the file; its number."""
    lines = file.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(old))
    lines[number] = new
    file.write_text("\n".join(lines))
    return number + 1


def test_a_file_that_is_well_says_what_it_asks(file: Path) -> None:
    run, faults = validation.examine(file, file.parent)
    assert faults == [] and run is not None
    assert validation.in_words(run) == (
        "study 'tiny' asks 10 trials of 2 epochs (random, none) over temperature, kd_weight; "
        f"student: {tiny.STUDENT}"
    )


def test_an_exported_file_is_looked_at_as_one(study: spec.Study, tmp_path: Path) -> None:
    exported = tiny.exported(study)
    path = tmp_path / "best.toml"
    plain = exported.model_dump(mode="json", exclude_none=True, by_alias=True)
    path.write_text(tomlkit.dumps(plain))
    run, faults = validation.examine(path, tmp_path)
    assert faults == [] and isinstance(run, spec.Exported)
    assert validation.in_words(run) == f"trains {tiny.STUDENT} for 2 epochs"
    broken(path, "schema_version", "schema_version = 2")
    assert examined(path, data=False) == [(1, "schema_version")]


def test_a_json_export_is_looked_at_too_without_lines(study: spec.Study, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text(export.written(tiny.exported(study), path, set()))
    run, faults = validation.examine(path, tmp_path)
    assert faults == [] and isinstance(run, spec.Exported)
    plain = json.loads(path.read_text())
    plain["trial"]["removed_blocks"] = 40
    path.write_text(json.dumps(plain))
    assert examined(path)[0] == (None, "trial.removed_blocks")
    plain["trial"]["epoch"] = 2
    path.write_text(json.dumps(plain))
    assert examined(path, data=False) == [(None, "trial.epoch")]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [('{"name":\n 1,}', 2, "not valid JSON: "), ("[1]", None, "must be a JSON object")],
)
def test_a_file_that_is_no_json_says_where(
    tmp_path: Path, text: str, line: int | None, said: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    run, (fault,) = validation.examine(path, tmp_path)
    assert run is None and fault.line == line and fault.message.startswith(said)


def test_all_faults_of_the_text_have_their_lines_in_order(file: Path) -> None:
    sampler = broken(file, "sampler", 'sampler = "tp"')
    size = broken(file, "batch_size", "batch_sise = 12")
    assert examined(file) == [(size, "teacher.batch_sise"), (sampler, "search.sampler")]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('name = "x"\nname = ', 2, "invalid value"),
        ("[trial]\nepochs = 1\nepochs = 2\n", 3, "overwrite a value"),
        ('name = "x', 1, ""),
    ],
)
def test_a_file_that_is_no_toml_says_where(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    run, (fault,) = validation.examine(path, tmp_path)
    assert run is None and fault.line in (line, line + 1)
    assert fault.message.startswith("not valid TOML: ") and said in fault.message


def test_networks_files_and_data_are_looked_at_unless_told_not_to(
    file: Path, arrays: Path, tmp_path: Path
) -> None:
    blocks = broken(file, "removed_blocks", "removed_blocks = 40")
    data = broken(file, "path", f'path = "{tmp_path}/nowhere"')
    assert examined(file, data=False) == []
    assert examined(file) == [(blocks, "trial.removed_blocks"), (data, "data.path")]
    broken(file, "removed_blocks", "removed_blocks = 15")
    broken(file, "path", f'path = "{arrays}"')
    teacher = broken(file, "width", 'width = 0.1\ncheckpoint = "none.safetensors"') + 1
    assert examined(file) == [(teacher, "teacher.checkpoint")]


def test_data_that_are_no_data_are_a_fault_of_their_path(file: Path, tmp_path: Path) -> None:
    folder = tiny.write_arrays(tmp_path / "mine")
    line = broken(file, "path", f'path = "{folder}"')
    np.save(folder / "train_labels.npy", np.zeros(3, np.int64))
    assert examined(file) == [(line, "data.path")]


def test_a_place_is_guessed_from_nothing_but_its_name() -> None:
    assert study_file.place_in("[Errno 2] data") == ()
