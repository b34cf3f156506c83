"""Every field of a trial moves what is measured in the direction that its description says.

One check a field, each on the same tiny problem from one seed: two trainings that differ in this
field alone, and a strict inequality between what came of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igkd_search import batches, losses, models, spec, training
from tests import tiny

SEED = 11
PLAIN: dict[str, Any] = {
    "batch_size": 12,
    "ema_decay": 0.0,
    "epochs": 2,
    "learning_rate": 0.02,
    "overlay_probability": 0.0,
    "warmup": 0.0,
    "weight_decay": 0.0,
}
"""What makes a difference beside the field that is asked about is off."""


@dataclass(frozen=True)
class Outcome:
    """What one training showed, and what it left."""

    records: list[training.EpochResult]
    start: dict[str, Tensor]
    first: dict[str, Tensor]
    """The weights after the first epoch."""
    student: nn.Module
    batches: list[batches.Batch]
    seen: Tensor
    """What the student saw in all steps, (n, 3, H, W)."""

    def moved(self, weights: dict[str, Tensor] | None = None) -> float:
        """How far the parameters came from their start, as one length."""
        weights = dict(self.student.named_parameters()) if weights is None else weights
        steps = [
            (weights[name] - self.start[name]).flatten()
            for name, _ in self.student.named_parameters()
        ]
        return float(torch.cat(steps).detach().norm())


class Laboratory:
    """Trains the tiny student with some fields changed, and looks on."""

    def __init__(
        self, trial: spec.TrialConfig, stock: training.Stock, patch: pytest.MonkeyPatch
    ) -> None:
        self._trial, self.stock, self._patch = trial, stock, patch

    def config(self, **changes: Any) -> spec.TrialConfig:
        return self._trial.model_copy(update={**PLAIN, **changes})

    def train(self, **changes: Any) -> Outcome:
        config, drawn, seen = self.config(**changes), list[batches.Batch](), list[Tensor]()
        student = training.build(config, self.stock, SEED)
        start = {name: value.clone() for name, value in student.state_dict().items()}
        loss = training.Distillation.loss

        def noted(task: training.Distillation, model: nn.Module, batch: batches.Batch) -> Tensor:
            drawn.append(batch)
            return loss(task, model, batch)

        def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            if module.training:
                seen.append(given[0].clone())

        # an average is a copy of the student, and would look on too: it is never in training mode
        student.get_submodule("features").register_forward_pre_hook(look)
        first = dict[str, Tensor]()
        records = list[training.EpochResult]()
        with self._patch.context() as patch:
            patch.setattr(training.Distillation, "loss", noted)
            for record in training.train(config, self.stock, SEED, student=student):
                records.append(record)
                first = first or {k: v.clone() for k, v in student.state_dict().items()}
        return Outcome(records, start, first, student.eval(), drawn, torch.cat(seen))

    def answers(self, network: nn.Module) -> Tensor:
        """Logits (n, classes) of the fit rows."""
        with torch.no_grad():
            logits: Tensor = network(self.stock.reader.unaugmented(self.stock.fit_rows))
        return logits


@pytest.fixture
def laboratory(
    study: spec.Study, stock: training.Stock, monkeypatch: pytest.MonkeyPatch
) -> Laboratory:
    return Laboratory(study.trial, stock, monkeypatch)


Check = Callable[[Laboratory], None]
CHECKS: dict[str, Check] = {}


def check(of: Check) -> Check:
    """Enter a check under the field that it is named after."""
    CHECKS[of.__name__] = of
    return of


def test_every_field_of_a_trial_has_a_check() -> None:
    assert set(CHECKS) == set(spec.TrialConfig.model_fields)


@pytest.mark.parametrize("field", spec.TrialConfig.model_fields)
def test_each_field_works_in_its_direction(laboratory: Laboratory, field: str) -> None:
    CHECKS[field](laboratory)


# --- the recipe


@check
def epochs(laboratory: Laboratory) -> None:
    """More of them leave a lower loss."""
    few, many = (laboratory.train(epochs=count) for count in (1, 6))
    assert (len(few.records), len(many.records)) == (1, 6)
    assert many.records[-1].loss < few.records[-1].loss


@check
def batch_size(laboratory: Laboratory) -> None:
    """Larger batches are fewer steps, and so less movement."""
    small, large = (laboratory.train(batch_size=size) for size in (6, 30))
    assert (len(small.batches), len(large.batches)) == (20, 4)
    assert large.moved() < small.moved()


@check
def optimizer(laboratory: Laboratory) -> None:
    """One step of adam moves every weight by the rate, sgd by the slope, adamw decays besides."""
    one_step = {"epochs": 1, "batch_size": 60, "learning_rate": 1e-3, "momentum": 0.0}
    typical, shrunk = dict[str, float](), dict[str, float]()
    for name in ("adam", "adamw", "sgd"):
        plain = laboratory.train(optimizer=name, **one_step)
        steps = plain.student.get_parameter("classifier.weight") - plain.start["classifier.weight"]
        typical[name] = steps.abs().median().item()
        decayed = laboratory.train(optimizer=name, weight_decay=100.0, **one_step)
        weights = decayed.student.get_parameter("features.0.0.weight")
        shrunk[name] = (weights.norm() / decayed.start["features.0.0.weight"].norm()).item()
    assert typical["adam"] == pytest.approx(1e-3, rel=0.01)
    assert typical["adamw"] == pytest.approx(1e-3, rel=0.01)
    assert typical["sgd"] < 0.5 * typical["adam"]
    # 100 times the rate is a tenth of the weight; adam only turns the slope, by at most the rate
    assert shrunk["adamw"] == pytest.approx(0.9, abs=0.01)
    assert shrunk["sgd"] == pytest.approx(0.9, abs=0.01)
    assert 0.97 < shrunk["adam"] < 1


@check
def learning_rate(laboratory: Laboratory) -> None:
    """A larger one moves the weights further."""
    slow, fast = (laboratory.train(learning_rate=rate) for rate in (0.005, 0.05))
    assert fast.moved() > 2 * slow.moved()


@check
def warmup(laboratory: Laboratory) -> None:
    """A longer one holds the first epoch back."""
    none, long = (laboratory.train(warmup=share) for share in (0.0, 0.9))
    assert long.moved(long.first) < 0.8 * none.moved(none.first)


@check
def schedule(laboratory: Laboratory) -> None:
    """A constant one moves the weights further than a cosine to zero from the same peak."""
    cosine, constant = (laboratory.train(schedule=name) for name in ("cosine", "constant"))
    assert constant.moved() > 1.2 * cosine.moved()


@check
def momentum(laboratory: Laboratory) -> None:
    """More of it carries the weights further at the same rate."""
    without, with_it = (laboratory.train(momentum=value) for value in (0.0, 0.9))
    assert with_it.moved() > 1.5 * without.moved()


@check
def weight_decay(laboratory: Laboratory) -> None:
    """It shrinks matrices, and leaves norms and biases alone."""

    def sizes(of: Outcome) -> tuple[float, float]:
        matrices = [p.detach().norm() for p in of.student.parameters() if p.ndim > 1]
        others = [p.detach().norm() for p in of.student.parameters() if p.ndim <= 1]
        return float(sum(matrices)), float(sum(others))

    none, strong = (sizes(laboratory.train(weight_decay=decay)) for decay in (0.0, 1.0))
    assert strong[0] < 0.8 * none[0]
    assert strong[1] == pytest.approx(none[1], rel=0.03)


@check
def label_smoothing(laboratory: Laboratory) -> None:
    """It makes the student less sure, and its loss cannot fall as low."""
    hard, soft = (
        laboratory.train(label_smoothing=share, kd_weight=0.0, epochs=6) for share in (0.0, 0.5)
    )
    sure, unsure = (laboratory.answers(of.student).softmax(1).amax(1).mean() for of in (hard, soft))
    assert unsure < sure
    assert soft.records[-1].loss > hard.records[-1].loss
    # no answer does better than the smoothed label itself: 2/3 for one class, 1/6 for each other
    floor = -(2 / 3) * torch.tensor(2 / 3).log() - 2 * (1 / 6) * torch.tensor(1 / 6).log()
    assert soft.records[-1].loss > floor.item() > hard.records[-1].loss


@check
def ema_decay(laboratory: Laboratory) -> None:
    """What is validated lags behind the weights that are trained."""
    off, slow = (laboratory.train(ema_decay=decay) for decay in (0.0, 0.99))
    assert slow.moved() < off.moved()
    assert [r.raw_validation_loss for r in slow.records] == [r.validation_loss for r in off.records]
    assert [r.loss for r in slow.records] == [r.loss for r in off.records]


@check
def alternating_flip(laboratory: Laboratory) -> None:
    """Every image is mirrored in one of two epochs, not only those that chance mirrors once."""

    def once(of: Outcome) -> float:
        flips = dict[int, int]()
        for batch in of.batches:
            for row, view in zip(batch.rows.tolist(), batch.views.tolist(), strict=True):
                flips[row] = flips.get(row, 0) + view % 2
        return sum(count == 1 for count in flips.values()) / len(flips)

    chance, turns = (once(laboratory.train(alternating_flip=on)) for on in (False, True))
    assert turns == 1
    assert 0.25 < chance < 0.75


@check
def cutout(laboratory: Laboratory) -> None:
    """A larger square blanks more pixels."""
    blank = [
        (laboratory.train(cutout=side, epochs=1).seen == 0).all(1).float().mean().item()
        for side in (0, 2, 5)
    ]
    assert blank[0] < 0.01 < blank[1] < blank[2]
    # squares stick out: no more than side^2 of 64 pixels
    assert blank[1] <= 4 / 64 and blank[2] <= 25 / 64


# --- the student


@check
def architecture(laboratory: Laboratory) -> None:
    """The student is cut from this network, whatever the teacher is."""
    by_default = laboratory.train(epochs=1)
    named = laboratory.train(epochs=1, architecture="mobilenet_v2")
    assert named.start.keys() == by_default.start.keys()
    other = laboratory.train(epochs=1, architecture="resnet18", removed_blocks=8, width=1.0)
    # the stem for small images: 64 filters of 3x3 and their norm, then a linear layer
    assert models.count_parameters(other.student) == 64 * 3 * 9 + 2 * 64 + (64 + 1) * 3
    assert other.moved() > 0


def parameters(laboratory: Laboratory, field: str, *values: float) -> list[int]:
    """How many parameters the student has with each of these values of a field."""
    return [
        models.count_parameters(laboratory.train(epochs=1, **{field: value}).student)
        for value in values
    ]


@check
def removed_blocks(laboratory: Laboratory) -> None:
    """The more blocks are removed the smaller is the student."""
    sizes = parameters(laboratory, "removed_blocks", 14, 15, 17)
    assert sizes[0] > sizes[1] > sizes[2]


@check
def width(laboratory: Laboratory) -> None:
    """The narrower the smaller."""
    sizes = parameters(laboratory, "width", 1.0, 0.5, 0.1)
    assert sizes[0] > sizes[1] > sizes[2]


@check
def resolution(laboratory: Laboratory) -> None:
    """The lower it is the less there is to compute, for as many parameters."""
    sizes = parameters(laboratory, "resolution", 8, 6, 4)
    assert sizes[0] == sizes[1] == sizes[2]
    students = [
        training.build(laboratory.config(resolution=side), laboratory.stock, SEED)
        for side in (8, 6, 4)
    ]
    shape = laboratory.stock.reader.image_shape
    macs = [models.count_macs(student, shape) for student in students]
    assert macs[0] > macs[1] > macs[2]


@check
def initialisation(laboratory: Laboratory) -> None:
    """From the teacher's blocks the student starts with a lower loss."""
    fresh, taught = (
        laboratory.train(initialisation=name, epochs=1, learning_rate=0.01)
        for name in ("random", "teacher")
    )
    assert taught.records[0].loss < fresh.records[0].loss


