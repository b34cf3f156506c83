"""Each step of the agenda types what it says, leaves in order, and says what came of it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from igkd_search import study_file

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STEPS = ("teacher", "banks", "search", "ablation", "compression", "packing", "latency")
ALONE = ("recipes", "paper")


@pytest.fixture
def agenda(benchmark_of: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_of("agenda")


def typed(agenda: ModuleType, step: str, *options: Any) -> list[str]:
    """The commands of a step, a line each, without Python's own path."""
    commands = agenda.STEPS[step](agenda.Asked(*options))
    return [" ".join(command.words[1:]) for command in commands]


def test_each_step_types_the_commands_of_the_documentation(agenda: ModuleType) -> None:
    home = Path("gpu")
    found = {step: typed(agenda, step, home) for step in agenda.STEPS}
    assert tuple(found) == (*STEPS, *ALONE)
    igkd, loop = "-m igkd_search", f"{BENCHMARKS / 'training_loop.py'} --workers 1,2,4"
    arms = "baseline,kd,ig,kd+ig,kd:shuffled,kd+ig:shuffled,kd+ig:random,kd+ig:dim"
    longer = "--top 5 --seeds 2 --epochs 100"
    assert found == {
        "teacher": [f"{igkd} prepare cifar10 --only teacher -f json --home gpu"],
        "banks": [f"{igkd} prepare cifar10 -f json --home gpu"],
        "search": [
            f"{igkd} run cifar10 -f json --home gpu",
            f"{igkd} export cifar10 -o gpu/best.toml {longer} -f json --home gpu",
            f"{igkd} report cifar10 -o gpu/report --home gpu",
        ],
        "ablation": [
            f"{igkd} train gpu/best.toml -o gpu/ablation --seeds 5 --arms {arms} -f json --home gpu"
        ],
        "compression": [
            f"{igkd} run cifar10_compression -f json --home gpu",
            f"{igkd} trials cifar10_compression -f json --home gpu",
        ],
        "packing": [f"{loop} --batch-size 64", f"{loop} --batch-size 256"],
        "latency": [f"{igkd} latency cifar10 -f json --home gpu"],
        "recipes": [
            f"{igkd} run cifar10_teacher -f json --home gpu",
            f"{igkd} run cifar10_recipe -f json --home gpu",
        ],
        "paper": [
            f"{igkd} run paper -f json --home gpu",
            f"{igkd} trials paper -f json --home gpu",
        ],
    }
    assert not home.exists(), "nothing is written where nothing has to be"


def test_the_agenda_names_every_step_with_its_command() -> None:
    told = (BENCHMARKS / "gpu_agenda.md").read_text("utf-8")
    places = [told.index(f"python benchmarks/agenda.py {step} ") for step in STEPS]
    assert places == sorted(places)
    assert all(f"python benchmarks/agenda.py {step} " in told for step in ALONE)


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar10_compression", "cifar10_recipe", "cifar10_teacher", "paper"]
)
@pytest.mark.parametrize("quick", [False, True])
def test_a_study_of_arrays_and_a_tiny_one_are_right(
    agenda: ModuleType, name: str, quick: bool, tmp_path: Path, arrays: Path
) -> None:
    asked = agenda.Asked(tmp_path, arrays, None, quick)
    path = Path(asked.study(name))
    named = f"quick_{name}".replace("_cifar10", "") if quick else name
    assert path == tmp_path / f"{named}.toml"
    found = study_file.read_study(path)
    shipped = study_file.read_study(BENCHMARKS.parent / "studies" / f"{name}.toml")
    assert found.name == named
    assert (found.data.source, found.data.path) == ("arrays", str(arrays))
    assert (found.data.shift, found.data.flip) == (4, True)
    assert found.search.space.keys() == shipped.search.space.keys()
    if quick:
        assert found.search.trials == 2 and found.trial.epochs == 2 and found.data.limit == 600
        assert found.teacher.minimum_accuracy == 0
    else:
        assert found.teacher == shipped.teacher and found.trial == shipped.trial
        assert found.search == shipped.search
    before = path.read_bytes()
    assert asked.study(name) == str(path) and path.read_bytes() == before


