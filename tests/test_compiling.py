"""The compiled step: the eager one's losses and gradients, made once a key, chosen by measurement.

Most tests compile with `aot_eager`, which traces as inductor does and writes no C++; one takes
inductor itself. The choice is tested with a compiler that does nothing and times that are given.
"""

import copy
import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn

from igkd_search import (
    checkpoints,
    compiling,
    devices,
    fitting,
    launch,
    lessons,
    materials,
    spec,
    training,
)
from igkd_search.compiling import Choice, Kind, Learn, Steps
from igkd_search.errors import StudyError
from tests import own_networks, tiny

CPU = torch.device("cpu")
SEED, SIZE = 11, 12

OTHER_VALUES = {
    "temperature": 1.5,
    "kd_weight": 0.9,
    "overlay_probability": 0.2,
    "overlay_strength": 0.3,
    "overlay_exponent_max": 3.0,
    "label_smoothing": 0.1,
    "learning_rate": 0.01,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "ema_decay": 0.0,
    "optimizer": "adamw",
}
"""Whatever of a trial is a value and no shape."""


def trace(learn: Learn, device: torch.device) -> Learn:
    """A compiler that is `compile_step` without inductor."""
    traced: Learn = torch.compile(
        compiling.own_code(learn), dynamic=False, fullgraph=True, backend="aot_eager"
    )
    return traced


@pytest.fixture(scope="module")
def steps() -> Steps:
    """Steps that are always compiled; what one test compiled serves the others."""
    return Steps(CPU, "always", compiler=trace)


@pytest.fixture
def compiled(stock: training.Stock, steps: Steps) -> training.Stock:
    """The tiny stock, whose steps are compiled."""
    return replace(stock, steps=steps)


def config_of(study: spec.Study, **changes: Any) -> spec.TrialConfig:
    return study.trial.model_copy(update=changes)


def run(
    config: spec.TrialConfig, stock: training.Stock, **options: Any
) -> list[training.EpochResult]:
    return [epoch.without_times() for epoch in training.train(config, stock, SEED, **options)]


def assert_same_epoch(
    config: spec.TrialConfig, stock: training.Stock, student: nn.Module, rtol: float = 1e-4
) -> None:
    """Train an eager twin beside a student; losses, gradients and statistics must be alike."""
    device = stock.labels.device
    twin = devices.place(copy.deepcopy(student), device).train()
    plain, task = (training.Distillation(config, stock, SEED) for _ in range(2))
    with stock.steps.lend(student, task) as step:
        assert step.kind == "compiled" and step.model is not student
        task.use(step)
        model = step.model.train()
        pairs = [(twin, plain), (model, task)]
        optimizers = [torch.optim.SGD(each.parameters(), lr=0.02) for each, _ in pairs]
        for batch in plain.epoch(1, SIZE, torch.Generator(device).manual_seed(SEED)):
            losses = []
            for (learner, lesson), optimizer in zip(pairs, optimizers, strict=True):
                optimizer.zero_grad()
                with devices.autocast(device):
                    loss = lesson.loss(learner, batch)
                torch.autograd.backward(loss)
                losses.append(loss.item())
            assert losses[1] == pytest.approx(losses[0], rel=rtol)
            for expected, found in zip(twin.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(found.grad, expected.grad, rtol=10 * rtol, atol=rtol)
            for optimizer in optimizers:
                optimizer.step()
        for kept, same in zip(model.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(kept, same, rtol=10 * rtol, atol=rtol)
    # and what was learnt is given back
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)


# --- the same step


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kd_weight": 0.0, "label_smoothing": 0.1},
        {"attention_weight": 10.0, "cutout": 3, "overlay_exponent_max": 3.0},
    ],
)
def test_a_compiled_step_has_the_losses_and_gradients_of_the_eager_one(
    study: spec.Study, compiled: training.Stock, changes: dict[str, Any]
) -> None:
    config = config_of(study, **changes)
    assert_same_epoch(config, compiled, training.build(config, compiled, SEED))


