"""The shape of a student: whose weights each task uses at each depth of the network.

A table of owners, `owners[depth][task]`, where an owner is a group of tasks. Two tasks share a computation as long as
they have shared every owner so far: weights are counted by owner, FLOPs by computation. A plain trunk has one row with
one group; a tree's groups only split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from distill_mtl.errors import StudentError
from distill_mtl.recipe.branches import ROOT, Branches, by_task

SettledBranches = dict[str, list[list[str]]]
"""A recipe's `student.branch` with nothing left to find: stage -> groups of all tasks from there on, in the order of
the stages."""


@dataclass(frozen=True)
class Node:
    """A computation that its tasks share, and that has its own weights.

    Attributes:
        name: `root`, or its tasks: `depth+normals`.
        tasks: in the order of the recipe.
        start, stop: the steps of the network's chain that it runs, from `start` to before `stop`.
        parent: the node whose result it takes; None: it takes the image.
    """

    name: str
    tasks: tuple[str, ...]
    start: int
    stop: int
    parent: str | None


def settle(branches: Branches, tasks: Sequence[str], position: Callable[[str], int]) -> SettledBranches:
    """Both forms of a recipe's `student.branch` as one.

    Args:
        branches: whose tasks and groups have been checked one by one.
        tasks: names of all tasks.
        position: of a stage in the network; raises UserError where there is none.

    Raises:
        StudentError: a stage joins tasks that an earlier one has parted, or two names are the same stage.
    """
    if by_task(branches):
        return _from_tasks({task: str(stage) for task, stage in branches.items()}, tasks, position)
    order = sorted(branches, key=position)
    for one, other in pairwise(order):
        if position(one) == position(other):
            raise StudentError(f"student.branch: {one} and {other} are the same stage. Keep one.")
    settled: SettledBranches = {}
    for stage in order:
        said = branches[stage]
        groups = [[task] for task in tasks] if isinstance(said, str) else [list(group) for group in said]
        settled[stage] = sorted((_ordered(group, tasks) for group in groups), key=lambda g: tasks.index(g[0]))
    _refuse_joined(settled)
    return settled


def nodes_of(
    branches: SettledBranches, tasks: Sequence[str], position: Callable[[str], int], steps: int
) -> tuple[Node, ...]:
    """The nodes of a tree, parents before children.

    Args:
        branches: as `settle` gives it.
        tasks: names of all tasks.
        position: of a stage in the chain.
        steps: length of the chain.
    """
    rows: list[tuple[int, list[tuple[str, ...]]]] = [(0, [tuple(tasks)])]
    for stage, said in branches.items():
        rows.append((position(stage), [tuple(group) for group in said]))
    if len(rows) > 1 and rows[1][0] == 0:
        del rows[0]
    nodes: list[Node] = []
    for depth, (start, groups) in enumerate(rows):
        for group in groups:
            if depth and group in rows[depth - 1][1]:
                continue  # the node goes on
            stop = next((at for at, later in rows[depth + 1 :] if group not in later), steps)
            parent = next((node.name for node in reversed(nodes) if set(group) <= set(node.tasks)), None)
            nodes.append(Node(node_name(group, tasks), group, start, stop, parent))
    return tuple(nodes)


def node_name(group: Sequence[str], tasks: Sequence[str]) -> str:
    """How a node with these of all tasks is called."""
    return ROOT if len(group) == len(tasks) else "+".join(group)


def serves(node: str, task: str) -> bool:
    """Whether a task runs through the node of this name."""
    return node == ROOT or task in node.split("+")


def only(branches: SettledBranches, tasks: Sequence[str]) -> SettledBranches:
    """The branches of some of its tasks; empty where these share everything."""
    kept: SettledBranches = {}
    before: list[list[str]] = [list(tasks)]
    for stage, groups in branches.items():
        left = [[task for task in group if task in tasks] for group in groups]
        left = [group for group in left if group]
        if left != before:
            kept[stage] = before = left
    return kept


def in_words(branches: SettledBranches) -> str:
    """`layer3: depth+normals | segment; layer4: depth | normals | segment`."""
    return "; ".join(
        f"{stage}: {' | '.join('+'.join(group) for group in groups)}" for stage, groups in branches.items()
    )


def _from_tasks(
    leaves: Mapping[str, str], tasks: Sequence[str], position: Callable[[str], int]
) -> SettledBranches:
    branches: SettledBranches = {}
    names: dict[int, str] = {}
    for stage in leaves.values():
        names.setdefault(position(stage), stage)
    for at in sorted(names):
        gone = [task for task in tasks if task in leaves and position(leaves[task]) <= at]
        rest = [task for task in tasks if task not in gone]
        groups = [[task] for task in gone] + ([rest] if rest else [])
        branches[names[at]] = sorted(groups, key=lambda group: tasks.index(group[0]))
    return branches


def _refuse_joined(branches: SettledBranches) -> None:
    for (before, earlier), (stage, groups) in pairwise(branches.items()):
        for group in groups:
            apart = [other for other in earlier if set(other) & set(group)]
            if len(apart) > 1:
                one, other = apart[0], apart[1]
                raise StudentError(
                    f"student.branch: {stage} has {' and '.join(group)} in one group, but "
                    f"{next(t for t in one if t in group)} and {next(t for t in other if t in group)} were parted at "
                    f"{before}. Tasks that have parted stay apart."
                )


def _ordered(group: Sequence[str], tasks: Sequence[str]) -> list[str]:
    return [task for task in tasks if task in group]
