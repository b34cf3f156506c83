"""Which configuration `igkd latency` times: that of an exported file, or a study's winner.

Nothing here imports torch, so what is not there is said in a second.
"""

from dataclasses import dataclass
from pathlib import Path

from igkd_search import database, registry, results, space, spec, study_file
from igkd_search.errors import StudyError


@dataclass(frozen=True)
class Subject:
    """A configuration, and what is known of its images without them."""

    run: spec.Run
    trial: spec.TrialConfig
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    study: str | None = None
    """The study whose winner it is."""
    number: int | None = None
    """Which trial that is."""

    @property
    def architecture(self) -> spec.Architecture:
        """The student's."""
        return spec.Architecture.of(self.trial, self.run.teacher.architecture)


def of_file(path: Path) -> Subject | None:
    """What an exported file describes; None for a study file, whose winner is meant."""
    if "provenance" not in study_file.read_plain(path):
        return None
    exported = study_file.read_exported(path)
    return Subject(exported, exported.trial, classes=exported.data.classes)


def of_winner(base: database.Database, name: str) -> Subject:
    """The winner of a study in the storage; StudyError while it has none."""
    record, study = registry.stored(base, name)
    found = results.open_study(base, name)
    winner = results.best(found)
    if winner is None:
        why = results.no_winner(results.rows(found), study.search.model_dump(mode="json"))
        raise StudyError(
            f"study '{name}': {why}; go on with 'igkd run {name}', or give a file that igkd export "
            "wrote"
        )
    rows = record.facts["rows"]
    channels, height, width = rows["image_shape"]
    trial = space.decide(study, winner.parameters)
    shape = (channels, height, width)
    return Subject(study, trial, shape, rows["classes"], name, winner.number)
