"""Few labels: rows drawn with known chances, and what their answers say of all rows, over many drawn sets."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill_mtl.evaluation.few_labels import (
    Draw,
    Drawn,
    LabelledSet,
    LabelledSlice,
    LabelledTask,
    Proxies,
    draw,
    draw_chances,
    estimate,
    estimate_decided,
    shares,
    within,
)
from distill_mtl.evaluation.few_labels.intervals import (
    bounded_interval,
    bounded_p,
    bounded_sequence,
    mean_interval,
    mean_p,
    mean_sequence,
    wealth,
)
from distill_mtl.evaluation.result import Acceptance
from distill_mtl.tasks.base import TaskKind, build_kind

SETS = 1000
LIMIT = np.log(2 / 0.05)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_draw_is_the_same_each_time_and_a_longer_one_begins_with_it() -> None:
    chances = generator(0).random(50)
    some, more = draw(chances, 10, 3, "left"), draw(chances, 20, 3, "left")
    assert some == draw(chances, 10, 3, "left")
    assert more.rows[:10] == some.rows
    assert more.chances[:10] == pytest.approx(some.chances)
    assert len(set(more.rows)) == 20
    assert draw(chances, 10, 4, "left").rows != some.rows


def test_a_draw_takes_rows_as_often_as_its_chances_say() -> None:
    chances = np.array([0.0, 1.0, 2.0, 5.0])
    drawn = [draw(chances, 2, seed) for seed in range(4000)]
    first = np.bincount([each.rows[0] for each in drawn], minlength=4) / 4000
    assert first == pytest.approx(chances / 8, abs=0.03)
    said = {each.rows[0]: each.chances[0] for each in drawn}
    assert said == pytest.approx({1: 1 / 8, 2: 2 / 8, 3: 5 / 8})
    second = next(each for each in drawn if each.rows == [3, 1])
    assert second.chances[1] == pytest.approx(1 / 3)


def test_the_part_of_a_draw_that_falls_into_a_slice_is_a_draw_from_the_slice() -> None:
    chances, some = generator(1).random(50), generator(2).random(50) < 0.4
    part = within(draw(chances, 50, 3), chances, some)
    alone = draw(np.where(some, chances, 0.0), 50, 3)
    assert part.rows == alone.rows
    assert part.chances == pytest.approx(alone.chances)
    shorter = within(draw(chances, 20, 3), chances, some)
    assert 0 < len(shorter.rows) < len(alone.rows)
    assert shorter.chances == pytest.approx(alone.chances[: len(shorter.rows)])


def test_every_row_can_be_drawn_and_large_ones_more_often() -> None:
    chances = draw_chances(np.array([0.0, 0.0, 1.0, 3.0]))
    assert chances == pytest.approx([0.05, 0.05, 0.25, 0.65])
    assert draw_chances(np.zeros(4)) == pytest.approx([0.25] * 4)


def test_labels_are_shared_alike_among_the_tasks_that_have_rows_for_them() -> None:
    assert shares(300, {"a": 1000, "b": 1000, "c": 1000}) == {"a": 100, "b": 100, "c": 100}
    assert shares(300, {"a": 20, "b": 1000, "c": 1000}) == {"a": 20, "b": 140, "c": 140}
    assert shares(300, {"a": 0, "b": 7}) == {"a": 0, "b": 7}
    assert sum(shares(100, {"a": 50, "b": 50, "c": 50}).values()) == 100


# ---- accuracy: rows on which the networks differ -----------------------------------------------------
POPULATIONS = [(600, 0.4, 0.4), (600, 0.3, 0.6), (150, 0.4, 0.4), (2000, 0.05, 0.05)]


def outcomes(rows: int, plus: float, minus: float) -> NDArray[np.float64]:
    """Of all rows that differ: 1 where the student alone is right, -1 where the teacher alone is."""
    up, down = round(plus * rows), round(minus * rows)
    return np.concatenate([np.ones(up), -np.ones(down), np.zeros(rows - up - down)])


@pytest.mark.parametrize(("rows", "plus", "minus"), POPULATIONS)
@pytest.mark.parametrize("labels", [60, 120])
def test_intervals_of_a_fixed_number_of_labels_cover_as_they_say(
    rows: int, plus: float, minus: float, labels: int
) -> None:
    values = outcomes(rows, plus, minus)
    counts = [int((values > 0).sum()), int((values < 0).sum()), int((values == 0).sum())]
    drawn = generator(labels).multivariate_hypergeometric(counts, labels, size=SETS)
    ends = np.array([bounded_interval(up, down, labels, rows) for up, down, _ in drawn.tolist()])
    covered = (ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])
    assert 0.93 <= covered.mean() <= 0.98 if plus < 0.1 else 0.93 <= covered.mean() <= 0.97


@pytest.mark.parametrize(("rows", "plus", "minus"), POPULATIONS)
def test_whoever_looks_after_each_label_is_seldom_misled(rows: int, plus: float, minus: float) -> None:
    """The student loses as much as the margin allows; each label is looked at, and stopped at the first verdict."""
    values = outcomes(rows, plus, minus)
    draws = generator(rows)
    orders = draws.permuted(np.tile(values, (SETS, 1)), axis=1)[:, :120]
    truth = np.full((SETS, 1), (values.mean() + 1) / 2)
    for sign in (1, -1):
        most = wealth((orders + 1) / 2, rows, truth, 120, sign)[:, 0]
        assert (most >= LIMIT).mean() <= 0.025 + 0.010  # two standard errors


@pytest.mark.parametrize("lost", [0, 6, 12, 20])
def test_p_is_below_a_level_where_the_sequence_leaves_no_difference_out(lost: int) -> None:
    values = generator(lost).permutation(np.concatenate([-np.ones(lost), np.zeros(40), np.ones(2)]))
    low, high = bounded_sequence((values + 1) / 2, 300, 100)
    assert (bounded_p((values + 1) / 2, 300, 100) < 0.05) is (not low <= 0.5 <= high)
    ends = mean_sequence(values, 100)
    p = mean_p(values, float(values.mean()), 100)
    assert ends is not None
    assert p is not None
    assert (p < 0.05) is (not ends[0] <= 0 <= ends[1])
    assert mean_p(values[:20], 1.0, 100) is None


def test_slices_keep_the_interval_of_any_time_when_all_is_answered() -> None:
    right = torch.tensor([1.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    chances = [1 / 40, 1 / 39, 1 / 38, 1 / 37]
    ends = estimate_decided(right, 1000, Drawn(chances, 40, 4)).interval
    always = estimate_decided(right, 1000, Drawn(chances, 40, 4, anytime=True))
    assert always.anytime
    assert always.interval is not None
    assert ends is not None
    assert always.interval[0] < ends[0]
    assert always.interval[1] > ends[1]
    assert always.p == 1


def judged(p_holm: float, margins: dict[str, dict[str, float]]) -> LabelledSet:
    """A task that gains 0.5 points in all, and loses 4 in one slice."""
    asked = {"asked": 40, "answered": 40}
    night = LabelledSlice(
        name="night", pictures=100, population=60, delta=-4.0, ci95=(-7.0, -1.5), p_holm=p_holm, **asked
    )
    task = LabelledTask(
        kind="classification",
        metric="accuracy",
        higher_is_better=True,
        in_points=True,
        population=200,
        decided=True,
        agreement=0.9,
        asked=90,
        answered=90,
        delta=0.5,
        ci95=(-0.5, 1.5),
        slices=(night,),
    )
    acceptance = Acceptance("interval", {"hue": 1.0}, slices=margins)
    return LabelledSet(run="runs/A", pictures=900, unread=0, tasks={"hue": task}, acceptance=acceptance)


def test_a_loss_that_the_mean_hides_is_told_and_decides_where_the_slice_has_a_margin() -> None:
    hidden = judged(0.01, {})
    assert hidden.accepted
    assert list(hidden.hidden_losses) == ["hue in night"]
    assert not judged(0.2, {}).hidden_losses  # within chance
    refused = judged(0.01, {"night": {"hue": 1.0}})
    assert not refused.accepted
    assert refused.tasks["hue"].slices[0].verdict == "inferior"
    assert not refused.hidden_losses  # the verdict tells it
    assert judged(0.01, {"night": {"hue": 8.0}}).accepted


def test_the_sequence_closes_as_rows_run_out_and_ends_at_the_truth() -> None:
    values = generator(1).permutation(outcomes(80, 0.3, 0.5))
    widths = []
    for count in (0, 20, 40, 79, 80):
        low, high = bounded_sequence((values[:count] + 1) / 2, 80, 80)
        assert low <= (values.mean() + 1) / 2 <= high
        widths.append(high - low)
    assert widths[0] == 1
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.02  # steps of the grid on which ends are looked for


def test_accuracy_is_exact_where_all_rows_that_differ_are_labelled() -> None:
    right = torch.tensor([1.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    found = estimate_decided(right, 1000, Drawn([0.25, 1 / 3, 0.5, 1.0], 4, 4))
    assert (found.delta, found.interval, found.anytime) == (-0.1, (-0.1, -0.1), False)


def test_alike_answers_do_not_make_an_interval_without_width() -> None:
    right = torch.zeros(20, dtype=torch.float64)
    found = estimate_decided(right, 10_000, Drawn([0.01] * 20, 500, 20))
    assert found.interval is not None
    assert found.interval[0] < -0.2 < 0.2 < found.interval[1]


def test_before_the_first_answer_the_differing_rows_bound_the_difference() -> None:
    found = estimate_decided(torch.zeros(0, dtype=torch.float64), 10_000, Drawn([], 50, 30))
    assert (found.delta, found.interval, found.anytime) == (0.0, (-0.5, 0.5), True)


# ---- scores of sums: sizes and chances ---------------------------------------------------------------
def masks(seed: int, pictures: int, loss: float) -> tuple[TaskKind, torch.Tensor, torch.Tensor]:
    """miou of three classes, the third in one picture of five; statistics of student and teacher."""
    draws, kind = generator(seed), build_kind("segmentation", ("ground", "plant", "sign"))
    there = np.stack([np.ones(pictures, bool)] * 2 + [draws.random(pictures) < 0.2], 1)
    pixels = draws.integers(10, 200, there.shape) * there
    right = np.clip(draws.normal(0.8, 0.12, (pictures, 1)) - [0.0, 0.05, 0.2], 0.02, 0.98)
    both = draws.binomial(pixels, right)
    networks = []
    for less in (loss, 0.0):
        lost = draws.binomial(both, np.clip(0.3 * draws.beta(0.3, 3, (pictures, 1)) + less, 0, 1))
        hits = both - lost
        counts = [hits, pixels, hits + np.roll(pixels - hits, 1, 1)]
        networks.append(torch.from_numpy(np.concatenate(counts, 1).astype(float)))
    return kind, networks[0], networks[1]


def sizes(kind: TaskKind, student: torch.Tensor, teacher: torch.Tensor, seed: int) -> NDArray[np.float64]:
    """Guesses of how much each picture matters: off by a factor of up to two, and by a little everywhere."""
    apart = (kind.row_scores(student) - kind.row_scores(teacher)).abs().numpy()
    return apart * generator(seed).uniform(0.5, 2, len(apart)) + 0.05


def test_intervals_of_miou_cover_and_sizes_make_them_narrow() -> None:
    kind, student, teacher = masks(0, 4000, 0.01)
    truth = float(kind.score(student) - kind.score(teacher))
    covered, width = {}, {}
    for name, chances in (
        ("alike", np.full(4000, 1 / 4000)),
        ("sized", draw_chances(sizes(kind, student, teacher, 1))),
    ):
        ends = []
        for seed in range(250):
            drawn = draw(chances, 80, seed)
            rows = Drawn(drawn.chances, 4000, 80)
            found = estimate(kind, student[drawn.rows], teacher[drawn.rows], rows)
            assert found.interval is not None
            ends.append(found.interval)
        low, high = np.array(ends).T
        covered[name] = np.mean((low <= truth) & (truth <= high))
        width[name] = np.mean(high - low)
    assert 0.92 <= min(covered.values()) <= max(covered.values()) <= 0.98  # 250 sets: 0.95 ± 0.03
    assert width["sized"] < 0.8 * width["alike"]


def sequences(
    values: NDArray[np.float64], chances: NDArray[np.float64], seed: int, labels: int
) -> np.ndarray:
    """Estimates of the sum of `values` from each draw, which is all that a linear score needs."""
    drawn = draw(chances, labels, seed)
    seen = values[drawn.rows]
    return seen.cumsum() - seen + seen / np.array(drawn.chances)


def test_estimates_of_drawn_sums_are_unbiased_and_their_intervals_cover() -> None:
    draws = generator(3)
    size = draws.gamma(0.3, 1, 3000)
    values = size * draws.choice((-1, 1), 3000, p=(0.6, 0.4)) + draws.normal(0, 0.02, 3000)
    chances, truth = draw_chances(size), float(values.sum())
    by_draw = [sequences(values, chances, seed, 100) for seed in range(SETS)]
    means = np.array([each.mean() for each in by_draw])
    assert abs(means.mean() - truth) < 3 * means.std() / np.sqrt(SETS)
    ends = np.array([mean_interval(each) for each in by_draw])
    assert 0.93 <= np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) <= 0.97


def test_whoever_looks_often_at_a_drawn_sum_is_seldom_misled() -> None:
    draws = generator(4)
    size = draws.gamma(0.3, 1, 3000)
    values = size * draws.choice((-1, 1), 3000, p=(0.6, 0.4)) + draws.normal(0, 0.02, 3000)
    chances, truth = draw_chances(size), float(values.sum())
    low = high = 0
    for seed in range(400):
        by_draw = sequences(values, chances, seed, 200)
        ends = [mean_sequence(by_draw[:count], 200) for count in range(30, 201, 5)]
        low += any(each is not None and each[0] > truth for each in ends)
        high += any(each is not None and each[1] < truth for each in ends)
    assert max(low, high) / 400 <= 0.025 + 0.015  # two standard errors


def test_all_rows_give_the_score_itself() -> None:
    kind, student, teacher = masks(5, 60, 0.02)
    order = draw(np.full(60, 1.0), 60, 0)
    found = estimate(kind, student[order.rows], teacher[order.rows], Drawn(order.chances, 60, 60))
    truth = float(kind.score(student) - kind.score(teacher))
    assert found.interval == pytest.approx((truth, truth))


def test_too_few_answers_have_a_difference_and_no_interval() -> None:
    kind, student, teacher = masks(6, 500, 0.02)
    drawn = draw(np.full(500, 1.0), 20, 0)
    found = estimate(kind, student[drawn.rows], teacher[drawn.rows], Drawn(drawn.chances, 500, 90))
    assert found.interval is None
    assert found.anytime


@pytest.mark.parametrize("metric", ["r2", "mae", "rmse"])
def test_proxies_help_where_the_teacher_is_nearly_right_and_never_bias(metric: str) -> None:
    """Numbers that the teacher nearly knows; rows are drawn alike, so that the proxies have all to say."""
    draws, kind = generator(7), build_kind("regression", ("age",), metric)
    truth = torch.from_numpy(draws.normal(40, 15, (3000, 1)))
    teacher = truth + torch.from_numpy(draws.normal(0, 1, truth.shape))
    student = teacher + torch.from_numpy(draws.gamma(0.5, 6, truth.shape))
    mine, theirs = kind.statistics(student, truth), kind.statistics(teacher, truth)
    guessed = [kind.statistics(each, teacher) for each in (student, teacher)]
    totals = [each.sum(0) for each in guessed]
    sign = 1 if kind.higher_is_better else -1
    delta = sign * float(kind.score(mine) - kind.score(theirs))
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for seed in range(120):
        drawn: Draw = draw(np.ones(3000), 60, seed)
        rows = Drawn(drawn.chances, 3000, 60)
        proxies = Proxies(guessed[0][drawn.rows], guessed[1][drawn.rows], totals[0], totals[1])
        for powered in (True, False):
            one = estimate(kind, mine[drawn.rows], theirs[drawn.rows], rows, proxies if powered else None)
            assert one.interval is not None
            found[powered].append(one.interval)
    low, high = np.array(found[True]).T
    assert np.mean((low <= delta) & (delta <= high)) >= 0.9
    plain = np.array(found[False])
    assert np.mean(high - low) < 0.7 * np.mean(plain[:, 1] - plain[:, 0])


def test_a_kind_whose_statistics_cannot_be_summed_is_estimated_by_weights() -> None:
    """Attributes: the error is a mean over rows, so alike rows and weights give its mean."""
    kind = build_kind("multilabel", ("a", "b"), "error")
    draws = generator(8)
    labels = torch.from_numpy(draws.integers(0, 2, (400, 2)))
    logits = [torch.from_numpy(draws.normal(0, 1, (400, 2))) + labels - 0.5 for _ in range(2)]
    student, teacher = (kind.statistics(each, labels) for each in logits)
    truth = -float(kind.score(student) - kind.score(teacher))
    drawn = draw(np.ones(400), 200, 1)
    found = estimate(kind, student[drawn.rows], teacher[drawn.rows], Drawn(drawn.chances, 400, 200))
    assert found.interval is not None
    assert found.interval[0] < truth < found.interval[1]
