"""Means over seeds: intervals on drawn runs where the truth is known, and what they say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from result_toys import task_result
from scipy.stats import t

from distill_mtl.evaluation.result import TaskResult
from distill_mtl.evaluation.seeds import Parts, half_width, over_seeds, recipe_difference

DRAWS, ROWS = 1000, 400


def drawn(
    seeds: int, *, by_seed: float, by_row: float, both: float, draws: np.random.Generator
) -> np.ndarray:
    """Scores of rows [draws, seeds, rows] around 0, of which a part is the seed's, one the row's and one of both."""
    return (
        by_seed * draws.standard_normal((DRAWS, seeds, 1))
        + by_row * (draws.exponential(size=(DRAWS, 1, ROWS)) - 1)
        + both * draws.standard_normal((DRAWS, seeds, ROWS))
    )


def parts_of(scores: np.ndarray, groups: int = ROWS) -> Parts:
    """Of one draw [seeds, rows]; the bootstrap's error of a mean in closed form."""
    seeds = len(scores)
    return Parts(
        seeds,
        float(scores.mean(1).var(ddof=1)) / seeds,
        float(scores.mean(0).var()) / scores.shape[1],
        groups,
    )


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("by_seed", "by_row", "both"), [(1.0, 1.0, 0.0), (0.05, 1.0, 0.5), (0.02, 1.0, 2.0), (0.2, 0.5, 1.0)]
)
def test_the_interval_over_rows_and_seeds_holds_as_often_as_it_says(
    seeds: int, by_seed: float, by_row: float, both: float
) -> None:
    """Or more often, where what a seed does to single rows counts twice."""
    scores = drawn(seeds, by_seed=by_seed, by_row=by_row, both=both, draws=np.random.default_rng(seeds))
    held = [abs(one.mean()) <= half_width(parts_of(one)) for one in scores]
    assert 0.93 <= np.mean(held) <= 1.0 if both else 0.93 <= np.mean(held) <= 0.98


def test_a_normal_quantile_or_rows_alone_would_hold_too_rarely() -> None:
    scores = drawn(3, by_seed=0.2, by_row=1.0, both=0.2, draws=np.random.default_rng(7))
    normal, rows_alone = [], []
    for one in scores:
        parts = parts_of(one)
        normal.append(abs(one.mean()) <= 1.96 * (parts.over_seeds + parts.over_rows) ** 0.5)
        rows_alone.append(abs(one[0].mean()) <= 1.96 * (one[0].var() / ROWS) ** 0.5)
    assert np.mean(normal) < 0.9
    assert np.mean(rows_alone) < 0.5


@pytest.mark.parametrize("seeds", [3, 5])
def test_two_recipes_that_are_equal_are_seldom_told_apart(seeds: int) -> None:
    draws = np.random.default_rng(seeds)
    apart = 0
    for one, other in zip(
        *(drawn(seeds, by_seed=0.1, by_row=0.5, both=0.5, draws=draws) for _ in range(2)), strict=True
    ):
        lead = (one - other).mean(0)
        rows = Parts(1, 0.0, float(lead.var()) / ROWS, ROWS)
        half = half_width(
            *(Parts(seeds, parts_of(each).over_seeds, 0.0, ROWS) for each in (one, other)), rows
        )
        apart += abs(lead.mean()) > half
    assert apart / DRAWS <= 0.05


def test_of_seeds_alone_the_interval_is_students() -> None:
    half = half_width(Parts(4, 0.25, 0.0, 100))
    assert half == pytest.approx(float(t.ppf(0.975, 3)) * 0.5)


def results(
    deltas: Sequence[float], *, swing: float = 0.1, drawn_from: str = "rows", **changes: Any
) -> dict[int, TaskResult]:
    """Seed -> a result whose resampled deltas swing around the measured one."""
    waves = np.sin(np.arange(200))
    return {
        seed: task_result(
            delta,
            resampled=tuple((delta + swing * waves).tolist()),
            drawn_from=drawn_from,
            ci95=(delta - 2 * swing, delta + 2 * swing),
            margin=1.0,
            **changes,
        )
        for seed, delta in enumerate(deltas)
    }


