"""What options mean before a command does anything: where data, home and storage are."""

from pathlib import Path
from typing import Any

import pytest

from igkd_search import command_options, registry, spec
from igkd_search.errors import StorageError


def test_a_source_without_a_folder_stays_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # IGKD_DATA may be set for another study, so it is said and not refused
    study = registry.find("digits")
    assert command_options.located(study, tmp_path) is study
    assert "--data is not used: source = 'digits' has no folder" in caplog.text


@pytest.mark.parametrize("source", ["arrays", "folder"])
def test_arrays_and_image_folders_can_be_moved(tmp_path: Path, source: Any) -> None:
    data = spec.Data(source=source, path="elsewhere")
    study = registry.find("digits").model_copy(update={"data": data})
    assert command_options.located(study, tmp_path / "here").data.path == str(tmp_path / "here")


def test_a_home_may_be_missing_but_must_be_possible(tmp_path: Path) -> None:
    command_options.check_home(tmp_path)
    command_options.check_home(tmp_path / "new" / "and" / "deep")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="file is not a folder; choose another"):
            command_options.check_home(place)


def test_the_storage_lies_in_the_home_unless_it_is_named(tmp_path: Path) -> None:
    assert command_options.open_if_there(None, tmp_path) is None
    with pytest.raises(StorageError, match="start a search first"):
        command_options.open_storage(None, tmp_path, read_only=True)
    command_options.open_storage(None, tmp_path).close()
    assert (tmp_path / "igkd.db").is_file()
    named = f"sqlite:///{tmp_path / 'other.db'}"
    command_options.open_storage(named, tmp_path / "unused").close()
    assert (tmp_path / "other.db").is_file() and not (tmp_path / "unused").exists()
