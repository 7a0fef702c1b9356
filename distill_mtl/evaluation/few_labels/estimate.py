"""What the answers about drawn rows say of the difference of two networks' scores over all rows."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.evaluation.bootstrap import unseen_difference
from distill_mtl.evaluation.few_labels.intervals import (
    Ends,
    bounded_interval,
    bounded_p,
    bounded_sequence,
    mean_interval,
    mean_p,
    mean_sequence,
)
from distill_mtl.tasks.base import TaskKind

Floats = NDArray[np.float64]

_STEP = 1e-4  # of a weight, in shares of the largest one, for derivatives


class Drawn(NamedTuple):
    """How the answered rows were drawn.

    Attributes:
        chances: of each answered row, as `draw` gives them, in the order of the draw.
        population: rows that could be drawn.
        planned: how many were; known before the first answer, as the sequences need it.
        skipped: of them, those that nobody can answer.
        anytime: an interval is wanted that holds at any number of labels, also when no planned row is open: few rows
            are too few for one at a fixed number.
    """

    chances: list[float]
    population: int
    planned: int
    skipped: int = 0
    anytime: bool = False

    @property
    def exact(self) -> bool:
        """Every row that could be drawn is answered, so that nothing is left to chance."""
        return len(self.chances) >= self.population

    @property
    def complete(self) -> bool:
        """No planned row is open, so that the number of labels is fixed."""
        return not self.anytime and len(self.chances) + self.skipped >= self.planned


class Proxies(NamedTuple):
    """Statistics of rows with the teacher's answer in the label's place, for kinds whose statistics may be summed.

    Attributes:
        student, teacher: float64 [R, K], of the drawn rows, in their order.
        student_total, teacher_total: float64 [K], summed over all rows.
    """

    student: Tensor
    teacher: Tensor
    student_total: Tensor
    teacher_total: Tensor


@dataclass(frozen=True)
class Estimate:
    """A difference of scores over all rows, from some labels.

    Attributes:
        delta: positive where the student is better.
        interval: at 95 %. Where all planned rows are answered, for that number of labels; before, one that may be
            looked at after every label (a confidence sequence). None: too few answers.
        anytime: it is the latter.
        p: of so large a difference between networks that are alike on all rows, on both sides, valid at any number of
            labels; None: too few answers, or the interval is that of a fixed number.
    """

    delta: float
    interval: Ends | None
    anytime: bool = False
    p: float | None = None


def estimate(
    kind: TaskKind, student: Tensor, teacher: Tensor, drawn: Drawn, proxies: Proxies | None = None
) -> Estimate:
    """The difference of the kind's score over all rows.

    What is not linear in the statistics (mIoU is a mean of ratios of sums, r2 and rmse are more) is estimated by
    plugging in estimated sums, and its error by linearisation (the delta method; Binder 1983, "On the variances of
    asymptotically normal estimators from complex surveys", International Statistical Review 51(3)). Sums are
    estimated by Des Raj (1956, "Some estimators in sampling with varying probabilities without replacement", JASA
    51(274), equation 2): of the draw number t, the rows drawn before it plus its own divided by its chance. These
    are unbiased and uncorrelated, whatever the sizes that the chances were made from, so their spread gives an
    unbiased variance of their mean, which shrinks as the rows run out. Sums are unbiased; a ratio of sums is so in
    the limit of many labels alone, and so are its intervals.

    With proxies the estimate is prediction-powered: the sums of the proxies over all rows, plus the estimated sums
    of what labels change in them (Angelopoulos et al. 2023, "Prediction-powered inference", Science 382), times a
    weight in [0, 1] that makes the variance least (Angelopoulos, Duchi & Zrnic 2023, "PPI++", arXiv:2311.01453,
    section 6). The weight is 0 where proxies do not help.

    Args:
        kind: of the task.
        student, teacher: float64 [R, K], statistics of the answered rows, in the order of the draw.
        drawn: how they were drawn; at least one row.
        proxies: of the same rows; None: without.
    """
    score = _Score(kind, student, teacher, None if drawn.exact or not kind.additive else proxies)
    if drawn.exact:
        delta = float(score(np.ones((1, len(student))))[0])
        return _known(delta)
    chances = np.asarray(drawn.chances)
    count = len(chances)
    weights = (1 / chances + np.arange(count - 1, -1, -1)) / count
    power = 0.0
    if proxies is not None and kind.additive:
        values, guesses = score.influences(weights, power)
        power = _power(_by_draw(values, chances), _by_draw(guesses, chances))
    values, guesses = score.influences(weights, power)
    by_draw = _by_draw(values - power * guesses, chances)
    delta = float(score(score.weights(weights, power)[None])[0])
    anytime = not drawn.complete
    found = mean_sequence(by_draw, drawn.planned) if anytime else mean_interval(by_draw)
    if found is None:
        return Estimate(delta, None, anytime)
    middle = float(by_draw.mean())
    low, high = delta + found[0] - middle, delta + found[1] - middle
    if low == high and kind.in_points:  # what was never seen to differ may still do so
        low, high = unseen_difference(count)
    return Estimate(delta, (low, high), anytime, mean_p(by_draw, delta, drawn.planned) if anytime else None)


def estimate_decided(right: Tensor, pictures: int, drawn: Drawn) -> Estimate:
    """The difference of two shares of right rows, in points, where only rows on which the networks differ were drawn.

    On all others both are right or both are wrong, whatever the label, so they add nothing: the difference is the
    share of the rows that differ, times their mean of 1 (the student alone is right), -1 (the teacher alone) and 0.
    All of it holds exactly but the interval for a fixed number of labels, which is a very good approximation.

    Args:
        right: float64 [R], these numbers, in the order of the draw.
        pictures: rows in all.
        drawn: uniformly among the rows that differ.
    """
    values, population = right.numpy(), drawn.population
    scale = 100 * population / pictures
    delta = scale * float(values.mean()) if len(values) else 0.0
    if drawn.exact:
        return _known(delta)
    if drawn.complete:
        plus, minus = int((values > 0).sum()), int((values < 0).sum())
        low, high = bounded_interval(plus, minus, len(values), population)
        return Estimate(delta, (scale * low, scale * high))
    halves = (values + 1) / 2
    low, high = bounded_sequence(halves, population, drawn.planned)
    ends = scale * (2 * low - 1), scale * (2 * high - 1)
    return Estimate(delta, ends, True, bounded_p(halves, population, drawn.planned))


def _known(delta: float) -> Estimate:
    """Of a difference that nothing is left to chance of."""
    return Estimate(delta, (delta, delta), p=float(delta == 0))


class _Score:
    """The difference of scores as a function of how much each row counts: [S, rows] -> [S].

    Behind the answered rows stand the proxies of the same rows, and their sums over all rows as one more.
    """

    def __init__(self, kind: TaskKind, student: Tensor, teacher: Tensor, proxies: Proxies | None) -> None:
        self._kind, self._sign = kind, 1 if kind.higher_is_better else -1
        self._count, self._with_proxies = len(student), proxies is not None
        self._networks = [student, teacher]
        if proxies is not None:
            self._networks = [
                torch.cat([student, proxies.student, proxies.student_total[None]]),
                torch.cat([teacher, proxies.teacher, proxies.teacher_total[None]]),
            ]

    def __call__(self, weights: Floats) -> Floats:
        counted = torch.from_numpy(weights)
        mine, theirs = (self._kind.score(statistics, counted) for statistics in self._networks)
        return self._sign * (mine - theirs).numpy()

    def weights(self, rows: Floats, power: float) -> Floats:
        """Of all that stands in the statistics, for these weights of the answered rows."""
        return np.concatenate([rows, -power * rows, [power]]) if self._with_proxies else rows

    def influences(self, rows: Floats, power: float) -> tuple[Floats, Floats]:
        """By how much the difference changes with the weight of each row, and of each row's proxy (0 without any)."""
        base = self.weights(rows, power)
        count = self._count * (1 + self._with_proxies)
        step = _STEP * float(rows.max())
        moves = step * np.eye(count, len(base))
        slopes = (self(base + moves) - self(base - moves)) / (2 * step)
        return slopes[: self._count], slopes[self._count :] if self._with_proxies else np.zeros(self._count)


def _by_draw(values: Floats, chances: Floats) -> Floats:
    """[n]: Des Raj's estimate of the sum of the rows' values from each draw."""
    return values.cumsum() - values + values / chances


def _power(values: Floats, guesses: Floats) -> float:
    """The weight of the guesses that makes the variance of values less weighted guesses least."""
    spread = float(guesses.var())
    if len(values) < 2 or spread <= 0:
        return 0.0
    return float(np.clip(np.cov(values, guesses, bias=True)[0, 1] / spread, 0, 1))
