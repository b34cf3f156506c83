"""A supervisor's laws by a clock of the test's own; and what only real processes can show.

The real ones are Pythons without site packages that speak through files and pipes.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from igkd_search import supervisor as supervisors
from igkd_search.errors import ProcessError, StorageError
from igkd_search.processes import Job
from igkd_search.supervisor import Supervisor

TERM, INT = signal.SIGTERM, signal.SIGINT


class Life:
    """A child of the test's clock: it dies with `code` after `seconds`, or of a signal it heeds."""

    def __init__(self, clock: "Clock", seconds: float, code: int, heeds: int | None = 0) -> None:
        self.pid = 0
        self.clock, self.ends, self.code, self.heeds = clock, clock.now + seconds, code, heeds
        self.got: list[int] = []

    def poll(self) -> int | None:
        return self.code if self.clock.now >= self.ends else None

    def send_signal(self, number: int, /) -> None:
        self.got.append(number)
        if self.heeds is not None:
            self.ends, self.code = self.clock.now, self.heeds


class Clock:
    """Time that passes only while the supervisor waits; children that live as they are told to."""

    def __init__(self, *lives: tuple[float, int]) -> None:
        self.now, self.lives, self.born, self.started = (
            0.0,
            list(lives),
            list[Life](),
            list[float](),
        )
        self.heeds: int | None = 0

    def start(self, job: Job) -> Life:
        self.started.append(self.now)
        self.born.append(Life(self, *self.lives.pop(0), heeds=self.heeds))
        return self.born[-1]

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def supervisor(self, folder: Path, jobs: int = 1) -> Supervisor:
        named = [Job(f"worker-{i}", [], folder / f"worker-{i}.log") for i in range(jobs)]
        return Supervisor(named, starter=self.start, monotonic=lambda: self.now, wait=self.wait)


def python(name: str, code: str, folder: Path, **environment: str) -> Job:
    command = [sys.executable, "-S", "-c", code]
    return Job(name, command, folder / f"{name}.log", environment)


def test_what_ends_well_is_not_started_again(tmp_path: Path) -> None:
    clock = Clock((3.0, 0), (5.0, 0))
    supervisor = clock.supervisor(tmp_path, jobs=2)
    supervisor.run(poll_seconds=1.0)
    assert clock.started == [0.0, 0.0] and clock.now == 5.0
    assert (supervisor.asked, supervisor.running) == (None, 0)


def test_what_dies_is_started_again_later_each_time_until_it_is_given_up(tmp_path: Path) -> None:
    clock = Clock(*[(0.5, 1)] * supervisors.MAX_DEATHS)
    with pytest.raises(ProcessError, match=r"worker-0 died 5 times in a row, .* exit code 1; its"):
        clock.supervisor(tmp_path).run(poll_seconds=0.5)
    between = [b - a for a, b in zip(clock.started, clock.started[1:], strict=False)]
    assert between == [0.5 + pause for pause in (1, 2, 4, 8)]


def test_a_long_life_is_no_part_of_a_crash_loop(tmp_path: Path) -> None:
    short, long = (0.5, 1), (supervisors.LONG_LIFE, -signal.SIGKILL)
    clock = Clock(*[short] * 4, long, *[short] * 3, long, (0.5, 0))
    clock.supervisor(tmp_path).run(poll_seconds=0.5)
    assert clock.lives == []


def test_others_go_on_when_one_is_given_up_and_the_end_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock((0.5, 2), (1000.0, 0), *[(0.5, 2)] * 4)
    supervisor = clock.supervisor(tmp_path, jobs=2)
    running: set[tuple[float, int]] = set()
    with pytest.raises(ProcessError, match="worker-0 died 5 times"):
        supervisor.run(lambda: running.add((clock.now, supervisor.running)), poll_seconds=0.5)
    assert clock.now == 1000.0 and (999.0, 1) in running
    # it is said at once too, not only when the others have ended
    assert "worker-0 died with exit code 2; started again in 1 s" in caplog.text
    assert "worker-0 died 5 times in a row" in caplog.text


def test_who_is_asked_to_leave_is_not_started_again(tmp_path: Path) -> None:
    clock = Clock((100.0, 0), (0.5, 1))
    supervisor = clock.supervisor(tmp_path, jobs=2)

    def ask() -> None:
        if clock.now == 1.0:  # the second is dead, and due again at 1.5
            supervisor.ask(TERM)

    supervisor.run(ask, poll_seconds=0.5)
    assert supervisor.asked is TERM and clock.now == 1.5
    assert len(clock.started) == 2 and clock.born[0].got == [TERM]


