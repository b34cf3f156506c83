"""What a trial has shown and the database has not been told yet, because it was away."""

from dataclasses import dataclass, field

import optuna

from igkd_search import fitting


@dataclass
class Owed:
    """The epochs of one trial that are still to be reported, oldest first."""

    trial: optuna.Trial
    reported: set[int]
    """The epochs that the database holds, of earlier attempts too: none is reported twice."""
    accuracies: dict[int, float] = field(default_factory=dict)

    def add(self, record: fitting.EpochRecord) -> None:
        """Owe an epoch, unless it was reported once; of several objectives none can be."""
        if record.epoch not in self.reported and len(self.trial.study.directions) == 1:
            self.accuracies[record.epoch] = record.accuracy

    def pay(self) -> None:
        """Report what is owed, in order; what fails stays owed."""
        for epoch, accuracy in sorted(self.accuracies.items()):
            self.trial.report(accuracy, epoch)
            self.reported.add(epoch)
            del self.accuracies[epoch]
