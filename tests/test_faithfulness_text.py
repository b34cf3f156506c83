"""Each figure is said beside what chance gives; no gain is claimed that was not shown."""

from typing import Any

from igkd_search import faithfulness_text
from tests.test_faithfulness import linear, measure, weights


def found(**changes: Any) -> dict[str, Any]:
    return {**measure(linear(weights(0)), linear(weights(1))), **changes}


def test_agreement_stands_beside_that_with_another_image() -> None:
    correlation, overlap, *_ = found()["words"]
    assert correlation.startswith(
        "The rank correlation of the student's map with the teacher's map of"
    )
    assert "95% interval" in correlation and "n = 40" in correlation
    assert "of another image" in correlation and "of another image" in overlap
    assert overlap.startswith("Of the 10% of pixels") and "random order gives 11%" in overlap


def test_a_gain_is_claimed_only_where_its_interval_leaves_out_zero() -> None:
    gain = {"mean": 0.1, "sd": 0.1, "n": 40, "low": 0.05, "high": 0.15}
    measured = found()
    for low, says in ((0.05, "Its own map is better"), (-0.05, "not shown to be better")):
        student = {**measured["deletion"]["student"], "gain": {**gain, "low": low}}
        curves = {**measured["deletion"], "student": student}
        (line,) = (
            line
            for line in faithfulness_text.words({**measured, "deletion": curves})
            if line.startswith("Deletion (less is better)")
        )
        assert says in line


def test_what_it_does_not_say_is_said() -> None:
    assert "not over seeds" in found()["words"][-1]
