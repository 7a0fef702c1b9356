"""Preferences between tasks ("seg >= 2 * depth"), as the cone of weights that they leave.

`min_norm.solve` takes them by index; rules read them from a recipe by name. Where each task is bounded
by at most one other the cone has as many edges as tasks, so the solver sees an ordinary problem on the
edges; otherwise `polyhedral` solves it from the inequalities.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product as pairs_of
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LINE = re.compile(
    r"\s*(?P<task>[A-Za-z_][\w-]*)\s*>=\s*(?:(?P<factor>[0-9.]+(?:[eE][+-]?\d+)?)\s*\*\s*)?"
    r"(?P<other>[A-Za-z_][\w-]*)\s*"
)
SLACK = 1e-9
"""How far a product of factors around a cycle may be from 1 and still mean that its tasks are tied."""


class Bound(NamedTuple):
    """weight[task] ≥ factor · weight[other]; tasks by index."""

    task: int
    factor: float
    other: int


@dataclass(frozen=True, eq=False)
class Cone:
    """The weights that satisfy all bounds, up to their sum.

    Attributes:
        edges: [T, E] nonnegative columns of sum 1 whose nonnegative combinations are the cone; None
            where some task is bounded by several others.
        ties: [T, E] nonnegative columns of sum 1: tasks that bound each other tightly, as one.
        rows: [M, E]; the cone is ties·z for all z with rows·z ≥ 0.
        needed: [E, E]; column e holds the least z whose entry e is 1.
    """

    edges: NDArray[np.float64] | None
    ties: NDArray[np.float64]
    rows: NDArray[np.float64]
    needed: NDArray[np.float64]


def parse_preferences(lines: Sequence[str], tasks: Sequence[str]) -> list[Bound]:
    """Bounds from lines like "seg >= 2 * depth" or "seg >= depth".

    Raises:
        ValueError: a line that cannot be read, a task that is not one of `tasks`, or a cycle whose
            product is above 1, which no weights can satisfy.
    """
    bounds = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"cannot read the preference {line!r}; write it like 'seg >= 2 * depth'")
        for name in (match["task"], match["other"]):
            if name not in tasks:
                raise ValueError(f"preference {line!r} names '{name}', but the tasks are {list(tasks)}")
        bounds.append(
            Bound(tasks.index(match["task"]), float(match["factor"] or 1), tasks.index(match["other"]))
        )
    closure(len(tasks), bounds, tasks)
    return bounds


def among(bounds: Sequence[Bound], present: Sequence[int]) -> list[Bound]:
    """The bounds between tasks that are present, renumbered.

    What follows through an absent task stays: of a ≥ 2c and c ≥ 2b there remains a ≥ 4b without c. Other bounds of
    an absent task drop.
    """
    place = {task: k for k, task in enumerate(present)}
    strongest: dict[tuple[int, int], float] = {}
    for task, factor, other in bounds:
        strongest[task, other] = max(factor, strongest.get((task, other), 0.0))
    for absent in sorted({task for pair in strongest for task in pair} - set(place)):
        above = {task: factor for (task, other), factor in strongest.items() if other == absent != task}
        below = {other: factor for (task, other), factor in strongest.items() if task == absent != other}
        strongest = {pair: factor for pair, factor in strongest.items() if absent not in pair}
        for task, other in pairs_of(above, below):
            if task != other:
                factor = above[task] * below[other]
                strongest[task, other] = max(factor, strongest.get((task, other), 0.0))
    return [Bound(place[task], factor, place[other]) for (task, other), factor in strongest.items()]


@lru_cache(maxsize=64)
def cone(count: int, bounds: tuple[Bound, ...]) -> Cone:
    """The cone of weights of `count` tasks under `bounds`.

    Raises:
        ValueError: an index or a factor that makes no sense, or a cycle whose product is above 1.
    """
    product = closure(count, bounds)
    leaders, ties = _ties(product)
    place = {leader: k for k, leader in enumerate(sorted(set(leaders)))}
    strongest = np.zeros((len(place), len(place)))
    for task, factor, other in bounds:
        a, b = leaders[task], leaders[other]
        if a != b:
            # In terms of the leaders: weight[i] = product[i, leader] · weight[leader].
            implied = factor * product[other, b] / product[task, a]
            strongest[place[a], place[b]] = max(strongest[place[a], place[b]], implied)
    strongest[_implied(strongest)] = 0
    sums = ties.sum(axis=0)
    needed = closure(len(place), _bounds(strongest)) * sums[:, None] / sums
    rows = _rows(strongest) / sums
    ties = ties / sums
    edges = None
    if (np.count_nonzero(strongest, axis=1) <= 1).all():
        # z = strongest·z + s with s ≥ 0, hence z = (1 - strongest)⁻¹ s, whose entries are not negative.
        edges = ties @ (np.linalg.inv(np.eye(len(place)) - strongest) * sums[:, None])
        edges = edges.clip(0) / edges.clip(0).sum(axis=0)
    return Cone(edges, ties, rows, needed)


def closure(count: int, bounds: Sequence[Bound], names: Sequence[str] | None = None) -> NDArray[np.float64]:
    """[T, T]: the strongest factor that follows for each pair, 1 on the diagonal, 0 where none follows."""
    product = np.eye(count)
    follows = np.tile(np.arange(count), (count, 1))
    for task, factor, other in bounds:
        if not (0 <= task < count and 0 <= other < count):
            raise ValueError(f"preference {(task, factor, other)} names a task outside 0 to {count - 1}")
        if not 0 < factor < np.inf:
            raise ValueError(f"the factor of a preference is a number above 0, got {factor}")
        if factor > product[task, other]:
            product[task, other], follows[task, other] = factor, other
    for middle in range(count):
        through = product[:, middle, None] * product[middle]
        better = through > product * (1 + SLACK)
        follows = np.where(better, follows[:, middle, None], follows)
        product = np.where(better, through, product)
        impossible = np.flatnonzero(product.diagonal() > 1 + SLACK)
        if len(impossible):
            _refuse_cycle(int(impossible[0]), follows, float(product.diagonal()[impossible[0]]), names)
    return product


def _refuse_cycle(start: int, follows: NDArray[np.intp], factor: float, names: Sequence[str] | None) -> None:
    path = [start]
    while len(path) == 1 or (path[-1] != start and len(path) <= len(follows)):
        path.append(int(follows[path[-1], start]))
    cycle = " >= ".join(str(names[task] if names else task) for task in path)
    raise ValueError(
        f"the preferences {cycle} ask for at least {factor:g} times itself, which no weights can satisfy; "
        "remove one of them or lower its factor"
    )


def _ties(product: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """The first task of each group of tied ones, by task; and the groups as columns, 1 for the first."""
    tied = product * product.T >= 1 - SLACK
    leaders = [int(np.flatnonzero(row)[0]) for row in tied]
    columns = sorted(set(leaders))
    ties = np.zeros((len(leaders), len(columns)))
    for task, leader in enumerate(leaders):
        ties[task, columns.index(leader)] = product[task, leader]
    return leaders, ties


def _implied(strongest: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[E, E]: bounds that follow from two others, so that a chain needs no general solver."""
    product = closure(len(strongest), _bounds(strongest)) * (1 - np.eye(len(strongest)))
    detour = (product[:, :, None] * product).max(axis=1)
    return (strongest > 0) & (detour >= strongest * (1 - SLACK))


def _bounds(strongest: NDArray[np.float64]) -> list[Bound]:
    return [Bound(int(a), float(strongest[a, b]), int(b)) for a, b in zip(*strongest.nonzero(), strict=True)]


def _rows(strongest: NDArray[np.float64]) -> NDArray[np.float64]:
    """z_a - factor · z_b ≥ 0 for each bound; z_a ≥ 0 where a task has none."""
    count = len(strongest)
    rows = []
    for a in range(count):
        others = np.flatnonzero(strongest[a])
        for b in others:
            row = np.zeros(count)
            row[a], row[b] = 1.0, -strongest[a, b]
            rows.append(row)
        if not len(others):
            rows.append(np.eye(count)[a])
    return np.array(rows)
