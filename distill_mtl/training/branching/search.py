"""The trees of a student that are worth their cost: for each number of computations the one that loses least.

A tree is a partition of the tasks at each depth, of which each refines the one before. Its cost and its loss are sums
over its nodes, so that the best ones follow from those of its parts: no tree is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

Group = tuple[str, ...]
"""Tasks that share a stage, in the order of all tasks."""
Loss = Callable[[int, Group], float]
"""From a depth and a group to what sharing costs it there; at least 0, and 0 for one task."""

EXACT = 8
"""Largest number of tasks of which all trees are compared."""


@dataclass(frozen=True)
class TaskTree:
    """One tree.

    Attributes:
        groups: for each depth, which tasks share its stage.
        size: what it computes, as a multiple of one network.
        loss: what its sharing costs, summed over its nodes.
    """

    groups: tuple[tuple[Group, ...], ...]
    size: float
    loss: float

    def branches(self, names: Sequence[str]) -> dict[str, list[list[str]]]:
        """The `branch` of a recipe: name of a depth -> its groups, where they are others than at the depth before."""
        before, found = self.groups[0], {}
        for name, groups in zip(names, self.groups, strict=True):
            if groups != before:
                found[name] = [list(group) for group in groups]
            before = groups
        return found


def lost_by(groups: Sequence[Sequence[Group]], loss: Loss) -> float:
    """What the sharing of a tree costs, from its groups at each depth."""
    return sum(loss(depth, group) for depth, of_depth in enumerate(groups) for group in of_depth)


def best_trees(tasks: Sequence[str], sizes: Sequence[float], loss: Loss, budget: float) -> list[TaskTree]:
    """The trees within a budget that no smaller or equal one beats, from the trunk on; the loss falls.

    Of more than `EXACT` tasks those that lose least together are put together first, until `EXACT` are left.

    Args:
        tasks: all of them.
        sizes: what the stage of each depth computes; all tasks share the first.
        loss: of a group at a depth.
        budget: the largest size of a tree, as a multiple of one network.
    """
    units = _units(tasks, len(sizes), loss)
    order = {task: place for place, task in enumerate(tasks)}
    whole = sum(sizes)

    @cache
    def group_of(units_of: int) -> Group:
        chosen = (task for k, unit in enumerate(units) if units_of >> k & 1 for task in unit)
        return tuple(sorted(chosen, key=order.__getitem__))

    @cache
    def together(depth: int, units_of: int) -> list[_Part]:
        """The best ways on from a depth for units that share its stage."""
        group = group_of(units_of)
        own = _Part(sizes[depth], loss(depth, group), (group, ()))
        if depth + 1 == len(sizes):
            return [own]
        return _best(
            [
                _Part(own.size + rest.size, own.loss + rest.loss, (group, rest.shape))
                for rest in apart(depth + 1, units_of)
            ],
            budget * whole,
        )

    @cache
    def apart(depth: int, units_of: int) -> list[_Part]:
        """The best ways on for units that may part before a depth: the first one's group, then the others."""
        first = units_of & -units_of
        others = units_of ^ first
        found: list[_Part] = []
        chosen = others
        while True:  # every subset of the others joins the first
            rest = others ^ chosen
            heads = together(depth, first | chosen)
            tails = apart(depth, rest) if rest else [_Part(0.0, 0.0, ())]
            found += [
                _Part(head.size + tail.size, head.loss + tail.loss, (head.shape, *tail.shape))
                for head in heads
                for tail in tails
            ]
            if not chosen:
                return _best(found, budget * whole)
            chosen = (chosen - 1) & others

    trees = together(0, (1 << len(units)) - 1)
    return [
        TaskTree(_by_depth([part.shape], len(sizes), order), part.size / whole, part.loss) for part in trees
    ]


@dataclass(frozen=True)
class _Part:
    """A part of a tree; `shape` is (group, shapes behind it), or several of these."""

    size: float
    loss: float
    shape: tuple


def _best(parts: list[_Part], most: float) -> list[_Part]:
    """Those that no smaller or equal one beats."""
    kept: list[_Part] = []
    for part in sorted(parts, key=lambda part: (part.size, part.loss)):
        if part.size <= most * (1 + 1e-9) and (not kept or part.loss < kept[-1].loss - 1e-12):
            kept.append(part)
    return kept


def _by_depth(nodes: list[tuple], depths: int, order: dict[str, int]) -> tuple[tuple[Group, ...], ...]:
    """The groups of each depth, each depth's in the order of their first tasks."""
    found = []
    for _ in range(depths):
        groups = sorted((group for group, _ in nodes), key=lambda group: order[group[0]])
        found.append(tuple(groups))
        nodes = [child for _, children in nodes for child in children]
    return tuple(found)


def _units(tasks: Sequence[str], depths: int, loss: Loss) -> list[Group]:
    """The tasks one by one, or in groups that stay together where there are too many."""
    order = {task: place for place, task in enumerate(tasks)}
    units: list[Group] = [(task,) for task in tasks]

    def lost(first: Group, second: Group) -> float:
        both = tuple(sorted((*first, *second), key=order.__getitem__))
        return sum(loss(d, both) - loss(d, first) - loss(d, second) for d in range(1, depths))

    while len(units) > EXACT:
        pairs = [(a, b) for place, a in enumerate(units) for b in units[:place]]
        a, b = min(pairs, key=lambda pair: lost(*pair))
        units = [unit for unit in units if unit not in (a, b)]
        units.append(tuple(sorted((*a, *b), key=order.__getitem__)))
    return units
