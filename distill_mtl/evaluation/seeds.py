"""One recipe trained with several seeds: the mean of its deltas, and an interval over rows *and* seeds.

A run's own interval holds for its student: other rows would move the score so far. Another seed would have given
another student. Rows and seeds are crossed: every seed's student answers the same rows. So the variance of a mean
over S seeds is about the sum of two: of the mean under resampled rows, drawn alike for all seeds, and of the deltas
over seeds, divided by S. So the variance of a diagnostic study in which several readers see the same cases is taken
apart (Gallas 2006, "One-Shot Estimate of MRMC Variance: AUC", Academic Radiology 13(3)). What a seed does to single
rows is in both parts, so that the sum is a little too large, not too small. Few seeds know their variance badly: the
interval takes Student's quantiles, that of seeds and that of rows, each with the weight of its variance (Cochran
1964, "Approximate Significance Levels of the Behrens-Fisher Test", Biometrics 20(1)). Satterthwaite's degrees of
freedom of the whole sum hold too rarely for two seeds (0.88), a normal quantile for three
(`tests/evaluation/test_seeds.py`).
"""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit
from torch import Tensor

from distill_mtl.evaluation.bootstrap import LEVEL, unseen_difference
from distill_mtl.evaluation.result import Acceptance, Evaluation, TaskResult
from distill_mtl.evaluation.verdict import AcceptanceRule, Decision, judge

_KEPT = 200  # resamples of each run: they know an error to a twentieth
_DIGITS = 6
_NORMAL = float(ndtri((1 + LEVEL) / 2))

Finding = Literal["better", "worse", "seeds", "rows", "one seed"]
"""Of two recipes: the first is better or worse beyond chance; the difference is within what seeds do; it is beyond
that, but other rows may turn it; or one of them has one seed."""


def kept_resamples(deltas: Tensor) -> tuple[float, ...]:
    """What results.json keeps of the resampled deltas [S]; nothing where one is not finite."""
    some = deltas[:_KEPT]
    return tuple(float(f"{delta:.{_DIGITS}g}") for delta in some.tolist()) if some.isfinite().all() else ()