def test_data_and_device_go_where_they_are_taken(agenda: ModuleType, tmp_path: Path) -> None:
    with_both = (tmp_path, Path("set"), "cuda")
    for step in ("teacher", "banks", "ablation"):
        (line,) = typed(agenda, step, *with_both)
        assert line.endswith(f"--home {tmp_path} --data set --device cuda")
    (line,) = typed(agenda, "latency", *with_both)
    assert line.endswith(f"--home {tmp_path} --data set"), "latency is that of the CPU"
    assert typed(agenda, "search", *with_both)[2].endswith(f"--home {tmp_path}")
    assert typed(agenda, "packing", *with_both)[0].endswith("--batch-size 64 --device cuda")


def call(
    agenda: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *words: object,
) -> tuple[int, dict[str, Any], str]:
    """The agenda, called with these words: its exit code, its line, and what it told."""
    monkeypatch.setattr(sys, "argv", ["agenda.py", *map(str, words), "--device", "cpu"])
    code = agenda.main()
    shown = capsys.readouterr()
    return code, json.loads(shown.out or "{}"), shown.err


def prints(agenda: ModuleType, text: str, code: int = 0) -> Any:
    """A command that prints a text and ends with a code."""
    program = f"import sys; print({text!r}); sys.exit({code})"
    return agenda.Command([sys.executable, "-c", program], lambda found: found)


def test_a_step_ends_with_one_line_that_is_kept(
    agenda: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = [prints(agenda, '{"accuracy": 0.5}'), prints(agenda, 'a table\n{"n": 3}')]
    monkeypatch.setitem(agenda.STEPS, "banks", lambda asked: both)
    home = tmp_path / "home"
    code, line, told = call(agenda, monkeypatch, capsys, "banks", "--home", home, "--commit", "abc")
    assert code == 0 and told.count("$ python -c") == 2
    assert (line["step"], line["finished"], line["quick"]) == ("banks", True, False)
    assert line["figures"] == {"accuracy": 0.5, "n": 3}
    assert (line["device"], line["commit"]) == ("cpu", "abc") and line["seconds"] > 0
    assert [json.loads(each) for each in (home / "agenda.jsonl").read_text().splitlines()] == [line]
    again = call(agenda, monkeypatch, capsys, "banks", "--home", home)[1]
    assert again["seconds_until_finished"] == line["seconds"], "a look costs nothing"


def test_what_fails_ends_the_step(
    agenda: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = [prints(agenda, "{}", code=1), prints(agenda, '{"never": 1}')]
    monkeypatch.setitem(agenda.STEPS, "banks", lambda asked: commands)
    code, line, _ = call(agenda, monkeypatch, capsys, "banks", "--home", tmp_path)
    assert code == 1 and not line["finished"] and line["figures"] == {}


@pytest.mark.parametrize("again", [None, subprocess.TimeoutExpired("igkd", 0), KeyboardInterrupt()])
@pytest.mark.parametrize("stopped_by", [subprocess.TimeoutExpired("igkd", 0), KeyboardInterrupt()])
def test_what_still_runs_at_the_end_of_its_minutes_is_asked_to_leave_and_then_killed(
    agenda: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped_by: BaseException,
    again: BaseException | None,
) -> None:
    signals: list[int] = []

    class Child:
        returncode = 0

        def __init__(self, words: list[str], **options: Any) -> None:
            assert options["start_new_session"], "Ctrl-C would reach it twice"

        def communicate(self, timeout: float | None = None) -> tuple[str, None]:
            if not signals:
                raise stopped_by
            if again is not None and signals[-1] != signal.SIGKILL:
                raise again
            return '{"so far": 1}', None

        def kill(self) -> None:
            signals.append(signal.SIGKILL)

        def send_signal(self, number: int) -> None:
            signals.append(number)

    monkeypatch.setattr(subprocess, "Popen", Child)
    monkeypatch.setitem(agenda.STEPS, "banks", lambda asked: [prints(agenda, "")] * 2)
    options = ("banks", "--home", tmp_path, "--commit", "abc")
    code, line, told = call(agenda, monkeypatch, capsys, *options)
    assert code == 0 and signals == [signal.SIGINT, *([signal.SIGKILL] if again else [])]
    assert not line["finished"] and line["figures"] == {"so far": 1}
    assert "the same command goes on" in told


def test_an_ablation_before_its_search_says_so(
    agenda: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line, told = call(agenda, monkeypatch, capsys, "ablation", "--home", tmp_path)
    assert code == 1 and line == {} and "take the step search first" in told


def test_an_unknown_step_is_wrong_usage(
    agenda: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(agenda, monkeypatch, capsys, "dinner")
    assert ended.value.code == 2 and "invalid choice: 'dinner'" in capsys.readouterr().err
