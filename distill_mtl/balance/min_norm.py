"""The minimum-norm point of the convex hull of T gradients, from their Gramian: MGDA's subproblem.

Its direction is the one that hurts no task (Désidéri 2012; Sener & Koltun 2018, equation 3). `mgda` and
`mgda_ub` call `solve`, which needs nothing but a Gramian.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from distill_mtl.balance.complementarity import EPS, complementary
from distill_mtl.balance.frank_wolfe import frank_wolfe
from distill_mtl.balance.polyhedral import minimum_norm_in_cone
from distill_mtl.balance.preferences import Bound, cone

Array = NDArray[np.float64]
Method = Literal["exact", "frank_wolfe", "pairwise"]


@dataclass(frozen=True)
class MinNorm:
    """A minimum-norm point v = Σ weight · gradient, with its certificate.

    Attributes:
        weights: float64 [T] on the CPU, never negative, of sum 1.
        norm: ‖v‖; 0 says that the gradients are Pareto-stationary. NaN for a Gramian that is not finite.
        residual: max over t of (‖v‖² - ⟨g_t, v⟩) / (‖g_t‖ ‖v‖): how far v is from optimal, whatever the
            scales; rounding (some 1e-16) for the exact method. With preferences t runs over the
            corners of the set of weights that they leave, or, where a task is bounded by several others,
            the residual is the violation of that programme's optimality conditions. 0 where ‖v‖ is below
            what a float64 Gramian can tell from 0; infinite if a zero gradient has too little weight.
        active: indices of the tasks with a weight above 0.
    """

    weights: Tensor
    norm: float
    residual: float
    active: tuple[int, ...]


def solve(
    gramian: Tensor | ArrayLike,
    *,
    preferences: Sequence[tuple[int, float, int]] | None = None,
    warm_start: Tensor | ArrayLike | None = None,
    method: Method = "exact",
) -> MinNorm:
    """The weights λ ≥ 0 of sum 1 that minimise ‖Σ λ_t g_t‖.

    The exact method divides the gradients' norms out, which makes it indifferent to how far apart they
    are, and solves the complementarity problem that is left. Where several weights give the same point
    (duplicate or dependent gradients) it returns one of them. A zero gradient makes the point 0: it
    takes all the weight, shared evenly with other zero gradients. Where the Gramian holds NaN or inf the
    weights are even, whatever the preferences, and norm and residual are NaN.

    Args:
        gramian: [T, T], the inner products of the gradients. Moved to the CPU in one copy.
        preferences: triples (i, c, j) for λ_i ≥ c·λ_j. The point is then the shortest among the weights
            they allow, which hurts none of the mixtures at that set's corners.
        warm_start: weights [T] to start from, such as the last step's; speeds up, changes no result.
        method: "exact", or "frank_wolfe" (Sener & Koltun 2018, algorithm 2) or its "pairwise" variant,
            which stop at a duality gap of 1e-8 of the squared norm or after 2,000 iterations.

    Raises:
        ValueError: not a Gramian, an unknown method, preferences that no weights satisfy, or Frank-Wolfe
            with preferences where a task is bounded by several others.
    """
    if method not in get_args(Method):
        raise ValueError(f"method is one of {list(get_args(Method))}, got {method!r}")
    products = _as_gramian(gramian)
    count = len(products)
    allowed = cone(count, tuple(Bound(*bound) for bound in preferences)) if preferences else None
    if not np.isfinite(products).all():
        even = torch.full((count,), 1 / count, dtype=torch.float64)
        return MinNorm(even, float("nan"), float("nan"), tuple(range(count)))
    start = None if warm_start is None else _as_start(warm_start, count)
    if allowed is None:
        return _certified(products, _on_simplex(products, start, method))
    if allowed.edges is not None:
        edges = allowed.edges
        if start is not None:
            start = np.linalg.lstsq(edges, start, rcond=None)[0].clip(0)
            start = start / start.sum() if start.sum() > 0 else None
        weights = edges @ _on_simplex(edges.T @ products @ edges, start, method)
        return _certified(products, weights, edges)
    if method != "exact":
        raise ValueError(f"{method} needs preferences that bound each task by at most one other; use 'exact'")
    ties = allowed.ties
    weights, residual = minimum_norm_in_cone(ties.T @ products @ ties, allowed.rows, allowed.needed)
    return replace(_certified(products, ties @ weights), residual=residual)


def _on_simplex(products: Array, start: Array | None, method: Method) -> Array:
    """Weights of the minimum-norm point of the hull of gradients with these products."""
    if method == "exact":
        return _exact(products, start)
    return frank_wolfe(products, start, pairwise=method == "pairwise")


def _exact(products: Array, start: NDArray[np.generic] | None) -> Array:
    """With x = weight · norm and the correlations R, the optimality conditions read

        x ≥ 0,   R x - sizes · (1 - sizes·x) ≥ 0,   complementary,

    where sizes are the inverse norms, the largest of them 1: entries of order one whatever the norms,
    and solvable even where the minimum is 0.
    """
    norms = np.sqrt(products.diagonal().clip(0))  # opposite tasks that preferences tie may round below 0
    shortest = int(norms.argmin())
    if norms[shortest] == 0:
        zero = (norms == 0).astype(np.float64)
        return zero / zero.sum()
    unserved = products[shortest] < products[shortest, shortest]
    if not unserved.any():
        weights = np.zeros(len(norms))
        weights[shortest] = 1.0
        return weights
    sizes = norms[shortest] / norms
    matrix = (products / norms / norms[:, None]).clip(-1, 1)
    matrix.flat[:: len(norms) + 1] = 1.0
    matrix += sizes * sizes[:, None]
    if start is None:
        # The first exchange by hand: the shortest gradient, and those that it does not serve in full.
        unserved[shortest] = True
        start = unserved
    weights = sizes * complementary(matrix, sizes, np.flatnonzero(start))
    return weights / weights.sum()


def _as_gramian(gramian: Tensor | ArrayLike) -> Array:
    if isinstance(gramian, Tensor):
        gramian = gramian.detach().to("cpu", torch.float64).numpy()
    products = np.asarray(gramian, dtype=np.float64)
    if products.ndim != 2 or products.shape[0] != products.shape[1] or len(products) == 0:
        raise ValueError(f"a Gramian is a square matrix of at least one task, got shape {products.shape}")
    if (products.diagonal() < 0).any():
        raise ValueError("a Gramian has no negative number on its diagonal")
    return (products + products.T) / 2


def _as_start(weights: Tensor | ArrayLike, count: int) -> Array:
    start = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights, dtype=np.float64)
    if start.shape != (count,) or not np.isfinite(start).all() or start.min() < 0 or start.sum() <= 0:
        raise ValueError(f"warm_start needs {count} finite weights that are not negative, got {start}")
    return start / start.sum()


def _certified(products: Array, weights: Array, edges: Array | None = None) -> MinNorm:
    """The answer with its certificate; `edges` are the corners of the set of weights, if not the tasks."""
    lengths = np.sqrt(products.diagonal())
    along = products @ weights
    square = max(float(weights @ along), 0.0)
    norm = square**0.5
    floor = 4 * len(weights) * EPS * float(weights @ lengths) ** 2
    residual = 0.0
    if square > floor:
        if edges is not None:
            along = edges.T @ along
            lengths = np.sqrt(np.einsum("te,ts,se->e", edges, products, edges).clip(0))
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = float(((square - along) / (lengths * norm)).max())
    return MinNorm(torch.from_numpy(weights), norm, residual, tuple(np.flatnonzero(weights).tolist()))
