"""Frank-Wolfe for the minimum-norm point: what Sener & Koltun 2018 use, kept for comparison.

Called by `min_norm` for `method="frank_wolfe"` and `"pairwise"`. The exact solver is faster and has no
tolerance; these two stop when the duality gap, not the step, is small.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GAP = 1e-8
"""Duality gap at which to stop, as a share of the squared norm; bounds the excess norm by half of it."""
ITERATIONS = 2000
"""Conflicting gradients of very different norms may need more; the certificate then says how exact the point is."""


def frank_wolfe(products: Array, start: Array | None = None, *, pairwise: bool = False) -> Array:
    """Weights [T] of the (nearly) minimum-norm point.

    Args:
        products: Gramian [T, T].
        start: feasible weights; even ones if None.
        pairwise: move weight from the worst active task to the best one (Lacoste-Julien & Jaggi 2015,
            algorithm 2, converges linearly) instead of from all (Sener & Koltun 2018, algorithm 2).
    """
    products = products / (products.diagonal().max() or 1.0)
    count = len(products)
    weights = np.full(count, 1 / count) if start is None else start.copy()
    along = products @ weights
    for _ in range(ITERATIONS):
        best = int(along.argmin())
        square = float(weights @ along)
        if square - along[best] <= GAP * square:
            break
        if pairwise:
            worst = int(np.where(weights > 0, along, -np.inf).argmax())
            slope = along[worst] - along[best]
            curvature = products[best, best] + products[worst, worst] - 2 * products[best, worst]
            step = _line_search(slope, curvature, float(weights[worst]))
            weights[best] += step
            weights[worst] = 0.0 if step == weights[worst] else weights[worst] - step
            along += step * (products[best] - products[worst])
        else:
            slope = square - along[best]
            curvature = square + products[best, best] - 2 * along[best]
            step = _line_search(slope, curvature, 1.0)
            weights *= 1 - step
            weights[best] += step
            along += step * (products[best] - along)
    return weights.clip(0) / weights.clip(0).sum()


def _line_search(slope: float, curvature: float, longest: float) -> float:
    """The step along a line that minimises the norm, at most `longest`."""
    return longest if slope >= curvature * longest else slope / curvature
