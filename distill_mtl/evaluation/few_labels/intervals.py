"""Intervals of a mean from a growing sample: for a number of labels that was fixed before, and for any.

A confidence interval holds at one number of labels. A confidence sequence holds at all of them at once, so whoever
looks after each label and stops when the verdict is clear is not misled more often than the level says.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from distill_mtl.evaluation.bootstrap import LEVEL

Floats = NDArray[np.float64]
Ends = tuple[float, float]

LEAST = 30
"""Labels from which on the approximate sequence is shown: it is exact only in the limit."""
_TAIL = (1 - LEVEL) / 2
_STEPS = 800  # of the grid on which ends are looked for
_CAP = 0.75  # share of the wealth that a bet may lose
_LEAST_LOG = -700.0


def wealth(values: Floats, population: int, means: Floats, planned: int, sign: int) -> Floats:
    """The largest logarithm of the wealth of who bets that the mean of a finite population is not `means`.

    Waudby-Smith & Ramdas (2024, "Estimating means of bounded random variables by betting", Journal of the Royal
    Statistical Society B 86(1)), theorem 4 and section 5: sampling without replacement, with predictable bets
    (equation 26) whose size is best at half of the planned number. Where a mean is true, its wealth is a
    nonnegative martingale that begins at 1, and exceeds 1 / alpha with at most the chance alpha, at any time (Ville
    1939).

    Args:
        values: float64 [..., n] in [0, 1], in the order in which they were drawn, uniformly and without replacement.
        population: how many there are in all.
        means: float64 [..., M] of the population, as hypotheses, for each set of values.
        planned: how many values are to be drawn.
        sign: 1 bets that the mean is larger, -1 that it is smaller.

    Returns:
        float64 [..., M], over all numbers of values up to n.
    """
    shape = np.broadcast_shapes(values.shape[:-1], means.shape[:-1])
    log = np.zeros((*shape, means.shape[-1]))
    most = log.copy()
    seen, squares, variance = np.zeros(shape), np.full(shape, 0.25), np.full(shape, 0.25)
    horizon = max(1.0, planned / 2)
    for place in range(values.shape[-1]):
        value = values[..., place]
        # What the rest must have as its mean, if the hypothesis is true.
        rest = (population * means - seen[..., None]) / (population - place)
        room = rest if sign > 0 else 1 - rest
        wanted = np.sqrt(2 * math.log(1 / _TAIL) / (variance * horizon))[..., None]
        bet = np.minimum(wanted, _CAP / np.maximum(room, 1e-12))
        gain = np.log1p(sign * bet * (value[..., None] - rest).clip(-1, 1))
        impossible = np.where(room < -1e-9, math.inf, _LEAST_LOG)
        log = log + np.where((rest < -1e-9) | (rest > 1 + 1e-9), impossible, gain)
        most = np.maximum(most, log)
        seen = seen + value
        mean = (0.5 + seen) / (place + 2)
        squares = squares + (value - mean) ** 2
        variance = squares / (place + 2)
    return most


def bounded_sequence(values: Floats, population: int, planned: int) -> Ends:
    """The confidence sequence of the mean of a finite population, after these values; exact at any number of them.

    Args:
        values: float64 [n] in [0, 1], n >= 0, drawn uniformly without replacement, in their order.
        population: how many there are in all.
        planned: how many values are to be drawn.
    """
    means = np.linspace(0, 1, _STEPS + 1)
    limit = -math.log(_TAIL)
    low = means[wealth(values, population, means, planned, 1) < limit]
    high = means[wealth(values, population, means, planned, -1) < limit]
    step = 1 / _STEPS  # the true ends lie between two means of the grid
    return (
        float(max(low.min(initial=1.0) - step, 0.0)),
        float(min(high.max(initial=0.0) + step, 1.0)),
    )


def bounded_p(values: Floats, population: int, planned: int) -> float:
    """p of these values where the population's mean is 0.5, on both sides; it holds at any number of them.

    1 / wealth is such a p (Ramdas, Grünwald, Vovk & Shafer 2023, "Game-theoretic statistics and safe anytime-valid
    inference", Statistical Science 38(4), section 2).

    Args:
        values, population, planned: as for `bounded_sequence`.
    """
    half = np.array([0.5])
    most = max(float(wealth(values, population, half, planned, sign)[0]) for sign in (1, -1))
    return min(1.0, 2 * math.exp(-max(most, 0.0)))


def bounded_interval(plus: int, minus: int, rows: int, population: int) -> Ends:
    """The interval of the mean of numbers -1, 0 and 1 in a finite population, at a number of rows fixed before.

    Bonett & Price (2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", Journal of Educational and Behavioral Statistics 37(4)): a row is added to either side, so that few rows
    alike do not make an interval without width; with the correction for a finite population (Cochran 1977,
    "Sampling Techniques", equation 2.20), by which the added rows vanish too when all rows are known.

    Args:
        plus, minus: rows of 1 and of -1.
        rows: that were drawn, uniformly without replacement; at least 1.
        population: how many there are in all.
    """
    left = 1 - rows / population
    added = rows + 2 * left
    up, down = (plus + left) / added, (minus + left) / added
    reach = _NORMAL * math.sqrt(max(0.0, up + down - (up - down) ** 2) * left / added)
    middle, known, rest = up - down, plus - minus, population - rows
    return (
        max(middle - reach, (known - rest) / population),
        min(middle + reach, (known + rest) / population),
    )


def mean_interval(values: Floats) -> Ends | None:
    """Student's interval of the expectation that uncorrelated values [n] have in common; None: n < 2."""
    if len(values) < 2:
        return None
    reach = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - reach, float(values.mean()) + reach


def mean_sequence(values: Floats, planned: int) -> Ends | None:
    """The asymptotic confidence sequence of the expectation of values [n]; None below `LEAST`.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024, "Time-uniform central limit theory and asymptotic confidence
    sequences", Annals of Statistics 52(6)), theorem 2.2 with its proposition for martingale differences; narrowest at
    half of the planned number (their equation for rho). As the central limit theorem's intervals, it holds in the
    limit of many values.

    Args:
        values: float64 [n], each with the same expectation given those before it.
        planned: how many values there are to be.
    """
    count = len(values)
    if count < LEAST:
        return None
    rho = _rho(planned)
    scale = count * rho + 1
    reach = math.sqrt(2 * scale / (count**2 * rho) * math.log(math.sqrt(scale) / (1 - LEVEL)))
    reach *= float(values.std(ddof=1))
    return float(values.mean()) - reach, float(values.mean()) + reach


def mean_p(values: Floats, mean: float, planned: int) -> float | None:
    """p of these values where their expectation is 0: the largest level whose `mean_sequence` leaves 0 out.

    Args:
        values, planned: as for `mean_sequence`.
        mean: that the sequence is laid around.
    """
    count = len(values)
    if count < LEAST:
        return None
    spread, rho = float(values.std(ddof=1)), _rho(planned)
    if not spread:
        return 1.0
    scale = count * rho + 1
    return min(1.0, math.sqrt(scale) * math.exp(-((mean * count / spread) ** 2) * rho / (2 * scale)))


def _rho(planned: int) -> float:
    """Narrowest at half of the planned number, for the level of the intervals."""
    best = -2 * math.log(1 - LEVEL)
    return (best + math.log(best + 1)) / max(LEAST, planned / 2)


_NORMAL = float(ndtri((1 + LEVEL) / 2))