# --- what it is told


@check
def kd_weight(laboratory: Laboratory) -> None:
    """With a weight soft targets are followed far more closely than by labels alone."""
    teacher = laboratory.answers(laboratory.stock.network)

    def distance(weight: float) -> float:
        student = laboratory.train(kd_weight=weight, epochs=6).student
        told, said = (each / 4 for each in (teacher, laboratory.answers(student)))
        return functional.kl_div(said.log_softmax(1), told.softmax(1), reduction="batchmean").item()

    labels_alone, both, teacher_alone = (distance(weight) for weight in (0.0, 0.5, 1.0))
    assert max(both, teacher_alone) < labels_alone / 2


@check
def temperature(laboratory: Laboratory) -> None:
    """Hot targets tell of all logits, cold ones of the largest alone."""
    teacher = laboratory.answers(laboratory.stock.network)

    def distance(value: float) -> float:
        outcome = laboratory.train(temperature=value, kd_weight=1.0, epochs=6)
        apart = laboratory.answers(outcome.student) - teacher
        return (apart - apart.mean(1, keepdim=True)).square().mean().item()

    cold, warm, hot = (distance(value) for value in (0.25, 1.0, 8.0))
    assert hot < warm < cold


@check
def attention_weight(laboratory: Laboratory) -> None:
    """The more weight it has the closer the student looks to where the teacher looks."""
    images = laboratory.stock.reader.unaugmented(laboratory.stock.fit_rows)

    def distance(weight: float) -> float:
        student = laboratory.train(attention_weight=weight, epochs=4).student
        first = models.first_blocks(laboratory.stock.network, tiny.REMOVED_BLOCKS)
        with torch.no_grad():
            ours, theirs = student.get_submodule("features")(images), first(images)
        return losses.attention_loss(ours, theirs).item()

    off, some, much = (distance(weight) for weight in (0.0, 1.0, 10.0))
    assert much < some < off


