"""The teacher of a study, kept in its database, so that every host builds on the very same one.

Whichever host trains or imports a teacher first keeps its weights; every other one, at the same
time or later, takes those. They are kept before the banks are built from them, and so before the
study is registered.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from igkd_search import database, registry
from igkd_search.errors import StudyError


@dataclass(frozen=True)
class Keeper:
    """Fetches and keeps weights under a study's name; what `teacher.obtain` asks for one."""

    base: database.Database
    study: str
    known: Mapping[str, str]
    """Fingerprints of the materials that the study began with; none before it has."""
    writes: bool = True
    """Whether `base` may be written to; where not, nothing new is kept."""

    @classmethod
    def of(cls, base: database.Database, study: str, *, writes: bool = True) -> "Keeper":
        """The keeper of a study, whether it has begun or not."""
        record = base.read_study(study)
        known = {} if record is None else record.facts.get("fingerprints", {})
        return cls(base, study, known, writes)

    def begun(self) -> bytes | None:
        """The weights that the study began with; None when it has not begun or kept none."""
        if "teacher" not in self.known:
            return None
        return registry.kept_teacher(self.base, self.study, self.known["teacher"])

    def fetch(self, recipe: str) -> bytes | None:
        """The weights kept for this recipe, or None."""
        return self.base.read_file(self.study, _name(recipe))

    def keep(self, recipe: str, weights: bytes) -> bytes:
        """Keep weights, unless some are kept for this recipe; return those that are kept.

        StudyError when the study began with other ones.
        """
        digest, name = hashlib.sha256(weights).hexdigest(), _name(recipe)
        if name not in self.base.file_digests(self.study):
            check_same(self.study, self.known, {"teacher": digest})
            if not self.writes:
                return weights
        elif not self.writes:
            return self.fetch(recipe) or weights
        if self.base.keep_file(self.study, name, weights) == digest:
            return weights
        kept = self.fetch(recipe)
        assert kept is not None
        return kept


def check_same(study: str, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    """StudyError when a part of the materials is another than the study began with."""
    for part, digest in found.items():
        if known.get(part, digest) != digest:
            raise StudyError(
                f"study '{study}' began with another {part} (sha256 {known[part][:12]}, now "
                f"{digest[:12]}): its trials cannot be compared; restore it, or give the study "
                "another name"
            )


def _name(recipe: str) -> str:
    # by recipe: what a study that never began has kept holds no other question back
    return f"teacher-{recipe}"