def test_a_second_signal_is_passed_on_too_and_what_stays_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock((1000.0, 0))
    clock.heeds = None
    supervisor = clock.supervisor(tmp_path)
    killed: list[tuple[float, int]] = []

    def kill(group: int, number: int) -> None:
        killed.append((clock.now, number))
        clock.born[0].ends, clock.born[0].code = clock.now + 1, -number

    def ask() -> None:
        if clock.now in (1.0, 2.0):
            supervisor.ask(INT)

    monkeypatch.setattr(os, "killpg", kill)
    with pytest.raises(
        ProcessError, match=r"worker-0 did not leave within 30 s and was killed; no"
    ):
        supervisor.run(ask, poll_seconds=0.5)
    assert clock.born[0].got == [INT, INT]
    assert killed == [(1.5 + supervisors.KILL_AFTER, signal.SIGKILL)]


@pytest.mark.parametrize(("code", "clean"), [(0, True), (130, True), (-TERM, True), (1, False)])
def test_leaving_is_clean_or_told(tmp_path: Path, code: int, clean: bool) -> None:
    clock = Clock((100.0, 0))
    clock.heeds = code
    supervisor = clock.supervisor(tmp_path)
    problem = pytest.raises(ProcessError, match="worker-0 ended with exit code 1; its log")
    with contextlib.nullcontext() if clean else problem:
        supervisor.run(lambda: supervisor.ask(TERM), poll_seconds=1.0)
    assert clock.born[0].got == [TERM]


def test_an_error_of_the_tick_leaves_no_children_behind(tmp_path: Path) -> None:
    clock = Clock((100.0, 0), (100.0, 0))

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        clock.supervisor(tmp_path, jobs=2).run(fail, poll_seconds=1.0)
    assert [life.got for life in clock.born] == [[TERM], [TERM]]


def test_a_crash_loop_ends_with_the_traceback_of_its_last_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    code = (
        "import os; mark = os.environ['MARK']; print('begun', flush=True)\n"
        "if os.path.exists(mark): raise ValueError('the second life')\n"
        "open(mark, 'w').close(); raise ValueError('the first life')"
    )
    job = python("worker-0", code, tmp_path / "new" / "logs", MARK=str(mark))
    now = iter(range(0, 10**6, 60))

    def hurry(_seconds: float) -> None:  # the clock of the back-off is the test's
        threading.Event().wait(0.01)

    monkeypatch.setattr(supervisors, "LONG_LIFE", float("inf"))
    with pytest.raises(ProcessError) as caught:
        Supervisor([job], monotonic=lambda: float(next(now)), wait=hurry, max_deaths=2).run()
    message = str(caught.value)
    assert str(job.log) in message and "died 2 times in a row" in message
    assert message.count("Traceback (most recent call last)") == 1
    assert message.endswith("ValueError: the second life")
    # both lives are in the log, in order
    text = job.log.read_text()
    assert text.count("begun") == 2 and text.index("the first") < text.index("the second")


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/worker-0.log: cannot be written"):
        Supervisor([python("worker-0", "", tmp_path / "file")]).run()


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_reaches_children_in_sessions_of_their_own(tmp_path: Path, number: int) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    code = (
        "import os, signal, sys\n"
        "def leave(number, frame):\n"
        "    print('left', number, os.getsid(0) == os.getpid()); sys.exit(0)\n"
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, leave)\n"
        f"open({str(ready)!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "while True: signal.pause()"
    )
    jobs = [python(f"worker-{i}", code, tmp_path, CUDA_VISIBLE_DEVICES=str(i)) for i in range(2)]
    supervisor = Supervisor(jobs)
    before = signal.getsignal(number)
    seen: list[str] = []

    def once_ready() -> None:
        while "".join(sorted("".join(seen))) != "01":
            seen.append(ready.read_text())
        if supervisor.asked is None:
            signal.raise_signal(number)

    supervisor.run(once_ready)
    assert supervisor.asked == number and signal.getsignal(number) is before
    assert {job.log.read_text() for job in jobs} == {f"left {number:d} True\n"}


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    job = python("worker-0", "print('done')", tmp_path)
    thread = threading.Thread(target=Supervisor([job]).run)
    thread.start()
    thread.join()
    assert job.log.read_text() == "done\n"


def test_one_that_does_not_heed_is_killed_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "KILL_AFTER", 0.0)
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); below = os.fork()\n"
        f"if below: open({str(ready)!r}, 'w').write(str(below))\n"
        "while True: signal.pause()"
    )
    supervisor, below = Supervisor([python("worker-0", code, tmp_path)]), list[psutil.Process]()

    def once_ready() -> None:
        if not below:
            below.append(psutil.Process(int(ready.read_text())))
            supervisor.ask(TERM)

    with pytest.raises(ProcessError, match="was killed"):
        supervisor.run(once_ready)
    psutil.wait_procs(below, timeout=30)
    assert not below[0].is_running() or below[0].status() == psutil.STATUS_ZOMBIE
