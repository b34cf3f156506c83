"""Leading trials once more: as they were, but for the seed; their means say which is best."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from igkd_search import database, export, removal, reruns, results, runs, space, spec, training
from igkd_search.errors import StudyError, TrialError


def test_leading_trials_are_the_best_that_may_win(
    mine: tuple[database.Database, Path], caplog: pytest.LogCaptureFixture
) -> None:
    base, _ = mine
    every = results.answers(results.rows(results.open_study(base, "tiny")))
    assert reruns.leading(base, "tiny", 1) == every[:1]
    assert reruns.leading(base, "tiny", 5) == every
    assert "2 trials are complete: all of them are tried again" in caplog.text


def test_without_a_complete_trial_there_is_nothing_to_try(
    mine: tuple[database.Database, Path], study: spec.Study
) -> None:
    from igkd_search import registry

    base, _ = mine
    registry.register(base, study.model_copy(update={"name": "begun"}))
    with pytest.raises(StudyError, match="no trial is complete yet"):
        reruns.leading(base, "begun", 2)


def test_each_is_trained_as_its_trial_was_by_fresh_seeds(
    mine: tuple[database.Database, Path], study: spec.Study, stock: training.Stock
) -> None:
    base, home = mine
    rows = reruns.leading(base, "tiny", 2)
    found = reruns.rerun(base, study, rows, 2, home, "cpu")
    assert {each.trial for each in found} == {row.number for row in rows}
    means = [statistics.fmean(each.accuracies) for each in found]
    assert means == sorted(means, reverse=True)
    by_trial = {row.number: row for row in rows}
    folder = reruns.folder_of(base, "tiny", home)
    seeds = set()
    for each in found:
        row = by_trial[each.trial]
        assert each.searched == row.accuracy
        config = space.decide(study, row.parameters)
        kept = sorted((folder / f"trial-{row.number:05d}").glob("*/run.json"))
        for path, accuracy in zip(kept, each.accuracies, strict=True):
            run = runs.Run("", config, 0, path.parent)
            seed = run.record()["seed"]
            last = [*training.train(config, stock, seed)][-1]
            assert accuracy == last.accuracy, "fit rows, and the held-out ones judge"
            seeds.add(seed)
    assert len(seeds) == 4 and not seeds & {row.seed for row in rows}


def test_what_is_trained_is_kept_and_goes_with_the_study(
    mine: tuple[database.Database, Path], study: spec.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, home = mine
    rows = reruns.leading(base, "tiny", 1)
    found = reruns.rerun(base, study, rows, 1, home, "cpu")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", refuse)
    assert reruns.rerun(base, study, rows, 1, home, "cpu") == found
    folder = reruns.folder_of(base, "tiny", home)
    assert folder.is_dir()
    removal.remove(base, "tiny", home)
    assert not folder.exists()


def test_the_file_holds_the_best_by_mean_and_how_all_did(
    mine: tuple[database.Database, Path], tmp_path: Path
) -> None:
    base, home = mine
    first, second = results.answers(results.rows(results.open_study(base, "tiny")))
    again = [
        spec.Rerun(trial=second.number, searched=second.accuracy or 0.0, accuracies=[0.9, 0.8]),
        spec.Rerun(trial=first.number, searched=first.accuracy or 0.0, accuracies=[0.7]),
    ]
    output = tmp_path / "best.toml"
    written = export.export(base, "tiny", output, home, reruns=again)
    assert written.provenance.trial == second.number
    assert written.validation is not None and written.validation.reruns == again
    head = output.read_text().partition("schema_version")[0]
    assert f"# trial {second.number}: " in head and "85.00 +- 7.07 % by 2 fresh seeds" in head
    assert "70.00 % by 1 fresh seed\n" in head


def test_a_leading_trial_that_diverges_by_another_seed_is_left_out(
    mine: tuple[database.Database, Path],
    study: spec.Study,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base, home = mine
    rows, train = reruns.leading(base, "tiny", 2), training.train
    bad = space.decide(study, rows[0].parameters)

    def diverging(config: spec.TrialConfig, *arguments: Any, **options: Any) -> Any:
        if config == bad:
            raise TrialError("diverged", "loss nan")
        return train(config, *arguments, **options)

    monkeypatch.setattr(training, "train", diverging)
    (found,) = reruns.rerun(base, study, rows, 1, home, "cpu")
    assert found.trial == rows[1].number
    assert "the trial is left out" in caplog.text
    with pytest.raises(TrialError, match="diverged"):
        reruns.rerun(base, study, rows[:1], 1, home, "cpu")
