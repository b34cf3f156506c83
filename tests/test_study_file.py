"""Files that cannot be read, and paths in those that can; faults of fields are in test_spec."""

import subprocess
import sys
from pathlib import Path

import pytest

from igkd_search import study_file
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
        study_file.read_toml(path)


def test_faults_name_the_file_they_are_in(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", 'name = "mine"\n[search.space]\n')
    with pytest.raises(StudyError) as caught:
        study_file.read_study(path)
    assert str(caught.value).startswith(f"{path}: search.space = ")


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
        "import sys; from pathlib import Path; from igkd_search import study_file; "
        f"study_file.read_study(Path({str(STUDIES / 'digits.toml')!r})); "
        "print([name for name in ('torch', 'optuna', 'numpy', 'sqlalchemy', 'rich') "
        "if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
