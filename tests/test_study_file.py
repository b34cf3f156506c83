"""Files that cannot be read, and paths in those that can; faults of fields are in test_spec."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from igkd_search import spec, study_file
from igkd_search.errors import StudyError

STUDIES = Path(__file__).resolve().parents[1] / "studies"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    missing, folder = tmp_path / "missing.toml", tmp_path / "folder.toml"
    folder.mkdir()
    latin = write(tmp_path / "latin.toml", 'name = "é"'.encode("latin-1"))
    broken = write(tmp_path / "broken.toml", 'name = "x"\nname = ')
    for path, said in [
        (missing, "no such file"),
        (folder, "cannot be read: "),
        (latin, "cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (broken, "not valid TOML: "),
    ]:
        with pytest.raises(StudyError) as caught:
            study_file.read_study(path)
        assert str(caught.value).startswith(f"{path}: {said}")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.toml", "[trial]\nepochs = 1\nepochs = 2\n")
    with pytest.raises(StudyError, match="not valid TOML"):
        study_file.read_plain(path)


def test_faults_name_the_file_they_are_in(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", 'name = "mine"\n[search.space]\n')
    with pytest.raises(StudyError) as caught:
        study_file.read_study(path)
    assert str(caught.value).startswith(f"{path}: line 2: search.space = ")


def test_a_checkpoint_lies_beside_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    text = (
        'name = "mine"\n[teacher]\ncheckpoint = "t.safetensors"\n'
        "[search.space]\ntemperature = {low = 1, high = 2}\n"
    )
    path = write(folder / "mine.toml", text)
    assert study_file.read_study(path).teacher.checkpoint == str(folder / "t.safetensors")
    monkeypatch.chdir(tmp_path)
    relative = study_file.read_study(Path("files/mine.toml")).teacher.checkpoint
    assert relative == str(folder / "t.safetensors")


@pytest.mark.parametrize("source", ["arrays", "folder"])
def test_data_lies_where_the_command_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    text = (
        f'name = "mine"\n[data]\nsource = "{source}"\npath = "mine"\n'
        "[search.space]\ntemperature = {low = 1, high = 2}\n"
    )
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "mine.toml", text)
    monkeypatch.chdir(tmp_path)
    assert study_file.read_study(Path("files/mine.toml")).data.path == str(tmp_path / "mine")


def test_reading_a_study_loads_neither_torch_nor_optuna() -> None:
    code = (
        "import sys; from pathlib import Path; from igkd_search import spec, study_file; "
        f"study_file.read_study(Path({str(STUDIES / 'digits.toml')!r})); "
        "print([name for name in ('torch', 'optuna', 'numpy', 'sqlalchemy', 'rich') "
        "if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_faults_are_data_with_line_and_place() -> None:
    text = (
        'name = "mine"\n\n[trial]\nepochs = 0\n[search]\nsampler = "tp"\n'
        "[search.space]\nkd_weight = { low = 0.0, high = 1.0 }\n[[search.start]]\nkd_wait = 3\n"
    )
    found = study_file.faults(spec.Study, tomllib.loads(text), text)
    assert isinstance(found, list)
    assert [(fault.line, fault.place) for fault in found] == [
        (4, "trial.epochs"),
        (6, "search.sampler"),
    ]
    assert found[0].message.startswith("trial.epochs = 0: ")
    text = text.replace("epochs = 0", "epochs = 1").replace('"tp"', '"tpe"\npruner = "none"')
    found = study_file.faults(spec.Study, tomllib.loads(text), text)
    assert isinstance(found, list)
    # those of the whole model have no place of pydantic's, but begin with theirs
    assert [(fault.line, fault.place) for fault in found] == [(11, "search.start[0].kd_wait")]


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("search.start[1].kd_weight = 3 is outside", ("search", "start", 1, "kd_weight")),
        ("teacher.checkpoint: no such file", ("teacher", "checkpoint")),
        ("/data/mine: no such folder", ()),
        ("the grid has 3 points", ()),
        ("mine.toml: what", ()),
    ],
)
def test_a_message_says_its_place_where_it_begins_with_one(
    message: str, place: tuple[str | int, ...]
) -> None:
    assert study_file.place_in(message) == place
