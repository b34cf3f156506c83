"""Optimizers spare norms and biases, the schedule is its formula, the average is worked by hand."""

import importlib
import math
import signal
import sys
from typing import get_args

import pytest
import torch
from torch import nn

from igkd_search import optimizers, spec

NAMES = get_args(spec.Optimizer)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_the_names_of_optimizers_are_those_of_a_study_file() -> None:
    assert set(NAMES) == set(optimizers.OPTIMIZERS)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_norms_and_biases(name: str) -> None:
    model, before = net(), net().state_dict()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.build(name, model, learning_rate=0.1, weight_decay=0.5).step()
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert parameter.abs().sum() < before[parameter_name].abs().sum(), parameter_name
        else:
            assert torch.equal(parameter, before[parameter_name]), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_is_trained_once(name: str) -> None:
    model = net()
    groups = optimizers.build(name, model, learning_rate=0.1).param_groups
    found = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, found)) == sorted(map(id, model.parameters()))
    assert all(group["lr"] == 0.1 and group["fused"] for group in groups)


def test_only_sgd_takes_the_momentum_and_without_one_it_is_plain() -> None:
    (with_it, _), (without, _) = (
        optimizers.build("sgd", net(), learning_rate=0.1, momentum=momentum).param_groups
        for momentum in (0.8, 0.0)
    )
    assert (with_it["momentum"], with_it["nesterov"]) == (0.8, True)
    assert (without["momentum"], without["nesterov"]) == (0.0, False)
    for name in ("adam", "adamw"):
        one, other = (
            optimizers.build(name, net(), learning_rate=0.1, momentum=momentum).param_groups[0]
            for momentum in (0.8, 0.0)
        )
        assert {**one, "params": ()} == {**other, "params": ()}


# --- the schedule


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    rates = [optimizers.learning_rate(0.8, 0.2, step, 10) for step in range(11)]
    assert rates[:3] == pytest.approx([0.4, 0.8, 0.8])
    assert rates[6] == pytest.approx(0.4)  # half way down
    assert rates[4] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert rates[10] == pytest.approx(0)  # the step after the last
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert optimizers.learning_rate(0.8, 0.0, 0, 1) == 0.8
    assert optimizers.learning_rate(0.8, 0.0, 0, 7) == 0.8


def test_a_constant_rate_stays_at_the_peak() -> None:
    rates = [optimizers.learning_rate(0.8, 0.2, step, 10, "constant") for step in range(10)]
    assert rates == [pytest.approx(0.4), *[0.8] * 9]


def test_the_schedules_are_those_that_a_recipe_may_name() -> None:
    assert set(get_args(spec.Schedule)) == set(optimizers.SCHEDULES)


# --- the moving average


def test_the_average_starts_quickly_and_is_worked_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = optimizers.Average(model, 0.15)
    expected = 0.0
    for step, weight in enumerate([1.0, 2.0, 5.0]):
        nn.init.constant_(model.weight, weight)
        average.update(step)
        decay = 0.1 if step == 0 else 0.15  # (1 + step) / (10 + step) is larger from then on
        expected = decay * expected + (1 - decay) * weight
        assert average.model.get_parameter("weight").item() == pytest.approx(expected)
    assert model.weight.item() == 5.0


def test_statistics_of_norms_are_averaged_and_counts_are_not() -> None:
    model = nn.BatchNorm1d(2)
    average = optimizers.Average(model, 0.5)
    assert model.running_mean is not None and model.num_batches_tracked is not None
    model.running_mean.fill_(1.0)
    model.num_batches_tracked.fill_(7)
    average.update(100)
    assert average.model.get_buffer("running_mean").tolist() == [0.5, 0.5]
    assert average.model.get_buffer("num_batches_tracked").item() == 0


# --- interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_a_slow_import_waits_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    done = list[str]()

    def swallowing(name: str) -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            done.append("swallowed")
        done.append(name)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setattr(importlib, "import_module", swallowing)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizers.import_what_torch_delays()
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert done == ["torch._dynamo"]
