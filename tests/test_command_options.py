"""What options mean before a command does anything: where data, home and storage are."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from igkd_search import command_options, registry, spec
from igkd_search.command_options import absolute, order_of, url_of, without_password
from igkd_search.errors import StorageError

SECRET = "postgresql+psycopg://a:secret@host/db"


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


def typed(*arguments: str, **environment: str) -> tuple[str, str]:
    """What --storage stands for in a command, and what is said about it."""
    app = typer.Typer()

    @app.command()
    def show(storage: command_options.StorageOption = None) -> None:
        typer.echo(url_of(storage, Path("home")))

    names = ("IGKD_STORAGE", "IGKD_STORAGE_FILE", "OPTUNA_STORAGE")
    found = CliRunner().invoke(app, arguments, env={**dict.fromkeys(names), **environment})
    assert found.exit_code == 0, found.output
    return found.stdout.strip(), found.stderr


def test_the_database_is_named_by_option_file_or_environment_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "storage.url"
    file.write_text("# the cluster's\n\n  sqlite:///of-the-file.db  \n")
    file.chmod(0o600)
    named = {"IGKD_STORAGE": "sqlite:///a.db", "OPTUNA_STORAGE": "sqlite:///c.db"}
    named["IGKD_STORAGE_FILE"] = str(file)
    assert typed("--storage", "sqlite:///typed.db", **named)[0] == "sqlite:///typed.db"
    assert typed("--storage-file", str(file), **named)[0] == "sqlite:///of-the-file.db"
    assert typed(**named)[0] == "sqlite:///a.db"
    del named["IGKD_STORAGE"]
    assert typed(**named)[0] == "sqlite:///of-the-file.db"
    del named["IGKD_STORAGE_FILE"]
    assert typed(**named)[0] == "sqlite:///c.db"
    assert typed()[0] == "sqlite:///home/igkd.db"


def test_a_password_on_the_command_line_is_warned_of_and_not_repeated(tmp_path: Path) -> None:
    url, said = typed("--storage", SECRET)
    assert url == SECRET
    assert "warning: --storage: every user" in said and "--storage-file FILE" in said
    assert "secret" not in said
    for harmless in ("sqlite:///x.db", "postgresql+psycopg://a:@host/db"):
        assert typed("--storage", harmless) == (harmless, "")
    # in the environment it is where it belongs
    assert typed(IGKD_STORAGE=SECRET) == (SECRET, "")
    file = tmp_path / "url"
    file.write_text(SECRET)
    file.chmod(0o600)
    assert typed("--storage-file", str(file)) == (SECRET, "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "url"
    file.write_text(SECRET)
    file.chmod(mode)
    assert url_of(str(file), tmp_path) == SECRET
    assert f"{file} can be read by other users; type chmod 600" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold one line"),
        (b"# nothing but this\n", "must hold one line"),
        (b"secret\n", "must hold one line"),
        (b"sqlite:///a.db\npostgresql://b:secret@c/d\n", "must hold one line"),
        (b"SQLite format 3\x00\xff\xfe secret", "neither a URL .*not a text file"),
    ],
)
def test_a_file_that_holds_no_url_is_refused_without_repeating_it(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "url"
    file.write_bytes(content)
    with pytest.raises(StorageError, match=message) as caught:
        url_of(str(file), tmp_path)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_what_a_url_is() -> None:
    with pytest.raises(
        StorageError, match=r"--storage none: neither a URL \(sqlite:///PATH, .*No su"
    ):
        url_of("none", Path())


def test_an_order_means_the_same_in_any_folder_and_holds_a_password_only_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    question = registry.find("digits")

    def of(storage: str | None) -> tuple[str, str | None]:
        found = order_of("digits", question, None, storage, Path("home"), None, None)
        return found.url, found.storage

    here = f"sqlite:///{tmp_path}"
    assert of(None) == (f"{here}/home/igkd.db",) * 2
    assert of("sqlite:///a.db") == (f"{here}/a.db",) * 2
    assert of("sqlite:////a.db") == ("sqlite:////a.db",) * 2
    assert of("postgresql+psycopg://a@b/c") == ("postgresql+psycopg://a@b/c",) * 2
    assert of(SECRET) == (SECRET, None)
    (tmp_path / "url").write_text(SECRET)
    assert of("url") == (SECRET, f"{tmp_path}/url")
    assert without_password(SECRET, tmp_path) is None
    assert absolute(SECRET) == SECRET


def test_what_a_url_hides_is_found(tmp_path: Path) -> None:
    holds = command_options.holds_password
    assert holds(SECRET) and holds("postgresql+psycopg://a@b/c?password=x")
    assert holds("postgresql+psycopg://a:p/q#r@b/c")  # not a URL that could be parsed
    for plain in ("sqlite:////a:b/c.db", "postgresql+psycopg://a@b:5432/c", "p://a:@b", "a.url"):
        assert not holds(plain)
