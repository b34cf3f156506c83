"""What the paper has published, so that a study can be shown beside it.

D. E. Hernandez, J. R. Chang, T. E. M. Nordling, arXiv 2503.13008 and its successor 2506.14440. All
accuracies are of CIFAR-10's test set, on which the authors also chose: they flatter, and ours are
of validation images. Of their students with more or fewer than five removed blocks only the size is
held here; the accuracies of those are in the supplement of 2506.14440.
"""

from dataclasses import dataclass

SOURCE = "arXiv 2503.13008"
"""What charts and tables name as where these figures come from."""
TEACHER_ACCURACY = 0.9391
TEACHER_PARAMETERS = 2_236_682
CHOICE = {"kd_weight": 0.01, "temperature": 2.5, "overlay_probability": 0.1}
"""What the paper has chosen, by the names of our fields."""


@dataclass(frozen=True)
class Student:
    """The teacher without its last blocks: parameters, and millions of multiply-accumulates."""

    removed_blocks: int
    parameters: int
    mmacs: float

    @property
    def compression(self) -> float:
        """How many times fewer parameters than the teacher it has."""
        return TEACHER_PARAMETERS / self.parameters


@dataclass(frozen=True)
class Arm:
    """Ten runs of the student with five removed blocks under one recipe; shares of 1."""

    name: str
    mean: float
    sd: float
    best: float


STUDENTS = (
    Student(3, 1_019_402, 68.85),
    Student(5, 543_498, 58.70),
    Student(7, 306_954, 43.88),
    Student(9, 185_738, 36.36),
    Student(11, 77_194, 29.62),
    Student(13, 40_970, 23.56),
    Student(15, 16_042, 14.93),
    Student(17, 1_994, 1.70),
)
ARMS = (
    Arm("baseline", 0.9118, 0.0031, 0.9150),
    Arm("KD", 0.9162, 0.0044, 0.9229),
    Arm("IG", 0.9135, 0.0032, 0.9201),
    Arm("KD + IG", 0.9202, 0.0034, 0.9258),
)
"""The student with five removed blocks, CIFAR-10's test set, mean and sd of ten runs."""
MEASURED = STUDENTS[1]
"""The student that the arms are of."""
