import pytest

from igkd_search import console, copying, notices, removal, repairs


@pytest.fixture(autouse=True)
def consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})


def test_what_goes_with_a_study_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"trials": 3, "attempts": 0, "files": 2}
    notices.print_remains(removal.Remains("s", rows, 2_000_000, [], 0))
    assert capsys.readouterr().out.split("\n") == [
        "to be removed: study s",
        "  trials  3",
        "  files   2, 2.0 MB",
        "",
    ]


def test_a_copy_under_another_name_says_that_running_trials_begin_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trials = {"complete": 2, "running": 1}
    rows = {"slots": 3, "attempts": 3, "queued": 0, "searches": 1}
    found = copying.Copied("s", "sqlite:///there.db", trials, "0123456789abcdef", rows, 0, 0)
    notices.print_copy(found, "s")
    said = capsys.readouterr().out
    assert "trials    3 (2 complete, 1 running)" in said and "(sha256 0123456789ab)" in said
    assert "begin anew" not in said
    notices.print_copy(found, "original")
    assert "begin anew" in capsys.readouterr().out


def test_findings_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    found = [repairs.Finding(f"{what} is odd", "mended", lambda: None) for what in ("this", "that")]
    notices.print_findings("s", found)
    assert capsys.readouterr().out.split("\n") == [
        "study s: 2 things are wrong",
        "  1  this is odd: to be mended",
        "  2  that is odd: to be mended",
        "",
    ]
