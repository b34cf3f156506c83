import optuna
import pytest

from igkd_search.owing import Owed
from tests.test_worker import record


def test_epochs_are_paid_in_order_once_and_what_failed_stays_owed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    owed = Owed(trial, {1})
    for epoch in (1, 3, 2):
        owed.add(record(epoch, epoch / 10))
    report, told = trial.report, list[int]()

    def away(value: float, step: int) -> None:
        if step == 3 and not told.count(3):
            told.append(3)
            raise ConnectionError
        told.append(step)
        report(value, step)

    monkeypatch.setattr(trial, "report", away)
    with pytest.raises(ConnectionError):
        owed.pay()
    assert owed.accuracies == {3: 0.3}
    owed.add(record(4, 0.4))
    owed.pay()
    owed.pay()
    assert told == [2, 3, 3, 4]
    assert study.trials[0].intermediate_values == {2: 0.2, 3: 0.3, 4: 0.4}
    assert owed.reported == {1, 2, 3, 4}


def test_of_several_objectives_nothing_can_be_reported() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    owed = Owed(study.ask(), set())
    owed.add(record(1, 0.5))
    owed.pay()
    assert owed.accuracies == {}
