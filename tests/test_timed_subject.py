"""Laws of what is timed: a file's trial or a study's winner, and why there is none."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from igkd_search import database, export, registry, results, spec, timed_subject
from igkd_search.errors import StorageError, StudyError
from tests import tiny


def test_a_json_export_is_its_trial_too(study: spec.Study, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text(export.written(tiny.exported(study), path, set()))
    subject = timed_subject.of_file(path)
    assert subject is not None and subject.trial == study.trial


def test_a_study_file_is_no_subject_of_its_own(tmp_path: Path, arrays: Path) -> None:
    assert timed_subject.of_file(tiny.write_study(tmp_path / "s.toml", arrays)) is None


def test_a_study_without_a_complete_trial_says_what_to_type(tmp_path: Path) -> None:
    base = _empty(tmp_path)
    with pytest.raises(StudyError, match="no trial is complete yet; go on with 'igkd run tiny'"):
        timed_subject.of_winner(base, "tiny")
    with pytest.raises(StorageError, match="other"):
        timed_subject.of_winner(base, "other")
    base.close()


def _empty(folder: Path) -> database.Database:
    base = database.connect(f"sqlite:///{folder / 'igkd.db'}")
    arrays = tiny.write_arrays(folder / "arrays", 6, 3)
    registry.register(base, tiny.study(arrays, data={"validation": 3}))
    return base


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"min_speedup": 3.0}, "is at least 3 times as fast as the teacher; go on with"),
        ({}, "is within the bounds on latency; go on with"),
    ],
)
def test_a_study_whose_trials_are_all_out_of_bounds_says_so(
    searched: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, float], says: str
) -> None:
    base = database.connect(f"sqlite:///{searched / 'igkd.db'}", read_only=True)
    record, study = registry.stored(base, "tiny")
    bound = study.model_copy(update={"search": study.search.model_copy(update=bounds)})
    slow = [replace(row, feasible=False) for row in results.rows(results.open_study(base, "tiny"))]
    monkeypatch.setattr(registry, "stored", lambda *_: (record, bound))
    monkeypatch.setattr(results, "best", lambda _: None)
    monkeypatch.setattr(results, "rows", lambda _: slow)
    with pytest.raises(StudyError, match=f"none of the complete trials {says}"):
        timed_subject.of_winner(base, "tiny")
    base.close()


def test_what_is_not_there_is_said_without_torch(searched: Path) -> None:
    code = (
        "import sys; from igkd_search.cli import app; "
        f"sys.argv = ['igkd', 'latency', 'typo', '--home', {str(searched)!r}]\n"
        "try: app()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1 False\n" and "typo" in found.stderr
