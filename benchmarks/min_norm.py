"""Accuracy and time of the minimum-norm solver beside TorchJD's MGDA and quadprog, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/min_norm.py [--draws 40]

Every solver sees the same Gramians, turn by turn. No solver is its own judge: the excess norm ‖v‖ / ‖v*‖ - 1
is measured against a lower bound of ‖v*‖ from duality, min_t ⟨g_t, u⟩ / ‖u‖, where u is refined in
extended precision. For the stationary family, where v* = 0, the excess is ‖v‖ / max ‖g_t‖ instead.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import quadprog
import torch
from torchjd.aggregation import MGDAWeighting

from distill_mtl.balance import solve

Array = np.ndarray


def random(rng: np.random.Generator, tasks: int) -> Array:
    """Independent directions with something in common."""
    return rng.standard_normal((tasks, 4 * tasks + 8)) + 0.3 * rng.standard_normal(4 * tasks + 8)


def log_normal(rng: np.random.Generator, tasks: int) -> Array:
    return random(rng, tasks) * rng.lognormal(0, 1.5, (tasks, 1))


def conflicting(rng: np.random.Generator, tasks: int) -> Array:
    """Cosines below zero between nearly all pairs, as far as that is possible without stationarity."""
    gradients = rng.standard_normal((tasks, 4 * tasks + 8))
    return gradients - 0.95 * gradients.mean(axis=0)


def spread(decades: float) -> Callable[[np.random.Generator, int], Array]:
    def family(rng: np.random.Generator, tasks: int) -> Array:
        exponents = rng.uniform(-decades / 2, decades / 2, (tasks, 1))
        exponents[0], exponents[-1] = -decades / 2, decades / 2
        return random(rng, tasks) * 10.0 ** rng.permutation(exponents)

    return family


def collinear(rng: np.random.Generator, tasks: int) -> Array:
    """Three directions only, many lengths of each."""
    directions = rng.standard_normal((3, 16))
    return directions[rng.integers(0, 3, tasks)] * rng.uniform(0.5, 2, (tasks, 1))


def duplicate(rng: np.random.Generator, tasks: int) -> Array:
    gradients = random(rng, max(1, (tasks + 1) // 2))
    return gradients[np.arange(tasks) % len(gradients)]


def huge(rng: np.random.Generator, tasks: int) -> Array:
    return log_normal(rng, tasks) * 1e6 * 65536


def rank_deficient(rng: np.random.Generator, tasks: int) -> Array:
    """Many tasks in few dimensions, all on one side of a plane."""
    gradients = rng.standard_normal((tasks, 6))
    gradients[:, 0] = np.abs(gradients[:, 0]) + 0.5
    return gradients


def stationary(rng: np.random.Generator, tasks: int) -> Array:
    """Zero lies in the hull: the least norm is what a float64 Gramian leaves of 0."""
    gradients = random(rng, tasks)
    gradients[-1] = -rng.dirichlet(np.ones(tasks - 1)) @ gradients[:-1]
    return gradients


FAMILIES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "random": random,
    "log-normal": log_normal,
    "conflicting": conflicting,
    "four decades": spread(4),
    "twelve decades": spread(12),
    "collinear": collinear,
    "duplicate": duplicate,
    "huge": huge,
    "rank-deficient": rank_deficient,
    "stationary": stationary,
}
TASKS = (1, 2, 3, 8, 16, 32, 64)


def ours(gramian: torch.Tensor) -> Array:
    return solve(gramian).weights.numpy()


def torchjd_mgda(gramian: torch.Tensor) -> Array:
    return MGDAWeighting()(gramian).numpy()


def with_quadprog(gramian: torch.Tensor) -> Array:
    """On the Gramian, brought to mean 1 on its diagonal and made definite by a small ridge."""
    products, count = gramian.numpy(), len(gramian)
    ridged = products / products.diagonal().mean() + 1e-10 * np.eye(count)
    constraints = np.vstack([np.ones(count), np.eye(count)]).T
    weights = quadprog.solve_qp(ridged, np.zeros(count), constraints, np.array([1.0] + [0.0] * count), 1)[0]
    return weights.clip(0) / weights.clip(0).sum()


SOLVERS: dict[str, Callable[[torch.Tensor], Array]] = {
    "ours": ours,
    "TorchJD": torchjd_mgda,
    "quadprog": with_quadprog,
}


def lower_bound(products: Array, active: tuple[int, ...]) -> np.longdouble:
    """A bound on the least norm from below, the tighter the better `active` is chosen."""
    at = list(active)
    exact = products.astype(np.longdouble)
    norms = np.sqrt(exact.diagonal())
    sizes = norms.min() / norms
    matrix = (exact / norms / norms[:, None] + sizes * sizes[:, None])[np.ix_(at, at)]
    inverse = np.linalg.pinv(matrix.astype(np.float64), rcond=1e-14, hermitian=True)
    values = np.zeros(len(at), dtype=np.longdouble)
    for _ in range(10):
        values = values + inverse @ (sizes[at] - matrix @ values).astype(np.float64)
    weights = np.zeros(len(products), dtype=np.longdouble)
    weights[at] = (sizes[at] * values).clip(0)
    along = exact @ (weights / weights.sum())
    return along.min() / np.sqrt(weights @ along / weights.sum())


def judge(products: Array, weights: Array, bound: np.longdouble | None) -> tuple[float, float, float]:
    """Excess norm, KKT residual, and 1 if the direction hurts a task; without a bound ‖v‖ / max ‖g‖ alone."""
    exact, mix = products.astype(np.longdouble), weights.astype(np.longdouble)
    mix = mix / mix.sum()
    along = exact @ mix
    norm = np.sqrt(max(mix @ along, np.longdouble(0)))
    lengths = np.sqrt(exact.diagonal())
    if bound is None:
        return float(norm / (lengths.max() or 1)), float("nan"), float("nan")
    residual = ((norm**2 - along) / (lengths * norm)).max()
    return float(max(norm / bound - 1, 0)), float(residual), float((along < -1e-12 * lengths * norm).any())


def measure(name: str, tasks: int, draws: int) -> dict[str, str]:
    """A cell of the table by solver."""
    rng = np.random.default_rng(tasks)
    verdicts: dict[str, list[tuple[float, float, float]]] = {solver: [] for solver in SOLVERS}
    seconds: dict[str, list[float]] = {solver: [] for solver in SOLVERS}
    for _ in range(draws):
        gradients = FAMILIES[name](rng, tasks)
        gramian = torch.from_numpy(gradients @ gradients.T)
        products = gramian.numpy()
        bound = None if name == "stationary" else lower_bound(products, solve(gramian).active)
        for solver, weigh in SOLVERS.items():
            begin = time.perf_counter()
            try:
                weights = weigh(gramian)
            except ValueError:
                continue
            seconds[solver].append(time.perf_counter() - begin)
            verdicts[solver].append(judge(products, weights, bound))
    return {solver: cell(verdicts[solver], seconds[solver], draws) for solver in SOLVERS}


def cell(verdicts: list[tuple[float, float, float]], seconds: list[float], draws: int) -> str:
    if not verdicts:
        return "crashes"
    excess, residual, harm = np.array(verdicts).T
    parts = [f"{excess.max():.0e}"]
    if not np.isnan(residual).any():
        parts += [f"{residual.max():.0e}", f"{harm.mean():.0%}"]
    parts.append(f"{1e3 * np.median(seconds):.3f}")
    if len(verdicts) < draws:
        parts.append(f"crashes {1 - len(verdicts) / draws:.0%}")
    return " · ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=40, help="Gramians per family and number of tasks")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print("Each cell: worst excess norm · worst KKT residual · share of harmful directions · median ms.\n")
    print("| family | T | " + " | ".join(SOLVERS) + " |")
    print("|---|---|" + "---|" * len(SOLVERS))
    for name in FAMILIES:
        for tasks in TASKS:
            if tasks > 1 or name == "random":
                cells = measure(name, tasks, draws)
                print(f"| {name} | {tasks} | " + " | ".join(cells.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
