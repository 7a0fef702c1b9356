"""The minimum-norm point where tasks are bounded by several others: a quadratic programme on inequalities.

Called by `min_norm` for preferences that no small set of edges describes. Proximal steps make the
programme strictly convex, its dual is a complementarity problem, and the face that the dual finds is
then solved exactly.
"""

import numpy as np
from numpy.typing import NDArray

from distill_mtl.balance.complementarity import complementary

Array = NDArray[np.float64]

PROXIMITY = 1e-4
"""Weight of the pull towards the last iterate, against a matrix with entries of order one."""
ITERATIONS = 30
TOLERANCE = 1e-11


def minimum_norm_in_cone(products: Array, rows: Array, needed: Array) -> tuple[Array, float]:
    """The weights z of sum 1 with rows·z ≥ 0 that minimise z·products·z.

    Minimised is x·R·x + (sizes·x - 1)² over the cone, whose minimum lies on the same ray: x = z · length, R
    is the Gramian in these units, and sizes are the inverse lengths, the largest of them 1.

    Args:
        products: Gramian [E, E].
        rows: [M, E], each with one positive entry.
        needed: [E, E]; column e is the least point of the cone whose entry e is 1.

    Returns:
        z, and by how much the optimality conditions of the scaled problem are violated, as a share of
        the norm of the point in it.
    """
    # A task is as long as what comes with it: a short one that drags a long one along counts as long.
    norms = np.sqrt(np.einsum("te,ts,se->e", needed, products, needed).clip(0))
    lengths = np.where(norms > 0, norms, norms.max() or 1.0)
    sizes = lengths.min() / lengths
    matrix = (products / lengths / lengths[:, None]) + sizes * sizes[:, None]
    scaled = rows / lengths
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    inverse = np.linalg.inv(matrix + PROXIMITY * np.eye(len(sizes)))
    dual = scaled @ inverse @ scaled.T
    unit = float(dual.diagonal().max())
    point, error = np.zeros(len(sizes)), np.inf
    for _ in range(ITERATIONS):
        pull = sizes + PROXIMITY * point
        free = scaled @ (inverse @ pull)
        forces = complementary(dual / unit, -free / unit, np.flatnonzero(free < 0))
        point = inverse @ (pull + scaled.T @ forces)
        exact, error = _on_face(matrix, sizes, scaled, forces > 0, point)
        if error <= TOLERANCE * max(1.0, float(np.abs(exact).max())):
            point = exact
            break
    weights = _feasible(point / lengths, rows)
    if not weights.sum() > 0:
        # Bounds between norms a hundred decades apart: any weights that keep them, and no certificate.
        weights, error = _feasible(np.ones(len(sizes)), rows), np.inf
    along = float(sizes @ point)
    inside = max(along * (1 - along), 0.0) ** 0.5  # the norm of the point in the scaled problem
    return weights / weights.sum(), error / inside if inside > 0 else 0.0


def _on_face(
    matrix: Array, sizes: Array, rows: Array, tight: NDArray[np.bool_], point: Array
) -> tuple[Array, float]:
    """The minimum on the face where the `tight` rows are 0, near `point`; and its largest violation."""
    basis = np.eye(len(sizes))
    if tight.any():
        _, values, directions = np.linalg.svd(rows[tight])
        basis = directions[int(np.count_nonzero(values > 1e-13)) :].T
    inside = basis.T @ matrix @ basis
    start = basis.T @ point
    step = np.linalg.pinv(inside, rcond=1e-13, hermitian=True) @ (basis.T @ sizes - inside @ start)
    found = basis @ (start + step)
    gradient = matrix @ found - sizes
    # Dependent rows leave the forces on them open: take those, if any, that all push inwards.
    held = rows[tight]
    forces = complementary(held @ held.T, held @ gradient, np.arange(len(held)))
    left = gradient - held.T @ forces
    error = max(float(np.abs(left).max()), -float((rows @ found).min()))
    return found, error


def _feasible(weights: Array, rows: Array) -> Array:
    """`weights` with the rounding on tight rows removed: each task raised to its bounds, a few times over."""
    weights = weights.clip(0)
    leading = rows > 0
    own, rest = np.where(leading, rows, 0.0), np.where(leading, 0.0, -rows)
    owner = leading.argmax(axis=1)
    for _ in range(len(weights)):
        needed = (rest @ weights) / own.sum(axis=1)
        raised = weights.copy()
        np.maximum.at(raised, owner, needed)
        if (raised == weights).all():
            break
        weights = raised
    return weights
