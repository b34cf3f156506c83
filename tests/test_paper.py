"""The paper's figures agree with each other, and with the space that names its choice."""

import pytest

from igkd_search import paper, spec


def test_the_compression_factors_are_those_of_the_paper() -> None:
    published = [2.19, 4.12, 7.29, 12.04, 28.97, 54.59, 139.43, 1121.71]
    found = [student.compression for student in paper.STUDENTS]
    assert found == pytest.approx(published, abs=0.005)
    assert paper.MEASURED.removed_blocks == 5


def test_no_best_run_is_below_its_mean_and_none_reaches_the_teacher() -> None:
    for arm in paper.ARMS:
        assert arm.mean < arm.best < paper.TEACHER_ACCURACY
        assert 0 < arm.sd < 0.01


def test_the_choice_names_fields_of_a_configuration() -> None:
    assert set(paper.CHOICE) <= set(spec.TrialConfig.model_fields)
