"""Intervals and verdicts on thousands of drawn test sets, where the truth is known.

All sets of a simulation are resampled by the same draws, as all tasks of an evaluation with one seed are: a set's
interval depends on its draws alone.
"""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from distill_mtl.evaluation.bootstrap import draw_counts, paired_interval, percentiles
from distill_mtl.evaluation.mcnemar import mcnemar
from distill_mtl.evaluation.result import TaskResult
from distill_mtl.evaluation.verdict import Verdict, judge
from distill_mtl.tasks.base import build_kind

SETS = 1000
SIZES = [500, *(pytest.param(size, marks=pytest.mark.slow) for size in (1000, 2000))]
RIGHT, LABELLED, PREDICTED = range(3)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def accuracy_intervals(differences: np.ndarray, rows: int, *, resamples: int = 1000, seed: int = 1) -> Tensor:
    """[2, sets]: of differences [sets, groups], each the rows right by the student less those by the teacher."""
    groups = differences.shape[1]
    drawn = draw_counts(generator(seed), resamples, groups)
    return percentiles(100 * (drawn @ torch.from_numpy(differences.T.astype(float))) / rows, groups)


def covers_zero(intervals: Tensor) -> float:
    low, high = intervals
    return float(((low <= 0) & (high >= 0)).double().mean())