# --- what it sees; chance is drawn alike, so that images differ by the overlay alone


@check
def overlay_probability(laboratory: Laboratory) -> None:
    """The larger the more images are laid over, and no others change."""
    never, rarely, often, always = (
        laboratory.train(overlay_probability=share, epochs=1).seen for share in (0, 0.3, 0.7, 1.0)
    )
    shares = [
        (seen != never).flatten(1).any(1).float().mean().item() for seen in (rarely, often, always)
    ]
    assert 0 < shares[0] < shares[1] < shares[2] == 1
    assert shares[0] == pytest.approx(0.3, abs=0.2) and shares[1] == pytest.approx(0.7, abs=0.2)


@check
def overlay_strength(laboratory: Laboratory) -> None:
    """The stronger the further from the image, up to the map itself on every channel."""
    none, weak, strong, whole = (
        laboratory.train(overlay_probability=1.0, overlay_strength=value, epochs=1).seen
        for value in (0.0, 0.2, 0.6, 1.0)
    )
    distances = [(seen - none).abs().mean().item() for seen in (weak, strong, whole)]
    assert 0 < distances[0] < distances[1] < distances[2]
    reader = laboratory.stock.reader
    unit = whole * reader.sd[:, None, None] + reader.mean[:, None, None]
    torch.testing.assert_close(unit[:, 0], unit[:, 1], rtol=0, atol=1e-5)


@check
def overlay_exponent_max(laboratory: Laboratory) -> None:
    """The larger the sharper and so the darker a map in [0, 1]."""
    means = [
        laboratory.train(overlay_probability=1.0, overlay_exponent_max=value, epochs=1).seen.mean()
        for value in (1.0, 2.0, 8.0)
    ]
    assert means[0] > means[1] > means[2]
