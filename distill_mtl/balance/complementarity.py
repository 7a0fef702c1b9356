"""The linear complementarity problem behind a minimum-norm point, solved to the last digits.

Called by `min_norm` and `preferences` on problems whose scales were divided out first. Block principal
pivoting (Júdice & Pires 1994; Kim & Park 2011, algorithm 3) exchanges many indices at once and needs a
handful of small linear systems; where a singular matrix makes it falter, the active set method of
Lawson & Hanson (1974, chapter 23, on normal equations) takes over, which always ends.
"""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
RIDGE = 32 * EPS
"""Added to the diagonal of every linear system, and taken out again by one step of refinement. It picks
one of the many solutions that duplicate or dependent gradients have."""

PATIENCE = 1
"""Exchanges that may pass without fewer indices being wrong than ever before."""


def complementary(matrix: Matrix, target: Vector, start: NDArray[np.intp]) -> Vector:
    """The x ≥ 0 with matrix·x - target ≥ 0 and no product of the two above zero.

    That is the minimum over x ≥ 0 of x·matrix·x / 2 - target·x.

    Args:
        matrix: symmetric, positive semidefinite, [n, n], entries of order one.
        target: [n]; in the matrix's range, or the problem has no solution.
        start: the indices that are above zero at first.
    """
    x = _pivot(matrix, target, start)
    return _lawson_hanson(matrix, target) if x is None else x


def _pivot(matrix: Matrix, target: Vector, start: NDArray[np.intp]) -> Vector | None:
    """Block principal pivoting; None where it does not settle."""
    n = len(target)
    passive = np.zeros(n, dtype=bool)
    passive[start] = True
    fewest, patience = n + 1, PATIENCE
    while True:
        index = np.flatnonzero(passive)
        values = _solve(matrix, target[index], index)
        wrong = _slack(matrix, target, index, values) < -_noise(values)
        wrong[index] = values < 0
        count = int(np.count_nonzero(wrong))
        if count == 0:
            return _polished(matrix, target, index, values)
        if count < fewest:
            fewest, patience = count, PATIENCE
        elif patience > 0:
            patience -= 1
        else:
            return None
        passive ^= wrong


def _lawson_hanson(matrix: Matrix, target: Vector) -> Vector:
    """One index enters at a time and the objective falls each time, so that no set comes twice."""
    n = len(target)
    x = np.zeros(n)
    passive = np.zeros(n, dtype=bool)
    refused = np.zeros(n, dtype=bool)
    for _ in range(5 * n + 10):
        slack = np.where(passive | refused, np.inf, matrix @ x - target)
        entering = int(np.argmin(slack))
        if slack[entering] >= -_noise(x):
            break
        passive[entering] = True
        index, values = _feasible(matrix, target, x, passive, entering)
        if entering in index:
            refused[:] = False
        else:
            # The slack was rounding: the index cannot enter from here.
            refused[entering] = True
        x = np.zeros(n)
        x[index] = values
        passive[:] = False
        passive[index] = True
    index = np.flatnonzero(passive)
    polished = _polished(matrix, target, index, x[index]) if len(index) else None
    return x if polished is None else polished


def _feasible(
    matrix: Matrix, target: Vector, x: Vector, passive: NDArray[np.bool_], entering: int
) -> tuple[NDArray[np.intp], Vector]:
    """The minimum over the passive indices, leaving out those that would turn negative on the way."""
    x, passive = x.copy(), passive.copy()
    while True:
        index = np.flatnonzero(passive)
        values = _solve(matrix, target[index], index)
        negative = values <= 0
        if not negative.any():
            return index, values
        here = x[index]
        gap = np.where(negative, here - values, 1.0)
        steps = np.where(negative, here / np.where(gap > 0, gap, 1.0), np.inf)
        step = float(steps.min())
        x[index] = here + step * (values - here)
        leaving = index[(steps <= step) | (negative & (x[index] <= 0))]
        passive[leaving] = False
        x[leaving] = 0.0
        if not passive.any():
            return np.flatnonzero(passive), x[passive]


def _solve(matrix: Matrix, right: Vector, index: NDArray[np.intp]) -> Vector:
    block = matrix[index[:, None], index]
    block.flat[:: len(index) + 1] += RIDGE
    return np.asarray(np.linalg.solve(block, right), dtype=np.float64)


def _slack(matrix: Matrix, target: Vector, index: NDArray[np.intp], values: Vector) -> Vector:
    return matrix[:, index] @ values - target


def _noise(values: Vector) -> float:
    """What rounding alone puts on a slack."""
    return 32 * EPS * float(np.abs(values).sum())


def _polished(matrix: Matrix, target: Vector, index: NDArray[np.intp], values: Vector) -> Vector | None:
    """`values` with the ridge's bias taken out, on all indices; None where they do not solve the problem."""
    residual = target[index] - matrix[index[:, None], index] @ values
    values = np.maximum(values + _solve(matrix, residual, index), 0.0)
    slack = _slack(matrix, target, index, values)
    tolerance = 4 * _noise(values)
    if slack.min(initial=0.0) < -tolerance or np.abs(slack[index]).max(initial=0.0) > tolerance:
        return None
    x = np.zeros(len(target))
    x[index] = values
    return x
