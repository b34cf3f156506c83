"""The shipped study files are found by name."""

from pathlib import Path

from igkd_search import registry, shipped


def test_every_shipped_file_is_found_by_its_name() -> None:
    files = sorted((Path(__file__).resolve().parents[1] / "studies").glob("*.toml"))
    assert shipped.studies() == {file.stem: file for file in files}
    assert registry.shipped_studies() == shipped.studies()