def test_so_has_the_step_that_inductor_makes(study: spec.Study, stock: training.Stock) -> None:
    # of three convolutions, whose C++ is compiled in seconds
    torch.manual_seed(SEED)
    student = own_networks.Blocks(tiny.CLASSES, 4)
    real = replace(stock, steps=Steps(CPU, "always"))
    assert_same_epoch(config_of(study), real, student)


def test_on_a_gpu_each_step_begins_a_round_of_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def compiler(learn: Learn, mode: str, **options: bool) -> Learn:
        done.append(mode)
        return learn

    def learn() -> Tensor:
        done.append("step")
        return torch.zeros(())

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: done.append("mark"))
    step = compiling.compile_step(learn, torch.device("cuda"))
    for _ in range(2):
        step()
    assert done == ["reduce-overhead", "mark", "step", "mark", "step"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# fused operations round less often than single ones, and bf16 keeps eight bits
@pytest.mark.parametrize(("bf16", "rtol"), [(False, 5e-3), (True, 5e-2)])
def test_so_have_cuda_graphs(
    study: spec.Study,
    shared: materials.Materials,
    monkeypatch: pytest.MonkeyPatch,
    bf16: bool,
    rtol: float,
) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda device: bf16)
    device = torch.device("cuda")
    stock = training.Stock.of(shared, study, device)
    graphs = replace(stock, steps=Steps(device, "always"))
    config = config_of(study)
    assert_same_epoch(config, graphs, training.build(config, graphs, SEED), rtol)
    other = config_of(study, temperature=2.0, kd_weight=0.9)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_same_epoch(other, graphs, training.build(other, graphs, 12), rtol)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_device(study: spec.Study, shared: materials.Materials) -> None:
    device = torch.device("cuda")
    stock = training.Stock.of(shared, study, device)
    config = config_of(study)
    task = training.Distillation(config, stock, SEED)
    student = devices.place(training.build(config, stock, SEED), device).train()
    drawn = list(task.epoch(1, SIZE, torch.Generator(device).manual_seed(SEED)))
    torch.autograd.backward(task.loss(student, drawn[0]))  # what is loaded once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in drawn:
            torch.autograd.backward(task.loss(student, batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- one graph serves all trials of a key


def test_another_trial_of_the_same_key_compiles_nothing(
    study: spec.Study, compiled: training.Stock
) -> None:
    config = config_of(study, **OTHER_VALUES)
    run(config_of(study), compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        found = run(config, compiled)
    assert compiled.steps.kind == "compiled"
    eager = run(config, replace(compiled, steps=Steps(CPU, "never")))
    for ours, theirs in zip(found, eager, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.accuracy == pytest.approx(theirs.accuracy, abs=1 / tiny.VALIDATION)


def test_keys_differ_by_what_changes_the_graph_and_by_nothing_else(
    study: spec.Study, stock: training.Stock
) -> None:
    def key(**changes: Any) -> lessons.Key:
        return training.Distillation(config_of(study, **changes), stock, SEED).key

    assert key(**OTHER_VALUES, epochs=9, initialisation="teacher") == key()
    changed: list[dict[str, Any]] = [
        {"removed_blocks": 14},
        {"width": 0.5},
        {"architecture": "resnet18"},
        {"batch_size": 6},
        {"cutout": 2},
        {"kd_weight": 0.0},
        {"attention_weight": 1.0},
    ]
    keys = {key(), *(key(**change) for change in changed)}
    assert len(keys) == 1 + len(changed)
    # an epoch of all rows is one batch, however many more are asked for
    assert key(batch_size=500) == key(batch_size=tiny.TRAIN - tiny.VALIDATION)


def test_each_key_compiles_its_own_and_no_limit_is_reached(steps: Steps) -> None:
    made = [Scaled(f"key {index}") for index in range(4)]
    with torch._dynamo.config.patch(recompile_limit=2):
        for index, work in enumerate(made):
            with steps.lend(nn.Linear(3, index + 1), work) as step:
                assert step.kind == "compiled"
    with torch.compiler.set_stance("fail_on_recompile"):
        for index, work in enumerate(made):
            with steps.lend(nn.Linear(3, index + 1), work) as step:
                step.learn(step.model, torch.ones(2, 3), torch.tensor(0.5))


def test_law_6_holds_for_compiled_steps(
    study: spec.Study, compiled: training.Stock, tmp_path: Path
) -> None:
    config = config_of(study, epochs=3)
    whole = run(config, compiled)
    run(config_of(study, **OTHER_VALUES), compiled)  # leaves nothing behind in the module
    assert run(config, compiled) == whole
    epochs = training.train(config, compiled, SEED, save_to=tmp_path)
    next(epochs)
    del epochs
    assert run(config, compiled, resume_from=checkpoints.newest(tmp_path)) == whole


# --- whose weights these are


def test_a_student_that_outlives_its_trial_is_not_the_resident_one(
    study: spec.Study, compiled: training.Stock
) -> None:
    config = config_of(study)
    first, second = (training.build(config, compiled, seed) for seed in (1, 2))
    records = run(config, compiled, student=first)
    kept = copy.deepcopy(first.state_dict())
    run(config, compiled, student=second)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)
    own, others = ({v.data_ptr() for v in s.state_dict().values()} for s in (first, second))
    assert own.isdisjoint(others)
    # and it is the one that was validated
    scores = training.Distillation(config, compiled, SEED).validate(first.eval())
    assert scores.accuracy == records[-1].accuracy


def test_the_resident_student_stays_where_it_is(
    study: spec.Study, compiled: training.Stock
) -> None:
    config, places = config_of(study), []
    for seed in (1, 2):
        task = training.Distillation(config, compiled, seed)
        with compiled.steps.lend(training.build(config, compiled, seed), task) as step:
            task.use(step)
            list(fitting.fit(step.model, task, config, seed, CPU))
            tensors = [*step.model.parameters(), *step.model.buffers()]
            places.append([tensor.data_ptr() for tensor in tensors])
    assert places[0] == places[1]


def test_of_two_trials_at_once_the_second_is_eager(
    study: spec.Study, compiled: training.Stock
) -> None:
    config = config_of(study)
    whole = run(config, compiled)
    epochs = training.train(config, compiled, SEED)
    first = next(epochs).without_times()
    ran = [str(compiled.steps.kind)]
    run(config, compiled)
    assert [*ran, compiled.steps.kind] == ["compiled", "eager"]
    assert [first, *(epoch.without_times() for epoch in epochs)] == whole


def test_buffers_that_no_state_dict_holds_are_the_trial_s_too() -> None:
    class Noted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 1)
            self.register_buffer("seen", torch.zeros(1), persistent=False)

    steps, work = Steps(CPU, "always", compiler=as_it_is), Scaled()
    for value in (1.0, 2.0):
        student = Noted()
        student.get_buffer("seen").fill_(value)
        with steps.lend(student, work) as step:
            assert step.model.get_buffer("seen").item() == value


# --- the choice


def scale_answer(model: nn.Module, inputs: Tensor, scale: float | Tensor) -> Tensor:
    loss: Tensor = (model(inputs) * scale).sum()
    return loss


@dataclass
class Scaled:
    """Work of one multiplication."""

    key: Hashable = "line"
    steps: int = 100
    learn: Learn = scale_answer

    def example(self, compiled: bool) -> tuple[Any, ...]:
        return torch.ones(2, 3), torch.tensor(2.0) if compiled else 2.0


def as_it_is(learn: Learn, device: torch.device) -> Learn:
    """A compiler that compiles nothing."""
    return learn


def refuse(learn: Learn, device: torch.device) -> Learn:
    """A compiler where there is none."""
    raise RuntimeError("Failed to find C compiler.\nPlease specify one")


def lasting(*seconds: float) -> compiling.Seconds:
    """A clock that runs a step and says these times in turn, and none after."""
    left: Iterator[float] = iter(seconds)

    def time(step: Callable[[], None], device: torch.device) -> float:
        step()
        return next(left)

    return time


def kinds(steps: Steps, *works: Scaled, before: Kind | None = None) -> list[str]:
    """The kinds of step that trials of these works get, one after the other."""
    found: list[str] = []
    for work in works:
        with steps.lend(nn.Linear(3, 1), work, before) as step:
            assert (step.kind == "compiled") <= step.compiled
            found.append(step.kind)
    return found


@pytest.mark.parametrize(("compiled", "kind"), [(0.002, "compiled"), (0.02, "eager")])
def test_the_quicker_step_is_taken_and_measured_once_a_key(
    caplog: pytest.LogCaptureFixture, compiled: float, kind: str
) -> None:
    caplog.set_level(logging.INFO)
    clock = lasting(0.01, compiled)
    steps = Steps(CPU, "auto", 1000, compiler=as_it_is, seconds=clock)
    assert kinds(steps, Scaled(), Scaled()) == [kind, kind]
    said = f"line: a step takes {compiled * 1e3:.2f} ms compiled and 10.00 ms eager"
    assert f"{said}; trials take the {kind} one" in caplog.messages


def test_each_key_is_measured_by_itself() -> None:
    clock = lasting(0.01, 0.002, 0.01, 0.03)
    steps = Steps(CPU, "auto", 1000, compiler=as_it_is, seconds=clock)
    assert kinds(steps, Scaled("a"), Scaled("b"), Scaled("a")) == ["compiled", "eager", "compiled"]


def test_what_no_trial_needs_is_given_back() -> None:
    slower = Steps(CPU, "auto", 1000, compiler=as_it_is, seconds=lasting(0.01, 0.03))
    assert kinds(slower, Scaled()) == ["eager"] and not slower._residents
    many = Steps(CPU, "always", compiler=as_it_is)
    assert kinds(many, *(Scaled(key) for key in range(6))) == ["compiled"] * 6
    assert list(many._residents) == [2, 3, 4, 5]
    with many.lend(nn.Linear(3, 1), Scaled(2)):
        assert kinds(many, Scaled(6), Scaled(7), Scaled(8), Scaled(9)) == ["compiled"] * 4
        assert 2 in many._residents, "it is being trained"


def test_where_little_is_planned_nothing_is_compiled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    steps = Steps(CPU, "auto", 10, compiler=refuse, seconds=lasting(0.01))
    assert kinds(steps, Scaled(), Scaled()) == ["eager", "eager"]
    (said,) = caplog.messages
    assert said.startswith("line: eager steps of 10.00 ms; at most 1000 are planned, too few")


def test_compiling_could_pay_where_steps_take_longer_than_compiling() -> None:
    assert not compiling.could_pay(0.003, 20_000)
    assert compiling.could_pay(0.003, 40_000)
    assert not compiling.could_pay(0.003, 0)


def test_a_step_is_timed_after_it_is_warm() -> None:
    taken = list[int]()
    assert compiling.time_step(lambda: taken.append(1), CPU) >= 0
    assert len(taken) == compiling._WARM_UP + compiling._TIMED


@pytest.mark.parametrize("compiled", [0.001, 1.0])
def test_measuring_changes_nothing_of_a_trial(
    study: spec.Study, stock: training.Stock, compiled: float
) -> None:
    config = config_of(study)
    clock = lasting(0.1, compiled)
    steps = Steps(CPU, "auto", 10_000, compiler=as_it_is, seconds=clock)
    found = run(config, replace(stock, steps=steps))
    assert steps.kind == ("compiled" if compiled < 0.1 else "eager")
    expected = run(config, stock)
    if steps.kind == "eager":
        assert found == expected
    # by tensors in place of floats, and so not to the last bit
    assert [epoch.loss for epoch in found] == pytest.approx([e.loss for e in expected], rel=1e-3)


def test_measuring_uses_up_no_chance() -> None:
    def drop(model: nn.Module, inputs: Tensor, scale: float | Tensor) -> Tensor:
        return torch.dropout(model(inputs), 0.5, True).sum()

    steps = Steps(CPU, "auto", 10_000, compiler=as_it_is, seconds=lasting(1.0, 0.1))
    student, before = nn.Linear(3, 1), torch.get_rng_state()
    with steps.lend(student, Scaled(learn=drop)):
        assert torch.equal(torch.get_rng_state(), before)
    assert student.weight.grad is None


@pytest.mark.parametrize("choice", ["auto", "always"])
def test_where_it_cannot_be_compiled_the_step_is_eager(
    caplog: pytest.LogCaptureFixture, choice: Choice
) -> None:
    steps = Steps(CPU, choice, 1000, compiler=refuse, seconds=lasting(0.01))
    assert kinds(steps, Scaled(), Scaled()) == ["eager", "eager"]
    (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert said.getMessage().endswith("so it runs eager: Failed to find C compiler.")


def test_a_network_that_torch_cannot_trace_is_trained_eager(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def untraceable(model: nn.Module, inputs: Tensor, scale: Tensor) -> Tensor:
        return model(inputs).sum() if inputs.sum().item() > 0 else scale

    steps = Steps(CPU, "always", compiler=trace)
    assert kinds(steps, Scaled(learn=untraceable)) == ["eager"]
    assert "the step cannot be compiled" in caplog.text


# --- what the environment says


@pytest.mark.parametrize(
    ("said", "kind"),
    [(None, "eager"), ("auto", "eager"), ("never", "eager"), ("always", "compiled")],
)
def test_the_environment_decides_and_auto_never_compiles_for_a_cpu(
    monkeypatch: pytest.MonkeyPatch, said: str | None, kind: str
) -> None:
    if said is not None:
        monkeypatch.setenv("IGKD_COMPILE", said)
    monkeypatch.setattr(compiling, "compile_step", None)
    steps = Steps.of(CPU, 10**9)
    steps._compiler = as_it_is
    assert kinds(steps, Scaled()) == [kind]


def test_another_choice_is_refused_before_anything_is_written(
    study: spec.Study, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IGKD_COMPILE", "yes")
    with pytest.raises(StudyError, match=r"IGKD_COMPILE = yes: .*allowed: auto, always, never"):
        launch.check(study, home)


# --- which step ran is kept, and an adopted trial goes on with it


def test_each_trial_of_a_search_says_which_step_trained_it(searched: Path) -> None:
    theirs = optuna.load_study(study_name="tiny", storage=f"sqlite:///{searched / 'igkd.db'}")
    assert [trial.user_attrs["step"] for trial in theirs.trials] == ["eager"] * 2


def test_a_checkpoint_says_which_step_it_comes_from(
    study: spec.Study, stock: training.Stock, tmp_path: Path
) -> None:
    for choice, kind in (("never", "eager"), ("always", "compiled")):
        steps = Steps(CPU, choice, compiler=as_it_is)  # type: ignore[arg-type]
        run(config_of(study), replace(stock, steps=steps), save_to=tmp_path / choice)
        newest = checkpoints.newest(tmp_path / choice)
        assert newest is not None
        assert checkpoints.read_plain(newest)["step"] == kind


def test_a_trial_goes_on_as_it_began() -> None:
    always = Steps(CPU, "always", compiler=as_it_is)
    assert kinds(always, Scaled(), before="eager") == ["eager"]
    # without asking what is quicker here, or whether it is worth it
    unasked = Steps(CPU, "auto", compiler=as_it_is, seconds=lasting())
    assert kinds(unasked, Scaled(), before="compiled") == ["compiled"]
    assert kinds(unasked, Scaled(), before="eager") == ["eager"]


@pytest.mark.parametrize(
    "steps", [Steps(CPU, "never"), Steps(CPU, "always", compiler=refuse)], ids=["never", "failing"]
)
def test_a_trial_that_cannot_go_on_as_it_began_says_so(
    caplog: pytest.LogCaptureFixture, steps: Steps
) -> None:
    assert kinds(steps, Scaled(), before="compiled") == ["mixed"]
    assert steps.kind == "mixed"
    assert "began with compiled steps and goes on with eager ones" in caplog.messages[-1]
    assert kinds(steps, Scaled(), before="mixed") == ["mixed"]
    assert kinds(steps, Scaled()) == ["eager"]
