"""One child process: what it is told, what it hears of its parent, what is read of its end.

Children are Pythons without site packages that speak through files and pipes.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from igkd_search import processes
from igkd_search.processes import Job
from tests.children import child

SUPERVISED = """
import sys
from pathlib import Path
from igkd_search.processes import Job
from igkd_search.supervisor import Supervisor
command = [sys.executable, "-c", sys.argv[2], sys.argv[3]]
Supervisor([Job("worker-0", command, Path(sys.argv[1]))]).run()
"""
WORKER = """
import os, select, signal, sys
from igkd_search.processes import die_with_parent
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
if sys.argv[1] == "early":
    parent = os.pidfd_open(int(os.environ["IGKD_SUPERVISOR"]))
    print("ready", flush=True)
    select.select([parent], [], [])
    die_with_parent()
else:
    die_with_parent()
    print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
print("asked to leave", flush=True)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
@pytest.mark.parametrize("when", ["early", "at work"])
def test_the_death_of_the_supervisor_is_heard(tmp_path: Path, when: str) -> None:
    """By kill -9, be it before the child had begun to listen."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    with child(SUPERVISED, fifo, WORKER, when) as supervisor, fifo.open() as log:
        assert log.readline() == "ready\n"
        supervisor.kill()
        supervisor.wait()
        assert log.read() == "asked to leave\n"


def test_without_a_supervisor_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(processes.SUPERVISOR, raising=False)
    processes.die_with_parent()
    monkeypatch.setenv(processes.SUPERVISOR, "1")
    monkeypatch.setattr(sys, "platform", "darwin")
    processes.die_with_parent()
    assert processes.SUPERVISOR not in os.environ  # it is not the parent of what we start


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("one\ntwo\n", "one\ntwo"),
        ("Traceback (most recent call last):\n a\nA\nand\nTraceback (most recent call last):\nB\n",
         "Traceback (most recent call last):\nB"),
        ("".join(f"{i}\n" for i in range(99)), "\n".join(str(i) for i in range(79, 99))),
        ("x" * 200_000 + "\nlast\n", None),
    ],
)  # fmt: skip
def test_the_last_words_of_a_log(tmp_path: Path, text: str, expected: str | None) -> None:
    file = tmp_path / "worker.log"
    file.write_text("Traceback (most recent call last):\nof another life\n")
    since = file.stat().st_size
    with file.open("a") as stream:
        stream.write(text)
    found = processes.last_words(file, since)
    assert found == expected if expected is not None else found.endswith("x\nlast")
    assert len(found) <= 70_000


def test_there_may_be_no_log(tmp_path: Path) -> None:
    assert processes.last_words(tmp_path / "none.log") == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exit code 3"), (-9, "SIGKILL (out of memory?)"), (-11, "SIGSEGV"), (-99, "signal 99")],
)
def test_how_a_child_died_is_said_in_words(code: int, words: str) -> None:
    assert processes.ending(code) == words


def test_a_started_process_offers_what_is_asked_of_it(tmp_path: Path) -> None:
    started: Callable[[Job], processes.Process] = processes.start
    command = [sys.executable, "-S", "-c", "raise SystemExit(7)"]
    process = started(Job("worker-0", command, tmp_path / "log"))
    assert isinstance(process, subprocess.Popen)
    assert process.wait() == 7 == process.poll()


def test_a_child_in_front_has_our_streams_and_gets_our_signals(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    code = (
        "import os, signal, sys\n"
        "def leave(*_): print('left', os.getsid(0) == os.getpid()); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "open(os.environ['READY'], 'w').close()\n"
        "while True: signal.pause()"
    )

    def once_ready() -> None:
        ready.read_text()
        os.kill(os.getpid(), signal.SIGTERM)

    heard = threading.Thread(target=once_ready)
    heard.start()
    found = processes.in_front([sys.executable, "-S", "-c", code], {"READY": str(ready)})
    heard.join()
    assert found == 3
    assert capfd.readouterr().out == "left True\n"
