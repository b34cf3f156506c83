"""add, retry, copy, repair and delete as typed: exit codes, what is printed, what is asked."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import typer
from typer.testing import CliRunner, Result

from igkd_search import console, database, queued, slots, study_commands, workers
from igkd_search.errors import TrialError
from igkd_search.identities import this_process
from tests.databases import prepared_url
from tests.test_worker import FakeTraining, Search, study_of

Igkd = Callable[..., Result]


@pytest.fixture
def igkd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Igkd]:
    """Type commands in this process; what they set for a process of their own is put back."""
    package, on_sigterm = logging.getLogger("igkd_search"), signal.getsignal(signal.SIGTERM)
    kept = package.handlers[:], package.level, package.propagate
    verbosity = optuna.logging.get_verbosity()
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    study_commands.register(app)

    def call(*arguments: object, answer: str | None = None) -> Result:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, words, input=answer)

    yield call
    package.handlers[:], package.level, package.propagate = kept
    signal.signal(signal.SIGTERM, on_sigterm)
    optuna.logging.set_verbosity(verbosity)
    os.environ.pop("IGKD_DEBUG", None)


@dataclass
class Home:
    """A home folder in which study `s` has run: four trials, the second of which diverged."""

    folder: Path
    base: database.Database

    @property
    def search(self) -> Search:
        return Search(self.base, self.folder / "checkpoints", study_of())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "storage"
    folder.mkdir()
    url = prepared_url("sqlite", folder)
    Path(url.removeprefix("sqlite:///")).rename(folder / "igkd.db")
    base = database.connect(f"sqlite:///{folder / 'igkd.db'}")
    found = Home(folder, base)
    found.search.begin(study_of()).run(FakeTraining({(2, 1): TrialError("diverged", "nan")}))
    base.close()
    yield found
    base.close()


def error_of(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    before, mark, message = f"\n{result.stderr}".partition("\nerror: ")
    assert mark and "Traceback" not in before + message
    return message


def test_add_says_the_place_and_that_there_is_no_room(igkd: Igkd, home: Home) -> None:
    first = igkd("add", "s", "temperature=4", "kd_weight=0.5")
    assert first.exit_code == 0, first.stderr
    assert "study s: added" in first.stdout
    assert "tried next  temperature=4.0 kd_weight=0.5" in first.stdout
    assert "igkd run s --trials 5" in first.stdout
    second = json.loads(igkd("add", "s", "kd_weight=0.25", "-f", "json").stdout)
    assert second["waiting"][1] == {"kd_weight": 0.25}
    assert (second["trials"], second["fresh"], second["trials_needed"]) == (4, 0, 6)
    listed = igkd("add", "s").stdout
    assert "2 configurations wait" in listed and "place 2  kd_weight=0.25" in listed
    assert "temperature = 44.0 is outside of [1, 10]" in error_of(
        igkd("add", "s", "temperature=44")
    )
    assert len(queued.waiting(home.base, "s")) == 2


def test_an_empty_queue_says_how_to_fill_it(igkd: Igkd, home: Home) -> None:
    found = igkd("add", "s")
    assert found.exit_code == 0
    assert "nothing waits" in found.stdout and "igkd add s NAME=VALUE" in found.stdout


def test_retry_says_which_trials_are_tried_again(igkd: Igkd, home: Home) -> None:
    again = igkd("retry", "s", "--trial", 1)
    assert again.exit_code == 0, again.stderr
    assert "trial 1  diverged; again as trial 4, slot 1" in again.stdout
    assert slots.Slots(home.base, "s").counts().open == 1
    assert "no failed trial is left" in igkd("retry", "s", "--failed").stdout
    found = igkd("retry", "s", "--failed", "-f", "json")
    assert json.loads(found.stdout) == {"study": "s", "retried": []}
    for wrong in ([], ["--trial", 1, "--failed"], ["--trial", 1, "--cause", "bug"]):
        assert "--trial N, or --failed" in error_of(igkd("retry", "s", *wrong))


def test_copy_says_what_was_copied_and_hides_the_password(
    igkd: Igkd, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'there.db'}"
    found = igkd("copy", "s", "--to", url, "--as", "t")
    assert found.exit_code == 0, found.stderr
    for said in (f"copied study s to {url}", "trials    4 (3 complete, 1 failed)", "slots     4"):
        assert said in found.stdout
    assert "both sides hold the same trials (sha256 " in found.stdout
    assert "igkd run t" in found.stdout and "warning" not in found.stderr
    assert "there is a study 't'" in error_of(igkd("copy", "s", "--to", url, "--as", "t"))
    monkeypatch.setenv("IGKD_STORAGE_WAIT", "0")
    hidden = "postgresql+psycopg://me:secret@127.0.0.1:9/igkd"
    refused = igkd("copy", "s", "--to", hidden)
    assert "***" in error_of(refused) and "secret" not in refused.output
    assert "warning: --to: every user of this machine" in refused.stderr


def test_repair_shows_first_and_mends_when_told_to(igkd: Igkd, home: Home) -> None:
    healthy = igkd("repair", "s")
    assert (healthy.exit_code, healthy.stdout) == (0, "study s: nothing to repair\n")
    optuna.load_study(study_name="s", storage=home.base.storage).enqueue_trial({})
    shown = igkd("repair", "s")
    assert shown.exit_code == 1
    assert "study s: 1 thing is wrong" in shown.stdout
    assert "trial 4 waits, but is of no slot: to be discarded (told FAIL)" in shown.stdout
    assert "igkd repair s --yes" in shown.stderr
    assert home.search.trials[4].state.name == "WAITING"
    mended = igkd("repair", "s", "--yes")
    assert mended.exit_code == 0 and "mended" in mended.stderr
    assert home.search.trials[4].state.name == "FAIL"


def test_delete_asks_first(igkd: Igkd, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    unasked = igkd("delete", "s")
    assert "igkd delete s --yes" in error_of(unasked)
    assert "trials" in unasked.stdout, "what would go is shown all the same"
    monkeypatch.setattr(study_commands, "is_interactive", lambda: True)
    assert igkd("delete", "s", answer="n\n").exit_code == 1
    assert home.base.study_names() == ["s"]
    removed = igkd("delete", "s", answer="y\n")
    assert removed.exit_code == 0, removed.stderr
    assert "removed study s" in removed.stderr and "igkd materials --prune" in removed.stderr
    assert home.base.study_names() == []
    assert "no study 's'" in error_of(igkd("delete", "s", "--yes"))


def test_repair_asks_on_a_terminal(igkd: Igkd, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_commands, "is_interactive", lambda: True)
    optuna.load_study(study_name="s", storage=home.base.storage).enqueue_trial({})
    assert igkd("repair", "s", answer="n\n").exit_code == 1
    assert home.search.trials[4].state.name == "WAITING"
    assert igkd("repair", "s", answer="y\n").exit_code == 0
    assert home.search.trials[4].state.name == "FAIL"


def test_a_study_at_work_is_neither_deleted_nor_copied(
    igkd: Igkd, home: Home, tmp_path: Path
) -> None:
    machine = workers.Machine("cpu", None, {})
    workers.Register(home.base, "s", this_process(), machine).join()
    assert "igkd stop s" in error_of(igkd("delete", "s", "--yes"))
    to = f"sqlite:///{tmp_path / 'there.db'}"
    assert "igkd stop s" in error_of(igkd("copy", "s", "--to", to))


@pytest.mark.parametrize(
    "words",
    [
        ["add", "s", "kd_weight=1"],
        ["retry", "s", "--failed"],
        ["copy", "s", "--to", "sqlite:///there.db"],
        ["repair", "s"],
        ["delete", "s", "--yes"],
    ],
)
def test_nothing_is_made_where_there_is_no_database(
    igkd: Igkd, tmp_path: Path, words: list[str]
) -> None:
    assert "no database at" in error_of(igkd(*words))
    assert list(tmp_path.iterdir()) == []
