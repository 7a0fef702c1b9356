"""The paired interval over groups of rows."""

import pytest
import torch
from torch import Tensor

from distill_mtl.evaluation.bootstrap import group_totals, paired_interval, unseen_difference


def accuracy(statistics: Tensor, weights: Tensor) -> Tensor:
    totals = weights @ statistics
    return 100 * totals[..., 0] / totals[..., 1]


def outcomes(right: Tensor) -> Tensor:
    """Statistics [rows, 2] of rows that were right or not."""
    return torch.stack([right.double(), torch.ones(len(right), dtype=torch.float64)], dim=1)


def clustered(groups: int, size: int, seed: int) -> tuple[list[str], Tensor, Tensor]:
    """Rows of one group are equally hard for the student, which truly loses 10 points to the teacher."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.rand(groups * size, generator=generator) < 0.8
    chance = torch.where(torch.rand(groups, generator=generator) < 0.5, 0.95, 0.45).repeat_interleave(size)
    student = torch.rand(groups * size, generator=generator) < chance
    names = [f"g{index // size}" for index in range(groups * size)]
    return names, outcomes(student), outcomes(teacher)


def interval(
    groups: list[str], student: Tensor, teacher: Tensor, seed: int = 0, resamples: int = 400
) -> tuple[float, float]:
    found = paired_interval(groups, student, teacher, accuracy, resamples=resamples, seed=seed)
    assert found is not None
    return found


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        low, high = interval(*clustered(40, 5, seed), seed=seed)
        covered += low <= -10 <= high
    assert 180 <= covered <= 199


def test_resampling_rows_where_groups_matter_would_be_too_sure() -> None:
    groups, student, teacher = clustered(40, 10, seed=0)
    low, high = interval(groups, student, teacher)
    rows = [str(index) for index in range(len(groups))]
    row_low, row_high = interval(rows, student, teacher)
    assert high - low > 1.5 * (row_high - row_low)


def test_what_is_hard_for_both_cancels() -> None:
    """A student wrong exactly where the teacher is, but for 5 rows: a narrow interval at mediocre scores."""
    teacher = torch.arange(400) % 2 == 0
    student = teacher.clone()
    student[:10:2] = False
    rows = [str(index) for index in range(400)]
    low, high = interval(rows, outcomes(student), outcomes(teacher), resamples=2000)
    assert low < -1.25 < high
    assert high - low < 2.5  # unpaired it would be more than 13 points wide


def test_identical_networks_have_an_empty_interval() -> None:
    groups, student, _ = clustered(20, 3, seed=1)
    assert interval(groups, student, student.clone()) == (0.0, 0.0)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_one_differing_row_leaves_about_as_much_open_as_none_however_rows_are_grouped(size: int) -> None:
    rows = 2000
    names = [f"g{index // size}" for index in range(rows)]
    teacher = torch.ones(rows)
    student = teacher.clone()
    student[7] = 0
    low, high = interval(names, outcomes(student), outcomes(teacher), resamples=2000)
    none, _ = unseen_difference(rows)
    assert none == pytest.approx(-369 / rows, rel=0.01)
    assert 0.7 < low / none < 1.2
    assert high == 0


def test_the_seed_alone_decides_the_draw() -> None:
    groups, student, teacher = clustered(30, 2, seed=5)
    assert interval(groups, student, teacher, seed=1) == interval(groups, student, teacher, seed=1)
    assert interval(groups, student, teacher, seed=1) != interval(groups, student, teacher, seed=2)


def test_memory_is_bounded_by_drawing_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, student, teacher = clustered(30, 2, seed=5)
    whole = interval(groups, student, teacher)
    monkeypatch.setattr("distill_mtl.evaluation.bootstrap._NUMBERS_AT_ONCE", 100)
    assert interval(groups, student, teacher) == whole


def test_one_group_says_nothing() -> None:
    totals = torch.tensor([[5.0, 10.0]], dtype=torch.float64)
    assert paired_interval(["all"], totals, totals, accuracy, resamples=100, seed=0) is None


def test_rows_that_cannot_be_summed_are_weighed_one_by_one() -> None:
    groups, student, teacher = clustered(30, 2, seed=5)
    whole = paired_interval(groups, student, teacher, accuracy, additive=False, resamples=400, seed=0)
    assert whole == pytest.approx(interval(groups, student, teacher))


def test_without_a_teacher_the_interval_is_the_score_s_own() -> None:
    groups, student, _ = clustered(40, 5, seed=0)
    found = paired_interval(groups, student, None, accuracy, resamples=400, seed=0)
    assert found is not None
    assert found[0] < float(accuracy(student, torch.ones(1, 200, dtype=torch.float64))) < found[1]


def test_statistics_are_summed_by_group_in_the_order_of_names() -> None:
    totals = group_totals(["b", "a", "b"], torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]))
    assert totals.tolist() == [[10, 20], [101, 202]]
    assert totals.dtype == torch.float64
