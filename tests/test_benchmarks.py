"""Benchmarks run as they are and end with one line of JSON, whether or not a claim holds."""

import json
from pathlib import Path

from tests.children import forked

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
import runpy, sys
from pathlib import Path
path = sys.argv.pop(1)
sys.path.insert(0, str(Path(path).parent))
runpy.run_path(path, run_name="__main__")
"""


def test_training_loop_ends_with_its_claim() -> None:
    smallest = ["--quick", "--repeats", "1", "--batch-size", "4", "--loader-workers", "0"]
    with forked(SCRIPT, FOLDER / "training_loop.py", "--device", "cpu", *smallest) as process:
        output, trouble = process.communicate()
    assert process.returncode == 0, trouble
    line = json.loads(output.splitlines()[-1])
    assert {"claim", "ratio", "target", "holds", "n", "spread", "device"} <= set(line)
    assert line["target"] == 0.05 and line["batch_size"] == 4
    assert line["against_the_papers_loop"]["target"] is None
    assert line["digits_size"]["image_size"] == 8
