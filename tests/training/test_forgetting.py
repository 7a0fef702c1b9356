"""Section 2 of the survey on a small problem: what each source of targets for a missing label is worth."""

from pathlib import Path

import pytest
import taking_turns


@pytest.fixture(scope="module")
def from_labels_alone() -> list[float]:
    return taking_turns.drops()


def test_labels_alone_forget_a_task_while_the_other_has_its_turn(from_labels_alone: list[float]) -> None:
    assert min(from_labels_alone) > 20
    assert mean(from_labels_alone) > 35


@pytest.mark.parametrize("decay", [None, 0.9], ids=["frozen", "ema"])
def test_a_self_teacher_makes_the_student_forget_less(
    from_labels_alone: list[float], decay: float | None
) -> None:
    remembered = taking_turns.drops(decay, remembers=True)
    assert mean(remembered) < mean(from_labels_alone) / 2
    for drop, forgotten in zip(remembered, from_labels_alone, strict=True):
        assert drop < forgotten - 10


def test_with_teachers_nothing_is_forgotten(tmp_path: Path) -> None:
    taught = taking_turns.drops(teachers=taking_turns.train_teachers(tmp_path))
    assert max(taught) < 3
    assert mean(taught) < 1.5


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
