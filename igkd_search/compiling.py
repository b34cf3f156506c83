"""Which step trains a student: eager, or one compiled step that serves all trials of a worker.

A compiled step knows its student by address, so a worker keeps one resident student a key and every
trial's weights are written into it; what varies between trials goes in as tensors. Thus a worker
compiles once a key: an architecture, a batch size and whatever else changes the graph. Whether that
pays is measured, on a GPU; IGKD_COMPILE = always or never decides it beforehand.
"""

import copy
import logging
import os
import time
import types
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn

from igkd_search import devices, memory, optimizers
from igkd_search.errors import StudyError

log = logging.getLogger(__name__)

Choice = Literal["auto", "always", "never"]
Kind = Literal["eager", "compiled", "mixed"]
"""What trained a student; mixed: the one until it was adopted, then the other."""
Learn = Callable[..., Tensor]
"""(model, *inputs) -> the loss of one step."""
Seconds = Callable[[Callable[[], None], torch.device], float]
"""(a step, the device) -> what it takes."""

_COMPILE_SECONDS = 60.0  # 20 to 120 were measured, on CPUs
_MOST_SAVED = 0.75  # of an eager step: a launch-bound one runs up to four times as fast
_MOST_RESIDENTS = 4  # each holds a student and its graphs on the device
_WARM_UP = 5  # steps: the first compiles, the next ones record CUDA graphs
_TIMED = 20  # steps


class Work(Protocol):
    """What a trial has to learn, as far as its step goes."""

    @property
    def learn(self) -> Learn:
        """The step, eager: a plain function."""

    @property
    def key(self) -> Hashable:
        """All that changes the graph of a step; equal keys share one compiled step."""

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""

    def example(self, compiled: bool) -> tuple[Any, ...]:
        """The inputs of one step after the model, drawn without touching the trial's own chance."""


@dataclass(frozen=True)
class Step:
    """How one trial learns."""

    kind: Kind
    model: nn.Module
    """What is trained: the trial's own student, or the resident one, which holds its weights."""
    learn: Learn
    compiled: bool
    """Whether `learn` is compiled, and so wants tensors where it would be given numbers."""


@dataclass
class _Resident:
    """A compiled step, and the one student whose weights it reads and writes."""

    model: nn.Module
    learn: Learn
    lent: bool = False


def asked() -> Choice:
    """What IGKD_COMPILE says, by default auto; StudyError when it is no choice."""
    value = os.environ.get("IGKD_COMPILE") or "auto"
    if value not in get_args(Choice):
        allowed = ", ".join(get_args(Choice))
        raise StudyError(f"IGKD_COMPILE = {value}: no such choice; allowed: {allowed}")
    return cast(Choice, value)


def could_pay(eager_seconds: float, steps: int) -> bool:
    """Whether compiling could win back its time in so many steps, were it as good as it gets."""
    return steps * eager_seconds * _MOST_SAVED > _COMPILE_SECONDS


def time_step(step: Callable[[], None], device: torch.device) -> float:
    """The mean seconds of a step, after some that warm it up."""
    for _ in range(_WARM_UP):
        step()
    _synchronise(device)
    began = time.perf_counter()
    for _ in range(_TIMED):
        step()
    _synchronise(device)
    return (time.perf_counter() - began) / _TIMED


def compile_step(learn: Learn, device: torch.device) -> Learn:
    """`learn` compiled for fixed shapes, as CUDA graphs on a GPU; it compiles when first called."""
    optimizers.import_what_torch_delays()
    cuda = device.type == "cuda"
    mode = "reduce-overhead" if cuda else "default"
    # fullgraph: half a graph would leave launches between its pieces, and say nothing of it
    compiled = torch.compile(own_code(learn), dynamic=False, fullgraph=True, mode=mode)
    if not cuda:
        return compiled

    def step(*inputs: Any) -> Tensor:
        # the memory of the last step's graphs may be written again: its gradients are used up
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(*inputs)

    return step


def own_code(function: Learn) -> Learn:
    """A copy of a plain function whose code object is its own.

    torch counts what it compiles by code object and gives up at eight, and tries the guards of them
    all in turn; a worker meets more architectures than that.
    """
    assert isinstance(function, types.FunctionType)
    copied = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


