"""The study files that come with the package; found without reading any of them."""

from pathlib import Path


def studies() -> dict[str, Path]:
    """Those files by name, in order: inside the wheel, or beside the package."""
    package = Path(__file__).parent
    folder = package / "studies"
    folder = folder if folder.is_dir() else package.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