def groups_digest(groups: Sequence[str]) -> str:
    """Equal for runs whose resamples drew the same rows."""
    return hashlib.sha256("\n".join(sorted(set(groups))).encode(errors="surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Parts:
    """What the uncertainty of a mean over seeds is made of.

    Attributes:
        seeds: how many.
        over_seeds: variance of the mean from seeds.
        over_rows: variance of the mean from rows.
        groups: independent groups of rows.
    """

    seeds: int
    over_seeds: float
    over_rows: float
    groups: int


def half_width(*parts: Parts, rows: bool = True) -> float:
    """Half of the 95 % interval around a mean, or around a difference of two means whose rows' variance stands in one.

    Args:
        parts: of each mean; a part without variance adds nothing.
        rows: whether other rows are part of the question.
    """
    of_seeds = [(part.over_seeds, part.seeds - 1) for part in parts if part.over_seeds > 0]
    of_rows = [(part.over_rows, part.groups - 1) for part in parts if rows and part.over_rows > 0]
    sources = [_quantile(terms) for terms in (of_seeds, of_rows) if terms]
    total = sum(variance for variance, _ in sources)
    return sum(variance * quantile for variance, quantile in sources) / math.sqrt(total) if total else 0.0


def _quantile(terms: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The sum of variances, and Student's quantile with the degrees of freedom of such a sum (Welch 1947)."""
    total = sum(variance for variance, _ in terms)
    free = total**2 / sum(variance**2 / free for variance, free in terms)
    return total, float(stdtrit(free, (1 + LEVEL) / 2))


@dataclass(frozen=True)
class SeedMean:
    """One task of one recipe over its seeds.

    Attributes:
        deltas: seed -> student minus teacher.
        mean: of them.
        spread: their standard deviation; None for one seed.
        ci95: over rows and seeds; of one seed over rows alone. None where rows form one group.
        verdict: on the mean, by this interval.
    """

    deltas: Mapping[int, float]
    mean: float
    spread: float | None
    ci95: tuple[float, float] | None
    verdict: Decision | None


def over_seeds(results: Mapping[int, TaskResult], rule: AcceptanceRule) -> SeedMean | None:
    """A task's results by seed as one; None without a teacher.

    Args:
        results: seed -> result, on the same rows with the same margin.
        rule: of the acceptance.
    """
    deltas = {seed: result.delta for seed, result in results.items() if result.delta is not None}
    if not deltas or len(deltas) < len(results):
        return None
    listed = list(results.values())
    first, mean = listed[0], statistics.fmean(deltas.values())
    if len(deltas) == 1:
        return SeedMean(deltas, mean, None, first.ci95, first.verdict)
    spread = statistics.stdev(deltas.values())
    error = _rows_error(listed)
    ci95 = None
    if error is not None:
        half = half_width(Parts(len(deltas), spread**2 / len(deltas), error**2, first.groups))
        ci95 = (mean - half, mean + half)
    unmeasured = any(result.unmeasured for result in listed)
    verdict = "undecided" if unmeasured else judge(mean, ci95, first.rows, first.margin, rule).decision
    return SeedMean(deltas, mean, spread, ci95, verdict)


def _rows_error(results: Sequence[TaskResult], other: Sequence[TaskResult] = ()) -> float | None:
    """Standard error from rows of the mean delta, or of its lead over the mean of others; None: it is not known.

    From the resamples, where all runs drew the same rows. Else the mean of the runs' own errors, which is the most that
    the error of their mean can be, and for two means as if their rows were others.
    """
    listed = [*results, *other]
    drawn = {(result.drawn_from, len(result.resampled)) for result in listed}
    if len(drawn) == 1 and len(listed[0].resampled) > 1:
        lead = np.mean([result.resampled for result in results], 0)
        if other:
            lead = lead - np.mean([result.resampled for result in other], 0)
        groups = min(result.groups for result in listed)
        # Resamples vary by a variance over n groups where n - 1 is right.
        error = float(lead.std(ddof=1)) * math.sqrt(groups / max(groups - 1, 1))
        if error > 0 or other:
            return error
    if any(result.ci95 is None for result in listed):
        return None
    means = [
        statistics.fmean((result.ci95[1] - result.ci95[0]) / 2 / _NORMAL for result in some if result.ci95)
        for some in (results, other)
        if some
    ]
    return math.hypot(*means)


@dataclass(frozen=True)
class RecipeDifference:
    """By how much one recipe is ahead of another in one task.

    Attributes:
        points: mean delta of the first less that of the second.
        ci95: over rows and seeds, paired where both were measured on the same rows. One seed on a side adds nothing for
            seeds, so that the interval is of that student and not of its recipe. None: not known.
        finding: what it says.
        expected: where the second has one seed and the first several, or the other way round: between which deltas
            another seed of the one with several would lie in 19 of 20 cases, on these rows.
        lies_within: whether the delta of the single seed does.
    """

    points: float
    ci95: tuple[float, float] | None
    finding: Finding
    expected: tuple[float, float] | None = None
    lies_within: bool | None = None


def recipe_difference(
    mine: Mapping[int, TaskResult], other: Mapping[int, TaskResult]
) -> RecipeDifference | None:
    """Two recipes in one task, by seed; None where one has no teacher."""
    sides = [[result for result in each.values() if result.delta is not None] for each in (mine, other)]
    if not all(sides):
        return None
    deltas = [[result.delta or 0.0 for result in side] for side in sides]
    points = statistics.fmean(deltas[0]) - statistics.fmean(deltas[1])
    error = _rows_error(*sides)
    groups = min(result.groups for side in sides for result in side)
    parts = [
        Parts(len(each), statistics.variance(each) / len(each) if len(each) > 1 else 0.0, 0.0, groups)
        for each in deltas
    ]
    rows = Parts(1, 0.0, 0.0 if error is None else error**2, groups)
    half = half_width(*parts, rows)
    if error == 0 and half == 0 and sides[0][0].in_points:  # the rows do not differ, and others may
        half = unseen_difference(min(result.rows for side in sides for result in side))[1]
    ci95 = None if error is None else (points - half, points + half)
    if min(map(len, deltas)) == 1:
        return RecipeDifference(points, ci95, "one seed", *_expected(*sorted(deltas, key=len)))
    if abs(points) <= half_width(*parts, rows=False):
        return RecipeDifference(points, ci95, "seeds")
    if ci95 is None or ci95[0] <= 0 <= ci95[1]:
        return RecipeDifference(points, ci95, "rows")
    return RecipeDifference(points, ci95, "better" if points > 0 else "worse")


def _expected(
    alone: Sequence[float], several: Sequence[float]
) -> tuple[tuple[float, float] | None, bool | None]:
    """The prediction interval for one more of several deltas, normal ones (Hahn & Meeker 1991, chapter 4), and whether
    the single one lies in it."""
    if len(several) < 2:
        return None, None
    mean, count = statistics.fmean(several), len(several)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * statistics.stdev(several) * math.sqrt(1 + 1 / count)
    return (mean - half, mean + half), abs(alone[0] - mean) <= half


@dataclass(frozen=True)
class SeedRuns:
    """The runs of one recipe by seed.

    Attributes:
        runs: seed -> comparison of its student.
    """

    runs: Mapping[int, Evaluation]

    @property
    def tasks(self) -> dict[str, SeedMean]:
        """Task -> its deltas over seeds, of those with a teacher."""
        runs = list(self.runs.values())
        common = [task for task in runs[0].compared if all(task in run.tasks for run in runs)]
        found = {
            task: over_seeds({seed: run.tasks[task] for seed, run in self.runs.items()}, self.acceptance.rule)
            for task in common
        }
        return {task: mean for task, mean in found.items() if mean is not None}

    @property
    def accepted(self) -> bool:
        """Whether the mean of every task is non-inferior. Which student to deploy its own verdict says."""
        return all(mean.verdict in (None, "non-inferior") for mean in self.tasks.values())

    @property
    def acceptance(self) -> Acceptance:
        """Margins and rule, which all runs share."""
        return next(iter(self.runs.values())).acceptance