class Steps:
    """The steps of one worker, which runs one trial at a time.

    `planned_epochs` is the most that the worker may train. `compiler` and `seconds` are arguments
    so that the choice can be tested without a compiler and a clock.
    """

    def __init__(
        self,
        device: torch.device,
        choice: Choice,
        planned_epochs: int = 0,
        *,
        compiler: Callable[[Learn, torch.device], Learn] = compile_step,
        seconds: Seconds = time_step,
    ) -> None:
        self._device, self._choice, self._epochs = device, choice, planned_epochs
        self._compiler, self._seconds = compiler, seconds
        self._residents: dict[Hashable, _Resident | None] = {}
        self._quicker: dict[Hashable, bool] = {}
        self.kind: Kind = "eager"
        """That of the newest trial."""

    @classmethod
    def of(cls, device: torch.device, planned_epochs: int) -> "Steps":
        """As IGKD_COMPILE says; auto never compiles where there is no CUDA.

        Small CPUs train slower by what inductor makes for them, and it takes minutes to make.
        """
        choice = asked()
        without = choice == "auto" and device.type != "cuda"
        return cls(device, "never" if without else choice, planned_epochs)

    @contextmanager
    def lend(self, student: nn.Module, work: Work, before: Kind | None = None) -> Iterator[Step]:
        """The step of one trial; `before` is the kind of step that its checkpoint comes from.

        Train the model of the step. Where that is the resident one, `student` gets its weights when
        the body ends, not when it is left by an error.
        """
        self.kind = "eager"  # what a trial is that fails while its step is measured
        resident = self._chosen(student, work, before)
        now: Kind = "eager" if resident is None else "compiled"
        self.kind = now if before in (None, now) else "mixed"
        if before == "compiled" and resident is None:
            log.warning("a trial began with compiled steps and goes on with eager ones")
        if resident is None:
            yield Step(self.kind, student, work.learn, compiled=False)
            return
        devices.place(student, self._device)
        _copy(student, resident.model)
        resident.lent = True
        try:
            yield Step(self.kind, resident.model, resident.learn, compiled=True)
            _copy(resident.model, student)
        finally:
            resident.lent = False

    def _chosen(self, student: nn.Module, work: Work, before: Kind | None) -> _Resident | None:
        """The resident student to train in, or None: eager."""
        if self._choice == "never" or before == "eager" or self._is_lent(work.key):
            return None
        if before != "compiled" and not self._prefers_compiled(student, work):
            return None
        return self._resident(student, work)

    def _is_lent(self, key: Hashable) -> bool:
        """Whether another trial is under way in the resident student, which two cannot share."""
        resident = self._residents.get(key)
        return resident is not None and resident.lent

    def _prefers_compiled(self, student: nn.Module, work: Work) -> bool:
        if self._choice == "always":
            return True
        if work.key not in self._quicker:
            self._quicker[work.key] = self._measure(student, work)
        return self._quicker[work.key]

    def _measure(self, student: nn.Module, work: Work) -> bool:
        """Whether a compiled step is worth its compiling, by the clock; says what it found."""
        steps = self._epochs * work.steps
        eager = self._time(work.learn, self._copy_of(student), work.example(compiled=False))
        if not could_pay(eager, steps):
            log.info(
                "%s: eager steps of %.2f ms; at most %d are planned, too few to compile for",
                work.key,
                eager * 1e3,
                steps,
            )
            return False
        resident = self._resident(student, work)
        if resident is None:
            return False
        compiled = self._time(resident.learn, resident.model, work.example(compiled=True))
        if compiled >= eager:
            self._drop(work.key)  # its graphs hold memory that trials need
        log.info(
            "%s: a step takes %.2f ms compiled and %.2f ms eager; trials take the %s one",
            work.key,
            compiled * 1e3,
            eager * 1e3,
            "compiled" if compiled < eager else "eager",
        )
        return compiled < eager

    def _resident(self, student: nn.Module, work: Work) -> _Resident | None:
        """The resident student of a key and its step, compiled now if need be; None if it fails."""
        if work.key not in self._residents:
            idle = [key for key, each in self._residents.items() if each and not each.lent]
            for key in idle[: max(0, len(idle) + 1 - _MOST_RESIDENTS)]:
                self._drop(key)
            self._residents[work.key] = self._compile(student, work)
        return self._residents[work.key]

    def _drop(self, key: Hashable) -> None:
        del self._residents[key]
        memory.give_back()

    def _compile(self, student: nn.Module, work: Work) -> _Resident | None:
        began = time.perf_counter()
        try:
            model = self._copy_of(student)
            learn = self._compiler(work.learn, self._device)
            step = self._step(learn, model, work.example(compiled=True))
            # here and not in the trial, which could not go back to where it was
            with self._kept_chance():
                for _ in range(_WARM_UP):
                    step()
        except Exception as error:  # no compiler, no Triton, no memory, an operation without a rule
            reason = _first_line(error)
        else:
            seconds = time.perf_counter() - began
            log.info("%s: compiling the step took %.0f s", work.key, seconds)
            return _Resident(model, learn)
        # outside of the handler, whose traceback would keep the failed step's tensors alive
        memory.give_back()
        log.warning("%s: the step cannot be compiled, so it runs eager: %s", work.key, reason)
        return None

    def _copy_of(self, student: nn.Module) -> nn.Module:
        # what is measured and compiled trains: its statistics and gradients must not be the trial's
        return devices.place(copy.deepcopy(student), self._device).train()

    def _time(self, learn: Learn, model: nn.Module, inputs: tuple[Any, ...]) -> float:
        with self._kept_chance():
            return self._seconds(self._step(learn, model, inputs), self._device)

    def _kept_chance(self) -> AbstractContextManager[None]:
        """Whatever dropout draws from torch's global generators, they are as before at the end."""
        return torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])

    def _step(self, learn: Learn, model: nn.Module, inputs: tuple[Any, ...]) -> Callable[[], None]:
        """One step without its optimizer, which is eager in any case."""

        def step() -> None:
            model.zero_grad()
            with devices.autocast(self._device):
                loss = learn(model, *inputs)
            torch.autograd.backward(loss)

        return step


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Overwrite all tensors of a module in place, so that they keep their addresses."""
    with torch.no_grad():
        for theirs, ours in zip(_tensors(source), _tensors(target), strict=True):
            ours.copy_(theirs)
    target.zero_grad()


def _tensors(module: nn.Module) -> list[Tensor]:
    # not the state dict, which leaves buffers out that are not persistent
    return [*module.parameters(), *module.buffers()]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
