"""Figures over seeds; what a whole result says is tested with final training (test_final.py)."""

import pytest

from igkd_search import final_result


def test_faithfulness_of_an_arm_is_that_of_its_students() -> None:
    def of(value: float, gain: float | None) -> dict[str, object]:
        figure = {"mean": value}
        own = {"rank_correlation": figure, "top_overlap": figure}
        curve = {"student": {"gain": None if gain is None else {"mean": gain}}}
        agreement = {"own_image": own, "another_image": None}
        return {"agreement": agreement, "deletion": curve, "insertion": curve}

    found = final_result._faithful([of(0.2, 0.1), of(0.4, None)])
    assert found["rank_correlation"]["mean"] == pytest.approx(0.3)
    assert found["rank_correlation"]["n"] == 2
    assert found["another_image"] is None, "there was none"
    assert found["insertion_gain"] is None, "one student's maps had no order"
