"""Runs: trained once, by whoever holds them; killed ones go on to the same student."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from igkd_search import fitting, runs, spec, training
from igkd_search.errors import StorageError, TrialError


@pytest.fixture
def make(study: spec.Study, tmp_path: Path) -> Callable[..., runs.Run]:
    """A run of the tiny study's own trial."""

    def made(number: int = 1, place: str = "runs", **trial: Any) -> runs.Run:
        config = study.trial.model_copy(update=trial)
        folder = runs.folder_of(tmp_path / place, f"seed-{number}", config.model_dump(), number)
        return runs.Run(f"seed {number}", config, number, folder)

    return made


@pytest.fixture
def bench_of(stock: training.Stock) -> Callable[[runs.Run], runs.Bench]:
    """The one bench of all runs here: fit rows alone."""
    return lambda run: runs.Bench(stock)


def same(one: runs.Run, other: runs.Run) -> bool:
    ours, theirs = (load_file(run.folder / runs.WEIGHTS) for run in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def without_times(run: runs.Run) -> list[dict[str, Any]]:
    timed = ("seconds", "images_per_s")
    records = run.record()["records"]
    return [{key: row[key] for key in row if key not in timed} for row in records]


def test_a_finished_run_holds_its_student_and_its_records(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench], stock: training.Stock
) -> None:
    run = make()
    assert not run.is_finished
    runs.train_all([run], bench_of)
    assert run.is_finished
    record = run.record()
    assert (record["seed"], record["label"]) == (1, "seed 1")
    assert (record["device"], record["threads"]) == ("cpu", torch.get_num_threads())
    records = record["records"]
    assert [row["epoch"] for row in records] == list(range(1, run.config.epochs + 1))
    student = runs.load(run, bench_of(run))
    assert not student.training
    scores = training.Distillation(run.config, stock, 1).validate(student)
    assert scores.accuracy == records[-1]["accuracy"]
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "lock",
        "run.json",
        "student.safetensors",
    ]


def test_a_finished_run_is_not_trained_again(
    make: Callable[..., runs.Run],
    bench_of: Callable[[runs.Run], runs.Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make()
    runs.train_all([run], bench_of)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", refuse)
    runs.train_all([run], bench_of)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_killed_run_goes_on_to_the_same_student(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench], epochs: int
) -> None:
    whole, killed = make(place="whole"), make(place="killed")
    runs.train_all([whole], bench_of)
    fit = fitting.fit

    def dying(*arguments: Any, **options: Any) -> Iterator[fitting.EpochRecord]:
        for record in fit(*arguments, **options):
            yield record
            if record.epoch == epochs:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fitting, "fit", dying)
        runs.train_all([killed], bench_of)
    assert not killed.is_finished
    runs.train_all([killed], bench_of)
    assert same(whole, killed)
    assert without_times(whole) == without_times(killed)


def test_what_another_process_holds_is_left_to_it_or_done_last(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench]
) -> None:
    held, free = make(1), make(2)
    held.folder.mkdir(parents=True)
    with FileLock(held.folder / "lock"):
        runs.train_all([held, free], bench_of, alone=False)
        assert (held.is_finished, free.is_finished) == (False, True)
    runs.train_all([held, free], bench_of)
    assert held.is_finished


def test_a_run_that_another_process_finished_meanwhile_is_not_trained_again(
    make: Callable[..., runs.Run],
    bench_of: Callable[[runs.Run], runs.Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, finished = make(), make(place="elsewhere")
    runs.train_all([finished], bench_of)
    acquire = FileLock.acquire

    def finishing(lock: FileLock, *arguments: Any, **options: Any) -> Any:
        for name in (runs.WEIGHTS, runs.RECORD):
            (run.folder / name).write_bytes((finished.folder / name).read_bytes())
        return acquire(lock, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", finishing)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "_train", refuse)
    runs.train_all([run], bench_of)


def test_another_question_has_another_folder(make: Callable[..., runs.Run]) -> None:
    folders = [make(1), make(2), make(1, learning_rate=0.01)]
    assert len({run.folder for run in folders}) == 3


def test_rows_that_are_asked_for_are_trained_on(
    make: Callable[..., runs.Run], stock: training.Stock
) -> None:
    every = torch.arange(len(stock.labels))
    fit, both = make(place="fit", epochs=1), make(place="both", epochs=1)
    runs.train_all([fit], lambda run: runs.Bench(stock))
    runs.train_all([both], lambda run: runs.Bench(stock, every))
    assert not same(fit, both)


def test_a_diverged_run_is_told_and_is_not_finished(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench]
) -> None:
    run = make(learning_rate=1e9)
    with pytest.raises(TrialError, match="diverged"):
        runs.train_all([run], bench_of)
    assert not run.is_finished


def test_a_folder_that_cannot_be_made_is_named(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    run = replace(make(), folder=tmp_path / "file" / "run")
    with pytest.raises(StorageError, match="cannot be written"):
        runs.train_all([run], bench_of)


def test_a_record_is_plain_json(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench]
) -> None:
    run = make(epochs=1)
    runs.train_all([run], bench_of)
    assert json.loads(json.dumps(run.record())) == run.record()


def test_what_killed_runs_of_other_questions_left_is_cleared_but_not_what_is_held(
    make: Callable[..., runs.Run], tmp_path: Path
) -> None:
    ours, theirs, held = (make(number, place="runs/kd") for number in (1, 2, 3))
    for run in (ours, theirs, held):
        (run.folder / "checkpoints").mkdir(parents=True)
    with FileLock(held.folder / "lock"):
        runs.clear(tmp_path / "runs", [ours])
    assert [run.folder.exists() for run in (ours, theirs, held)] == [True, False, True]


def test_validation_rows_that_were_trained_on_are_told_nothing_of(
    make: Callable[..., runs.Run], stock: training.Stock
) -> None:
    run = make(epochs=1)
    every = torch.arange(len(stock.labels))
    runs.train_all([run], lambda run: runs.Bench(stock, every))
    (record,) = run.record()["records"]
    assert set(record) == {"epoch", "loss", "learning_rate", "seconds", "images_per_s"}


def test_one_that_diverges_is_told_when_the_others_are_trained(
    make: Callable[..., runs.Run], bench_of: Callable[[runs.Run], runs.Bench]
) -> None:
    broken, well = make(1, learning_rate=1e9, epochs=1), make(2, epochs=1)
    with pytest.raises(TrialError, match="seed 1: diverged") as told:
        runs.train_all([broken, well], bench_of)
    assert told.value.cause == "diverged"
    assert (broken.is_finished, well.is_finished) == (False, True)
