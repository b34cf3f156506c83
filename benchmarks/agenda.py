"""The agenda for a GPU: one command a step, minutes each, which goes on when it is typed again.

    python benchmarks/agenda.py teacher --data cifar10 --home gpu
    python benchmarks/agenda.py STEP [--minutes 9] [--quick]

Steps, in this order: teacher, banks, search, ablation, compression, packing, latency; and, alone,
recipes and paper (gpu_agenda.md says what each should show). A step prints the commands that it
types (on standard error: they are its documentation), asks what still runs after --minutes to leave
in order, and ends with one line of JSON: step, finished, seconds, commit, device and the figures
that the commands have printed. Typed again it goes on where it was, and says so once it has
finished. Every line is kept in HOME/agenda.jsonl. `--quick` takes the same steps on the CPU, with a
tiny copy of the study, and shows only that they can be taken.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import agenda_steps
from agenda_steps import ROOT, STEPS, Asked, Command

GRACE_SECONDS = 45  # workers finish their epoch for 20 s, and are given another 10
KEPT = "agenda.jsonl"
LEFT = (130, -signal.SIGINT, -signal.SIGKILL)
"""The exit codes of who was interrupted, or killed for not leaving."""


def main() -> int:
    options = arguments()
    asked = Asked(options.home, options.data, options.device, options.quick)
    needed = agenda_steps.NEEDED.get(options.step)
    if needed and not (asked.home / needed).exists():
        print(
            f"error: {asked.home / needed}: is not there; take the step search first",
            file=sys.stderr,
        )
        return 1
    began = time.monotonic()
    figures, ended = take(STEPS[options.step](asked), began + options.minutes * 60)
    line = {
        "step": options.step,
        "finished": ended == "finished",
        "seconds": round(time.monotonic() - began, 2),
        "commit": options.commit or commit(),
        "device": device(options.device),
        "quick": options.quick,
        "figures": figures,
    }
    print(json.dumps(kept(line, asked.home)), flush=True)
    if ended == "stopped":
        print("the same command goes on", file=sys.stderr)
    return 1 if ended == "failed" else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS, help="which")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as arrays; else it is downloaded")
    parser.add_argument("--home", type=Path, default=Path("agenda"), help="where all is kept")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to leave; default 9")
    parser.add_argument("--quick", action="store_true", help="a tiny copy on the CPU, as a trial")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    parser.add_argument("--commit", help="of this tree, where it has no history")
    options = parser.parse_args()
    options.device = options.device or ("cpu" if options.quick else None)
    return options


def take(commands: list[Command], deadline: float) -> tuple[dict[str, Any], str]:
    """Run commands in order until the deadline of time.monotonic().

    Returns the figures and whether it has `finished`, was `stopped`, or has `failed`.
    """
    figures: dict[str, Any] = {}
    for command in commands:
        if time.monotonic() >= deadline:
            return figures, "stopped"
        print(f"$ {shlex.join(['python', *command.words[1:]])}", file=sys.stderr, flush=True)
        code, output, interrupted = run(command.words, deadline)
        # asked to leave, igkd does so with 0, or with 130 where it was still beginning
        if code and not (interrupted and code in LEFT):
            return figures, "failed"
        found = printed(output)
        if found is not None:
            figures |= command.read(found)
        if interrupted:
            return figures, "stopped"
    return figures, "finished"


def run(words: list[str], deadline: float) -> tuple[int, str, bool]:
    """A command's exit code, its output, and whether it was asked to leave before its end."""
    # a session of its own: Ctrl-C must reach it once, through us
    child = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    )
    try:
        output, _ = child.communicate(timeout=max(deadline - time.monotonic(), 0.0))
        return child.returncode, output, False
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.send_signal(signal.SIGINT)
    try:
        output, _ = child.communicate(timeout=GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        print("it did not leave in time and is killed", file=sys.stderr)
        child.kill()
        output, _ = child.communicate()
    return child.returncode, output, True


def environment() -> dict[str, str]:
    """Where this tree is found, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def printed(output: str) -> Any:
    """The JSON of a command: all that it printed, or the last line; None when there is none."""
    for text in (output, output.strip().rpartition("\n")[2]):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None


def kept(line: dict[str, Any], home: Path) -> dict[str, Any]:
    """The line, written down, with the seconds of all times this step was taken until it ended."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / KEPT
    step = line["step"], line["quick"]
    same = [each for each in lines(file) if (each["step"], each["quick"]) == step]
    ended = next((place for place, each in enumerate(same) if each["finished"]), len(same))
    spent = sum(each["seconds"] for each in [*same, line][: ended + 1])
    found = {**line, "seconds_until_finished": round(spent, 2)}
    with file.open("a") as written:
        written.write(json.dumps(found) + "\n")
    return found


def lines(file: Path) -> list[dict[str, Any]]:
    """The lines kept so far; not one that a kill has cut off."""
    found = []
    for text in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


def commit() -> str | None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def device(asked: str | None) -> str:
    """The name of what computed."""
    name = asked or os.environ.get("IGKD_DEVICE")
    if name in ("cpu", "mps"):
        return name
    import torch  # takes seconds, and nothing else here needs it

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(name or "cuda"))
    return "mps" if torch.backends.mps.is_available() else "cpu"


if __name__ == "__main__":
    # SIGINT too: started in the background, this process ignores it, and so would its children
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
