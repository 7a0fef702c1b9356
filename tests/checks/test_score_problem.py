"""When a measured teacher is called wrong, in points, in errors and in units of the labels."""

import pytest

from distill_mtl.checks.teacher_score import ExpectedScore, MeasuredScore, score_problem
from distill_mtl.tasks.base import TaskKind, build_kind


def measured(score: float, constant: float, error: float = 0.0) -> MeasuredScore:
    return MeasuredScore(score, error, 100, constant)


ACCURACY = build_kind("classification", ["a", "b"])
ERROR = build_kind("multilabel", ["a", "b"], "error")
MAE = build_kind("regression", ["a"], "mae")


@pytest.mark.parametrize(
    ("kind", "constant", "good", "bad"),
    [
        (ACCURACY, 50.0, 56.0, 54.0),  # a tenth of the way to 100
        (ERROR, 20.0, 17.0, 19.0),  # a tenth of the way to 0
        (ERROR, 4.0, 3.5, 3.7),
        (MAE, 0.02, 0.017, 0.019),
        (MAE, 3000.0, 2600.0, 2800.0),
    ],
)
def test_without_a_record_a_tenth_of_the_way_to_perfect_is_asked_for(
    kind: TaskKind, constant: float, good: float, bad: float
) -> None:
    assert score_problem(measured(good, constant), None, kind) is None
    assert f"{bad:.2f}, hardly better" in str(score_problem(measured(bad, constant), None, kind))


@pytest.mark.parametrize(
    ("kind", "constant", "expected", "good", "bad"),
    [
        (ACCURACY, 50.0, 90.0, 88.5, 87.5),  # 2 points
        (ERROR, 20.0, 8.0, 9.5, 10.5),
        (MAE, 0.06, 0.01, 0.0108, 0.0112),  # 2 % of what lies between a constant answer and the record
        (MAE, 6000.0, 1000.0, 1080.0, 1120.0),
    ],
)
def test_a_record_may_be_missed_by_a_little(
    kind: TaskKind, constant: float, expected: float, good: float, bad: float
) -> None:
    assert score_problem(measured(good, constant), ExpectedScore(expected), kind) is None
    assert f"{expected:.2f}" in str(score_problem(measured(bad, constant), ExpectedScore(expected), kind))
    better = score_problem(
        measured(constant - 2 * (constant - expected), constant), ExpectedScore(expected), kind
    )
    assert better is None


def test_chance_explains_what_its_error_says() -> None:
    assert score_problem(measured(80.0, 50.0, error=6.0), ExpectedScore(90.0), ACCURACY) is None
    assert score_problem(measured(1.5, 6.0, error=0.3), ExpectedScore(1.0), MAE) is None


def test_a_record_that_a_constant_answer_reaches_is_no_reason_to_believe_a_teacher() -> None:
    nothing_learned = measured(50.0, 50.0)
    for recorded in (ExpectedScore(50.0, rows=100, stated=False), ExpectedScore(50.0, stated=False)):
        assert "no better" in str(score_problem(nothing_learned, recorded, ACCURACY))
    assert score_problem(nothing_learned, ExpectedScore(50.0), ACCURACY) is None  # the recipe's own word
    assert score_problem(measured(51.0, 50.0), ExpectedScore(51.0, rows=100, stated=False), ACCURACY) is None


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_never_passes(score: float) -> None:
    assert score_problem(measured(score, 50.0), None, ACCURACY) is not None
    assert score_problem(measured(90.0, 50.0), ExpectedScore(score), ACCURACY) is not None
    assert score_problem(measured(score, 50.0), ExpectedScore(90.0), ACCURACY) is not None


def test_answers_that_are_not_finite_never_pass() -> None:
    broken = MeasuredScore(95.0, 0.0, 100, 50.0, broken=3)
    for expected in (None, ExpectedScore(95.0)):
        assert "3 of 100" in str(score_problem(broken, expected, ACCURACY))
