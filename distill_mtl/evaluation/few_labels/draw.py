"""Which rows of an unlabelled set are asked: a weighted draw without replacement, whose chances are kept."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill_mtl.splitmix import fold, uniforms

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EVEN = 0.2
"""Share of each draw that is spread evenly over all rows, whatever their size."""


class Draw(NamedTuple):
    """Rows in the order in which they were drawn.

    Attributes:
        rows: positions among all rows.
        chances: of each, at its draw, among the rows that were not drawn before.
    """

    rows: list[int]
    chances: list[float]


def draw(chances: Floats, number: int, *names: str | int) -> Draw:
    """Draw rows one after the other, each with a chance in proportion to its own among those that are left.

    By Efraimidis & Spirakis (2006, "Weighted random sampling with a reservoir", Information Processing Letters 97(5)):
    the rows with the smallest E / chance, for E exponential, in their order. A longer draw of the same names begins
    with a shorter one.

    Args:
        chances: float64 [N], 0 for a row that is never drawn; any sum.
        number: of rows; fewer where fewer can be drawn.
        names: what the random numbers are for: the seed and the task. The same names draw the same rows on every
            machine.
    """
    weights = np.where(chances > 0, chances, 0.0)
    waits = -np.log1p(-uniforms(fold("few labels", *names, np.arange(len(weights))), 1)[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.where(weights > 0, waits / weights, np.inf), kind="stable")
    return _with_chances(weights, order[: min(number, int(np.count_nonzero(weights)))])


def within(drawn: Draw, chances: Floats, some: Bools) -> Draw:
    """The part of a draw that fell among some rows. It is a draw from these: no row's wait depends on another's.

    Args:
        drawn: from all rows.
        chances: float64 [N], that it was drawn by.
        some: bool [N].
    """
    rows = np.array([row for row in drawn.rows if some[row]], dtype=np.int64)
    return _with_chances(np.where(some, chances, 0.0), rows)


def _with_chances(weights: Floats, rows: NDArray[np.int64]) -> Draw:
    drawn = weights[rows]
    left = drawn[::-1].cumsum()[::-1] + np.delete(weights, rows).sum()
    return Draw(rows.tolist(), (drawn / left).tolist())


def draw_chances(sizes: Floats) -> Floats:
    """The chance of each row at the first draw: by size, and for `EVEN` of the draw alike.

    A size is a guess of how much a row can change the difference of two scores. The best chances are in proportion
    to it (Hansen & Hurwitz 1943, Annals of Mathematical Statistics 14(4)); the even part bounds each row's weight
    where the guess is wrong (defensive mixtures: Hesterberg 1995, Technometrics 37(2), section 2.2). It is the floor
    that keeps estimates unbiased: every row can be drawn.

    Args:
        sizes: float64 [N], 0 or more.
    """
    even = np.full(len(sizes), 1 / max(1, len(sizes)))
    total = float(sizes.sum())
    return even if total <= 0 else (1 - EVEN) * sizes / total + EVEN * even


def shares(number: int, most: dict[str, int]) -> dict[str, int]:
    """Labels for each task: alike, and what a task has no rows for goes to the others.

    Args:
        number: of labels in all.
        most: task -> rows that could be asked.
    """
    given = dict.fromkeys(most, 0)
    left = min(number, sum(most.values()))
    while left:
        hungry = [task for task in most if given[task] < most[task]]
        each = max(1, left // len(hungry))
        for task in hungry:
            taken = min(each, most[task] - given[task], left)
            given[task] += taken
            left -= taken
    return given
