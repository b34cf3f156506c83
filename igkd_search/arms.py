"""Arms: what of the method a training has, and what takes its place as a control.

An arm is written as its parts: `baseline`, `kd` (soft targets, attention transfer), `ig` (overlays)
or `kd+ig`. After a colon a part says what it really is: `kd:shuffled` learns the targets of another
image, `ig:shuffled`, `ig:random` and `ig:dim` are overlaid by another image's map, by the map's
values at random places, or by darkening alone. All else of a recipe is the same in every arm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from igkd_search import spec
from igkd_search.errors import StudyError

BASELINE = "baseline"
FIELDS = {
    "kd": ("kd_weight", "temperature", "attention_weight"),
    "ig": ("overlay_probability", "overlay_strength", "overlay_exponent_max"),
}
"""Part -> the fields of [trial] that only an arm with it has."""
CONTROLS = {
    "kd": ("shuffled",),
    "ig": tuple(name for name in get_args(spec.Control) if name != "none"),
}
"""Part -> what may take its place."""
_ALLOWED = (
    "baseline, kd, ig, kd+ig, and controls: "
    f"kd:{CONTROLS['kd'][0]}, {', '.join(f'ig:{name}' for name in CONTROLS['ig'])}, such as "
    "kd+ig:shuffled"
)


@dataclass(frozen=True)
class Arm:
    """Part -> what it really is, `none` where it is no control; without parts the baseline."""

    kd: str | None = None
    ig: str | None = None

    def __str__(self) -> str:
        """Its name."""
        parts = [(name, getattr(self, name)) for name in FIELDS]
        shown = [
            name if control == "none" else f"{name}:{control}" for name, control in parts if control
        ]
        return "+".join(shown) or BASELINE

    @property
    def slug(self) -> str:
        """Its name as one of a file."""
        return str(self).replace(":", "-").replace("+", "-")

    @property
    def is_control(self) -> bool:
        """Whether something takes the place of one of its parts."""
        return bool({self.kd, self.ig} - {None, "none"})

    def lacks(self) -> set[str]:
        """The fields of [trial] that mean nothing in this arm."""
        found = {field for part in FIELDS if not getattr(self, part) for field in FIELDS[part]}
        return found | ({"attention_weight"} if self.kd == "shuffled" else set())


def read(text: str) -> list[Arm]:
    """The arms of `baseline,kd,kd+ig:shuffled`; StudyError for what is none, or named twice."""
    found: list[Arm] = []
    for name in filter(None, (each.strip() for each in text.split(","))):
        arm = _read_one(name)
        if arm in found:
            raise StudyError(f"--arms {text}: {arm} is named twice")
        found.append(arm)
    if not found:
        raise StudyError(f"--arms {text!r}: names no arm; allowed: {_ALLOWED}")
    return found


def _read_one(name: str) -> Arm:
    if name == BASELINE:
        return Arm()
    parts: dict[str, str] = {}
    for part in name.split("+"):
        what, mark, control = part.partition(":")
        legal = what in FIELDS and what not in parts and (control in CONTROLS[what]) == bool(mark)
        if not legal:
            near = spec.nearest(name, [BASELINE, "kd", "ig", "kd+ig"])
            raise StudyError(f"--arms: {name!r} is no arm{near}; allowed: {_ALLOWED}")
        parts[what] = control or "none"
    return Arm(**parts)


def of(exported: spec.Exported) -> Arm:
    """The arm that a configuration is by itself."""
    trial = exported.trial
    shuffled = exported.materials.targets == "shuffled"
    learns = trial.kd_weight > 0 or trial.attention_weight > 0
    overlaid = trial.overlay_probability > 0 and trial.overlay_strength > 0
    return Arm(
        kd=("shuffled" if shuffled else "none") if learns else None,
        ig=exported.overlays.control if overlaid else None,
    )


def apply(arm: Arm, exported: spec.Exported) -> spec.Exported:
    """The configuration as an arm of an ablation: without its parts or with a control of them."""
    if arm == of(exported):
        return exported
    trial: dict[str, float] = {}
    targets = exported.materials.targets
    if arm.kd is None:
        trial |= {"kd_weight": 0.0, "attention_weight": 0.0}
    if arm.ig is None:
        trial |= {"overlay_probability": 0.0}
    if arm.kd == "shuffled":
        trial |= {"attention_weight": 0.0}  # attention is always that of the image itself
    if arm.kd == "shuffled" or targets == "shuffled":
        targets = "shuffled" if arm.kd == "shuffled" else "bank"
    return exported.model_copy(
        update={
            "trial": exported.trial.model_copy(update=trial),
            "materials": exported.materials.model_copy(update={"targets": targets}),
            "overlays": exported.overlays.model_copy(update={"control": arm.ig or "none"}),
        }
    )


def check(asked: Iterable[Arm], exported: spec.Exported, searched: Iterable[str] = ()) -> None:
    """StudyError when an arm would be another one, since the configuration has nothing of a part.

    `searched` are the fields that each arm searches itself.
    """
    found = set(searched)
    for arm in asked:
        decided = of(apply(arm, exported))
        for part in FIELDS:
            name = FIELDS[part][0]  # what switches it on
            if getattr(decided, part) != getattr(arm, part) and name not in found:
                raise StudyError(
                    f"--arms {arm}: trial.{name} = {getattr(exported.trial, name):g} in the file, "
                    f"so there is no {part} to be had; leave the arm out, or write another {name}"
                )


def shipped(asked: Iterable[Arm], own: Arm) -> Arm:
    """Which arm's first seed is delivered: the configuration itself, else the fullest arm."""
    found = list(asked)
    if own in found:
        return own
    # real ones before controls, the most parts, soft targets before overlays, the first named
    return max(found, key=lambda arm: (not arm.is_control, arm.kd is not None, arm.ig is not None))