def test_mean_spread_and_verdict_by_hand() -> None:
    found = over_seeds(results([0.4, 0.2, 0.0]), "interval")
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    assert found.spread == pytest.approx(0.2)
    assert found.verdict == "non-inferior"
    assert found.ci95[1] - found.mean == pytest.approx(found.mean - found.ci95[0])
    assert (
        0.2 < found.ci95[1] - found.mean < 0.5 * 1.2
    )  # between rows alone and seeds alone with all of t's width
    wide = over_seeds(results([2.0, 0.2, -1.6]), "interval")
    assert wide.verdict == "undecided"  # each seed's own interval decides, their mean does not
    assert over_seeds(results([2.0, 0.2, -1.6]), "point").verdict == "non-inferior"


def test_of_one_seed_the_mean_is_its_own() -> None:
    (one,) = results([0.3]).values()
    found = over_seeds({5: one}, "interval")
    assert (found.mean, found.spread, found.ci95) == (0.3, None, one.ci95)


def test_runs_that_drew_other_rows_or_kept_none_get_the_widest_error() -> None:
    alike = over_seeds(results([0.4, 0.2, 0.0]), "interval")
    unknown = {
        seed: task_result(result.delta, ci95=result.ci95, margin=1.0)
        for seed, result in results([0.4, 0.2, 0.0]).items()
    }
    assert over_seeds(unknown, "interval").ci95[0] < alike.ci95[0]
    one_group = {seed: task_result(result.delta, ci95=None) for seed, result in unknown.items()}
    assert over_seeds(one_group, "interval").ci95 is None
    assert over_seeds(one_group, "interval").verdict == "undecided"


def test_a_task_without_a_teacher_has_no_mean_delta() -> None:
    assert over_seeds({0: task_result(None), 1: task_result(None)}, "interval") is None


@pytest.mark.parametrize(
    ("mine", "other", "finding"),
    [
        ([0.4, 0.0, -0.3], [0.1, -0.4, 0.2], "seeds"),
        ([2.1, 2.0, 1.9], [0.1, 0.0, -0.1], "better"),
        ([0.1, 0.0, -0.1], [2.1, 2.0, 1.9], "worse"),
        ([2.0], [0.1, 0.0, -0.1], "one seed"),
        ([2.0], [0.0], "one seed"),
    ],
)
def test_what_a_difference_of_two_recipes_says(mine: list, other: list, finding: str) -> None:
    found = recipe_difference(results(mine), results(other))
    assert found.finding == finding
    assert found.points == pytest.approx(np.mean(mine) - np.mean(other))


def test_rows_that_two_recipes_share_cancel_and_others_do_not() -> None:
    mine, other = results([2.1, 2.0, 1.9], swing=5.0), results([0.1, 0.0, -0.1], swing=5.0)
    paired = recipe_difference(mine, other)
    assert paired.finding == "better"
    apart = recipe_difference(mine, results([0.1, 0.0, -0.1], swing=5.0, drawn_from="others"))
    assert apart.finding == "rows"  # beyond what seeds do, and other rows may turn it


def test_two_students_that_answer_alike_on_these_rows_may_differ_on_others() -> None:
    found = recipe_difference(results([0.5]), results([0.5]))
    assert found.ci95 == (pytest.approx(-0.295, abs=0.001), pytest.approx(0.295, abs=0.001))  # of 1,250 rows


def test_one_seed_is_held_against_what_another_seed_of_the_other_recipe_would_give() -> None:
    several = results([0.2, 0.0, -0.2])
    inside, outside = recipe_difference(results([0.5]), several), recipe_difference(several, results([3.0]))
    half = float(t.ppf(0.975, 2)) * 0.2 * (4 / 3) ** 0.5
    assert inside.expected == (pytest.approx(-half), pytest.approx(half))
    assert (inside.lies_within, outside.lies_within) == (True, False)
    assert recipe_difference(results([1.0]), results([0.0])).expected is None
