"""Accuracy and time of the minimum-norm solver beside TorchJD's MGDA and quadprog, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/min_norm.py [--draws 40]

Every solver sees the same Gramians in the same order, turn by turn. The excess norm is an upper bound
from duality, ‖v‖² / min_t ⟨g_t, v⟩ - 1 in extended precision: no solver is its own judge. Where a
direction hurts a task that bound is infinite; it is then taken against the exact solver's norm.
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
    gradients[-1] = -rng.dirichlet(np.ones(tasks - 1)) @ gradients[:-1] if tasks > 1 else 0.0
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
    """As projects call it: on the Gramian itself, made definite by a small ridge."""
    products, count = gramian.numpy(), len(gramian)
    ridged = products + 1e-10 * products.diagonal().mean() * np.eye(count)
    constraints = np.vstack([np.ones(count), np.eye(count)]).T
    weights = quadprog.solve_qp(ridged, np.zeros(count), constraints, np.array([1.0] + [0.0] * count), 1)[0]
    return weights.clip(0) / weights.clip(0).sum()


SOLVERS: dict[str, Callable[[torch.Tensor], Array]] = {
    "ours": ours,
    "TorchJD": torchjd_mgda,
    "quadprog": with_quadprog,
}


def judge(products: Array, weights: Array, best: float) -> tuple[float, float, bool]:
    """Excess norm, KKT residual, and whether the direction hurts a task."""
    exact, mix = products.astype(np.longdouble), weights.astype(np.longdouble)
    mix = mix / mix.sum()
    along = exact @ mix
    square = max(mix @ along, np.longdouble(0))
    if square == 0:
        return 0.0, 0.0, False
    least = along.min()
    excess = np.sqrt(square) / best - 1 if least <= 0 else square / least - 1
    lengths = np.sqrt(exact.diagonal())
    residual = ((square - along) / (lengths * np.sqrt(square))).max() if lengths.all() else 0.0
    return float(max(excess, 0)), float(residual), bool((along < -1e-9 * square).any())


def measure(
    family: Callable[[np.random.Generator, int], Array], tasks: int, draws: int
) -> dict[str, list[float]]:
    """By solver: worst excess, worst residual, share of harmful directions, crashes, median milliseconds."""
    rng = np.random.default_rng(tasks)
    found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in SOLVERS}
    seconds: dict[str, list[float]] = {name: [] for name in SOLVERS}
    crashes = dict.fromkeys(SOLVERS, 0)
    for _ in range(draws):
        gradients = family(rng, tasks)
        gramian = torch.from_numpy(gradients @ gradients.T)
        best = max(solve(gramian).norm, 1e-300)
        for name, solver in SOLVERS.items():
            begin = time.perf_counter()
            try:
                weights = solver(gramian)
            except ValueError:
                crashes[name] += 1
                continue
            seconds[name].append(time.perf_counter() - begin)
            found[name].append(judge(gramian.numpy(), weights, best))
    return {
        name: [
            max((entry[0] for entry in rows), default=float("nan")),
            max((entry[1] for entry in rows), default=float("nan")),
            sum(entry[2] for entry in rows) / draws,
            crashes[name] / draws,
            1e3 * float(np.median(seconds[name])) if rows else float("nan"),
        ]
        for name, rows in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=40, help="Gramians per family and number of tasks")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print("Each cell: worst excess norm · worst KKT residual · share that hurts a task · median ms\n")
    print("| family | T | " + " | ".join(SOLVERS) + " |")
    print("|---|---|" + "---|" * len(SOLVERS))
    for name, family in FAMILIES.items():
        for tasks in TASKS:
            cells = [
                f"{excess:.0e} · {residual:.0e} · {harm:.0%} · {ms:.3f}"
                + (f" · crashed {crash:.0%}" if crash else "")
                for excess, residual, harm, crash, ms in measure(family, tasks, draws).values()
            ]
            print(f"| {name} | {tasks} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