def discordant(chance: np.ndarray, way: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """1 where the student alone is right, -1 where the teacher alone is, else 0."""
    return np.where(draws.random(chance.shape) < chance, way, 0)


def test_the_simulation_scores_what_the_evaluation_does() -> None:
    """The interval of one drawn set, from `paired_interval` and from the parts that the simulations use."""
    draws = generator(5)
    difference = discordant(np.full((1, 400), 0.2), draws.choice((-1, 1), (1, 400)), draws)
    student, teacher = (torch.from_numpy(sign * difference[0] > 0).double() for sign in (1, -1))
    kind = build_kind("classification", ("a", "b"))
    rest = torch.tensor([1.0, 0.0]).expand(400, 2)
    found = paired_interval(
        [f"{row:03d}" for row in range(400)],
        torch.cat([student[:, None], rest], 1),
        torch.cat([teacher[:, None], rest], 1),
        kind.score,
        resamples=300,
        seed=7,
    )
    assert found == pytest.approx(accuracy_intervals(difference, 400, resamples=300, seed=7)[:, 0].tolist())


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_accuracies_that_are_equal_are_found_so(rows: int, share: float) -> None:
    draws = generator(rows)
    shape = (SETS, rows)
    differences = discordant(np.full(shape, share), draws.choice((-1, 1), shape), draws)
    assert 0.93 <= covers_zero(accuracy_intervals(differences, rows)) <= 0.97


@pytest.mark.parametrize("rows", SIZES)
def test_so_are_those_of_rows_in_groups(rows: int) -> None:
    """Groups of four rows: some are hard, and whoever is better at a group's rows is so at all of them."""
    draws = generator(rows)
    groups = (SETS, rows // 4)
    chance = np.where(draws.random(groups) < 0.25, 0.25, 0.05).repeat(4, axis=1)
    way = draws.choice((-1, 1), groups).repeat(4, axis=1)
    differences = discordant(chance, way, draws)
    by_group = differences.reshape(*groups, 4).sum(2)
    assert 0.93 <= covers_zero(accuracy_intervals(by_group, rows)) <= 0.97
    as_rows = covers_zero(accuracy_intervals(differences, rows, resamples=300))
    assert as_rows < 0.93  # had they been taken for independent


@pytest.mark.parametrize("rows", SIZES)
def test_mcnemar_s_test_by_groups_refuses_equal_accuracies_as_often_as_it_says(rows: int) -> None:
    """The groups of the test above. A p below 0.05 stands for a difference in 5 % of the sets; taken for independent
    rows, it would in more."""
    draws = generator(rows)
    groups = (SETS, rows // 4)
    chance = np.where(draws.random(groups) < 0.25, 0.25, 0.05).repeat(4, axis=1)
    way = draws.choice((-1, 1), groups).repeat(4, axis=1)
    differences = torch.from_numpy(discordant(chance, way, draws))
    names = [f"{row // 4:04d}" for row in range(rows)]
    found = [mcnemar(each > 0, each < 0, names) for each in differences]
    assert {each.test for each in found} == {"clustered"}
    assert 0.03 <= np.mean([each.p < 0.05 for each in found]) <= 0.07
    as_rows = [
        binomtest(each.student_only, each.student_only + each.teacher_only).pvalue < 0.05 for each in found
    ]
    assert np.mean(as_rows) > 0.07


@pytest.mark.parametrize("images", SIZES)
def test_so_are_those_of_pixels_by_image(images: int) -> None:
    """miou of three classes, the third in one image of five; an image's difficulty is the same for both networks."""
    draws = generator(images)
    kind = build_kind("segmentation", ("ground", "plant", "sign"))
    drawn = draw_counts(generator(1), 400, images)
    covered = 0.0
    for _ in range(10):
        many = SETS // 10
        there = np.stack([np.full((many, images), True)] * 2 + [draws.random((many, images)) < 0.2], axis=2)
        pixels = draws.integers(10, 200, there.shape) * there
        right = np.clip(draws.normal(0.8, 0.12, (many, images, 1)) - [0.0, 0.05, 0.2], 0.02, 0.98)
        scores = []
        for _ in ("student", "teacher"):
            hits = draws.binomial(pixels, right)
            misses = pixels - hits
            predicted = hits + np.roll(misses, 1, axis=2)  # for the class before
            counts = np.concatenate([hits, pixels, predicted], axis=2).astype(float)
            totals = drawn @ torch.from_numpy(counts.transpose(1, 0, 2).reshape(images, -1))
            scores.append(kind.score_totals(totals.view(len(drawn), many, 9)))
        covered += many * covers_zero(percentiles(scores[0] - scores[1], images))
    assert 0.93 <= covered / SETS <= 0.97


def outcome(student_only: int, teacher_only: int, rows: int, draws: np.random.Generator) -> TaskResult:
    """A measured set, from how many rows each network alone gets right: resampled rows are of three sorts."""
    shares = [student_only / rows, teacher_only / rows, 1 - (student_only + teacher_only) / rows]
    resampled = draws.multinomial(rows, shares, size=500)
    low, high = percentiles(torch.from_numpy(100 * (resampled[:, 0] - resampled[:, 1]) / rows), rows).tolist()
    delta = 100 * (student_only - teacher_only) / rows
    return TaskResult(
        kind="classification",
        metric="accuracy",
        higher_is_better=True,
        rows=rows,
        groups=rows,
        teacher=80.0,
        student=80.0 + delta,
        delta=delta,
        ci95=(low, high),
    )


def verdict(result: TaskResult) -> Verdict:
    assert result.delta is not None
    return judge(result.delta, result.ci95, result.rows, 1.0, "interval")


def test_a_loss_of_twice_the_margin_is_found_in_twenty_thousand_rows() -> None:
    """10 % discordant rows, 2 points lost."""
    rows, decisions, draws = 20_000, [], generator(3)
    drawn = draw_counts(generator(4), 400, rows)
    for _ in range(10):
        way = np.where(draws.random((SETS // 10, rows), dtype=np.float32) < 0.4, 1, -1)
        differences = discordant(np.full(way.shape, 0.1, np.float32), way, draws)
        low, high = percentiles(100 * (drawn @ torch.from_numpy(differences.T.astype(float))) / rows, rows)
        deltas = 100 * differences.mean(1)
        for delta, ends in zip(deltas, torch.stack([low, high], 1).tolist(), strict=True):
            result = TaskResult(
                kind="classification",
                metric="accuracy",
                higher_is_better=True,
                rows=rows,
                groups=rows,
                teacher=80.0,
                student=80.0 + delta,
                delta=delta,
                ci95=(ends[0], ends[1]),
            )
            decisions.append(verdict(result).decision)
    assert decisions.count("inferior") >= 0.95 * SETS
    assert "non-inferior" not in decisions


@pytest.mark.parametrize("loss", [0.0, 2.5])
def test_as_many_more_rows_as_it_says_decide_nine_times_of_ten(loss: float) -> None:
    """Sets of 1,000 rows, 10 % discordant, judged by a margin of 1 point; then larger ones whose truth is what was
    measured on them: all rows new, or only the additional ones."""
    rows, draws = 1000, generator(int(10 * loss))
    shares = [0.05 - loss / 200, 0.05 + loss / 200, 0.9]
    anew, added, fewer = [], [], []
    for student_only, teacher_only, rest in draws.multinomial(rows, shares, size=400):
        first = verdict(outcome(student_only, teacher_only, rows, draws))
        if first.rows_to_decide is None or first.rows_to_decide > 10**6:
            continue
        more = first.rows_to_decide
        measured = [student_only / rows, teacher_only / rows, rest / rows]
        for found, size, before in (
            (anew, rows + more, (0, 0)),
            (added, more, (student_only, teacher_only)),
            (fewer, rows + more // 4, (0, 0)),
        ):
            mine, theirs, _ = draws.multinomial(size, measured)
            whole = outcome(mine + before[0], theirs + before[1], size + rows * any(before), draws)
            found.append(verdict(whole).decision != "undecided")
    assert len(anew) > 100
    assert 0.85 <= np.mean(anew) <= 0.95
    assert np.mean(added) >= 0.85
    assert np.mean(fewer) < 0.7
