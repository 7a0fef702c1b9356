"""Where the tasks of a recipe's student should leave its trunk, from what their teachers see: no training, no labels.

The command `branch` shows everything that is found; a recipe with `branch: auto` takes the tree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.data import Sources
from distill_mtl.errors import UserError
from distill_mtl.networks.stages import Chain
from distill_mtl.students.student import FAMILIES, Trunk
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.branching.depths import Depth, depths_of, layers_at
from distill_mtl.training.branching.floor import BOUNDED, Floors
from distill_mtl.training.branching.likeness import cka, hard_together, rsa
from distill_mtl.training.branching.probe import probe
from distill_mtl.training.branching.search import Group, Loss, TaskTree, best_trees, lost_by
from distill_mtl.training.branching.teacher_features import (
    Seen,
    TeacherLayers,
    look,
    on_grid,
    row_batches,
    rows_of,
)

Measure = Literal["floor", "rsa", "cka", "hard_rows", "probe"]
SAVES = 2.0
"""Points, mean over the tasks and summed over the stages, that the best tree must save against one trunk to be taken at
all. Most of what a task loses by sharing it loses to networks with random weights, too (docs/students.md)."""
WORTH = 0.5
"""Points that a larger tree must save against a smaller one."""
_TOLD = 0.05
"""Points that tell one tree from another: one that saves less against a smaller one is not shown."""
_SEARCHES = 4
"""Searches among more tasks than `BOUNDED`, each with more groups measured."""
_LIKENESS = {"rsa": rsa, "cka": cka}
_PROBED = 4
_FEWEST = 20
_ROWS_OF_PAIRS = 300


@dataclass(frozen=True)
class Compared:
    """Everything that is compared.

    Attributes:
        trunk: of the student, with any weights.
        teachers: task -> its teacher's layers; without the tasks that cannot be compared.
        left_out: task -> why.
        kinds: of all tasks.
        chain, depths: of the trunk.
        sources: of the recipe.
        images: rows, float [R, 3, H, W] in [0, 1]; half of them are fitted on, half judged by.
        device: where the teachers are.
    """

    trunk: Trunk
    teachers: Mapping[str, TeacherLayers]
    left_out: Mapping[str, str]
    kinds: Mapping[str, TaskKind]
    chain: Chain
    depths: Sequence[Depth]
    sources: Sources
    images: Tensor
    device: torch.device

    @property
    def tasks(self) -> list[str]:
        """Those that are compared."""
        return list(self.teachers)


@dataclass(frozen=True)
class Branching:
    """What was found.

    Attributes:
        depths: of the student.
        likeness: measure -> pair of tasks, or "" for the teachers and a random network -> value by depth.
        floor: task -> points that it loses at each depth that all tasks share, None at the first; None: not measured.
        trees: the best ones, smallest first.
        chosen: the tree within the budget.
        branch: what `student.branch` would say; empty for one trunk.
        unit: of the trees' loss.
        left_out: task -> why it is not compared.
    """

    depths: Sequence[Depth]
    likeness: Mapping[str, Mapping[tuple[str, ...], list[float]]]
    floor: Mapping[str, list[float | None]] | None
    trees: Sequence[TaskTree]
    chosen: TaskTree
    branch: dict[str, list[list[str]]]
    unit: str
    left_out: Mapping[str, str]


def gather(
    trunk: Trunk,
    teachers: Mapping[str, Teacher],
    kinds: Mapping[str, TaskKind],
    sources: Sources,
    rows: int,
    device: torch.device,
) -> Compared:
    """What is compared of a recipe, its teachers moved to `device`.

    Raises:
        UserError: fewer than two teachers can be compared, there are too few rows, or the trunk cannot be cut.
    """
    chain, depths = depths_of(trunk)
    shapes = [depth.shape for depth in depths]
    found: dict[str, TeacherLayers] = {}
    left_out = {}
    for task in kinds:
        layers = layers_at(teachers[task], depths) if task in teachers else None
        if layers is not None:
            found[task] = TeacherLayers(teachers[task].to(device), layers, shapes)
        elif f"{task}/1" in teachers:
            left_out[task] = "it has several teachers"
        elif task in teachers:
            left_out[task] = (
                f"its teacher {teachers[task].card.place.name} does not give the features of its layers"
            )
        else:
            left_out[task] = "it has no teacher"
    if len(found) < 2:
        said = (
            "; ".join(f"{task}: {why}" for task, why in left_out.items())
            or f"{next(iter(kinds))} is the only one"
        )
        raise UserError(
            f"student.branch: tasks are compared by their teachers' features, and fewer than two have any: {said}. "
            "Use one trunk, or write `branch` by hand."
        )
    images = rows_of(sources, rows)
    if len(images) < _FEWEST:
        raise UserError(
            f"student.branch: {len(images)} rows of all data sets are too few to compare teachers by, {_FEWEST} are "
            "needed."
        )
    return Compared(trunk, found, left_out, kinds, chain, depths, sources, images, device)


def find_branching(
    compared: Compared, budget: float, by: Measure = "floor", note: Callable[[str], None] = lambda text: None
) -> Branching:
    """Compare the teachers, and search the best trees.

    Args:
        compared: by `gather`.
        budget: the largest tree, as a multiple of one network.
        by: which measure says what sharing costs.
        note: called with what is being done, to show progress.

    Raises:
        UserError: the budget is below one network.
    """
    if not budget >= 1:
        raise UserError(f"student.branch: a budget of {budget:g} networks is below one. Expected 1 or more.")
    fitted, judged = compared.images[::2], compared.images[1::2]
    seen = look(compared.teachers, fitted, compared.device)
    likeness = _likenesses(compared, seen, fitted)
    floor: dict[str, list[float | None]] | None = None
    if by in _LIKENESS:
        trees, unit = _trees(compared, _unlike(likeness[by], compared.tasks), budget), f"1 - {by}"
    elif by == "hard_rows":
        pairs = _hard_pairs(compared)
        likeness = {**likeness, by: pairs}
        trees, unit = _trees(compared, _unlike(pairs, compared.tasks), budget), "1 - hard_rows"
    else:
        floors = floors_of(compared, seen)
        trees, floor = _by_floor(compared, floors, budget, note)
        unit = "points"
    if by == "probe":
        trees, unit = _probed(compared, trees, budget, fitted, judged), "hint error"
    chosen = choose(trees, budget, in_points=unit == "points")
    branch = chosen.branches([depth.name for depth in compared.depths])
    return Branching(
        compared.depths,
        likeness,
        floor,
        trees,
        chosen,
        _with_left_out(branch, list(compared.kinds), list(compared.left_out)),
        unit,
        compared.left_out,
    )


def choose(trees: Sequence[TaskTree], budget: float, *, in_points: bool) -> TaskTree:
    """The tree to take.

    Args:
        trees: smallest first, one trunk the first.
        budget: the largest tree, as a multiple of one network.
        in_points: their losses are points, of which a few are worth no larger tree.
    """
    within = [tree for tree in trees if tree.size <= budget * (1 + 1e-9)]
    least = min(tree.loss for tree in within)
    if in_points and within[0].loss - least < SAVES:
        return within[0]
    return next(tree for tree in within if tree.loss <= least + (WORTH if in_points else 0.0))


def floors_of(compared: Compared, seen: Mapping[str, Seen] | None = None) -> Floors:
    """What groups of tasks lose by sharing a stage; nothing is measured yet.

    Args:
        compared: by `gather`.
        seen: what the teachers see in every second row, if that is known.
    """
    fitted, judged = compared.images[::2], compared.images[1::2]
    seen = seen or look(compared.teachers, fitted, compared.device)
    held_out = look(compared.teachers, judged, compared.device)
    kinds = {task: compared.kinds[task] for task in compared.tasks}
    return Floors(compared.depths, compared.teachers, kinds, seen, held_out, fitted, judged, compared.device)


def _likenesses(
    compared: Compared, seen: Mapping[str, Seen], images: Tensor
) -> dict[str, dict[tuple[str, ...], list[float]]]:
    """By measure and pair; the empty pair is the teachers' mean likeness to a random network."""
    random = _random_network(compared, images[:_ROWS_OF_PAIRS])
    rows = {task: [pooled[:_ROWS_OF_PAIRS] for pooled in of.pooled] for task, of in seen.items()}
    found: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for name, measure in _LIKENESS.items():
        found[name] = {
            pair: [measure(one, other) for one, other in zip(*(rows[task] for task in pair), strict=True)]
            for pair in combinations(compared.tasks, 2)
        }
        to_random = [
            [measure(one, other) for one, other in zip(rows[task], random, strict=True)]
            for task in compared.tasks
        ]
        found[name][()] = [sum(values) / len(values) for values in zip(*to_random, strict=True)]
    return found


@torch.no_grad()
def _random_network(compared: Compared, images: Tensor) -> list[Tensor]:
    """What the student's architecture with random weights sees, at each depth."""
    trunk = compared.trunk
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        args = {**trunk.args}
        random = FAMILIES[trunk.family].create(trunk.name, args, trunk.inputs.size, pretrained=False)
    random = random.eval().to(compared.device)
    random.tap(tuple(depth.layer for depth in compared.depths))
    parts: list[list[Tensor]] = []
    for batch in row_batches(images, compared.device):
        features = random(batch)
        maps = [on_grid(features[depth.layer].float(), depth.shape) for depth in compared.depths]
        parts.append([Seen.pool(each) for each in maps])
    return [torch.cat(of_depth) for of_depth in zip(*parts, strict=True)]


def _trees(compared: Compared, loss: Loss, budget: float) -> list[TaskTree]:
    """The best trees up to half as much again as the budget, so that what a little more would buy is seen."""
    sizes = [depth.size for depth in compared.depths]
    return best_trees(compared.tasks, sizes, loss, min(1.5 * budget, float(len(compared.tasks))))


def _unlike(likeness: Mapping[tuple[str, ...], Sequence[float]], tasks: Sequence[str]) -> Loss:
    """Mean over the tasks of how unlike each is to those that it shares with."""

    def loss(depth: int, group: Group) -> float:
        if depth == 0 or len(group) == 1:
            return 0.0
        total = sum(2 * (1 - likeness[pair][depth]) for pair in combinations(group, 2))
        return total / (len(group) - 1) / len(tasks)

    return loss


def _by_floor(
    compared: Compared, floors: Floors, budget: float, note: Callable[[str], None]
) -> tuple[list[TaskTree], dict[str, list[float | None]]]:
    """The best trees in points, and what sharing by all tasks costs each at each depth.

    Searched again with what was measured, until every group of the best trees is. Of few tasks a group that is not
    measured counts as much as its parts, which is not too much but for the noise of few rows, so that no other tree is
    better by more than `_TOLD`. Of more tasks, whose groups are estimated, some searches have to do.
    """
    tasks, everyone = compared.tasks, tuple(compared.tasks)
    behind = range(1, len(compared.depths))
    few = len(tasks) <= BOUNDED
    pairs: list[Group] = [*combinations(tasks, 2)] if few else []
    wanted = {(k, group) for k in behind for group in (*pairs, everyone)}
    trees: list[TaskTree] = []
    most = len(behind) * (2 ** len(tasks) - len(tasks) - 1)
    searches = 0
    while wanted:
        done = sum(len(group) > 1 for _, group in floors.points)
        note(f"comparing the teachers: groups of tasks by stage, {done} + {len(wanted)} of at most {most}")
        floors.measure(sorted(wanted))
        if few or searches < _SEARCHES:
            found, searches = _trees(compared, floors.loss, budget), searches + 1
        else:
            found = [replace(tree, loss=lost_by(tree.groups, floors.loss)) for tree in trees]
        trees = []
        for tree in found:
            if not trees or tree.loss < trees[-1].loss - _TOLD:
                trees.append(tree)
        of_trees = {(k, group) for tree in trees for k in behind for group in tree.groups[k]}
        wanted = {(k, group) for k, group in of_trees if len(group) > 1 and (k, group) not in floors.points}
    everyones: dict[str, list[float | None]] = {
        task: [None, *(floors.points[k, everyone][task] for k in behind)] for task in tasks
    }
    return trees, everyones


def _probed(
    compared: Compared, trees: Sequence[TaskTree], budget: float, fitted: Tensor, judged: Tensor
) -> list[TaskTree]:
    """Some of the best trees within the budget, the trunk and the largest among them, by their error after a probe."""
    within = [tree for tree in trees if tree.size <= budget * (1 + 1e-9)]
    count = min(_PROBED, len(within))
    chosen = [within[round(k * (len(within) - 1) / max(1, count - 1))] for k in range(count)]
    trunk, device = compared.trunk, compared.device
    errors = probe(chosen, trunk, compared.chain, compared.depths, compared.teachers, fitted, judged, device)
    return [replace(tree, loss=error) for tree, error in zip(chosen, errors, strict=True)]


def _hard_pairs(compared: Compared) -> dict[tuple[str, ...], list[float]]:
    """For each pair the share of rows that are hard for both or easy for both, the same at each depth.

    Raises:
        UserError: two tasks have too few rows with labels of both.
    """
    found: dict[tuple[str, ...], list[float]] = {}
    rows = len(compared.images)
    for pair in combinations(compared.tasks, 2):
        first = _losses(compared, pair[0], rows, None)
        second = _losses(compared, pair[1], None, set(first))
        both = [key for key in first if key in second]
        if len(both) < _FEWEST:
            raise UserError(
                f"student.branch: hard_rows needs rows that are labelled for two tasks, and {' and '.join(pair)} have "
                f"{len(both)} of them in {rows}. Use by: floor, which needs no labels."
            )
        losses = (torch.tensor([of[key] for key in both]) for of in (first, second))
        found[pair] = [hard_together(*losses)] * len(compared.depths)
    return found


@torch.no_grad()
def _losses(compared: Compared, task: str, limit: int | None, only: set[str] | None) -> dict[str, float]:
    """Key of a labelled training row -> the teacher's loss there."""
    found: dict[str, float] = {}
    kind, teacher = compared.kinds[task], compared.teachers[task].teacher
    for batch in compared.sources.labelled(task, "train", 64, limit=limit, only=only):
        seen = batch.to(compared.device)
        losses = kind.supervised_loss(teacher(seen.images).logits, seen.labels[task])
        found |= zip(batch.keys, losses.tolist(), strict=True)
    return found


def _with_left_out(
    branch: dict[str, list[list[str]]], tasks: Sequence[str], left_out: Sequence[str]
) -> dict[str, list[list[str]]]:
    """Tasks that were not compared go with the group that is the largest at the last stage, on its whole way there."""
    order = {task: place for place, task in enumerate(tasks)}
    stages = list(branch.values())
    company = max(stages[-1], key=len)[0] if stages else ""
    for groups in stages:
        joined = next(group for group in groups if company in group)
        joined += left_out
        joined.sort(key=order.__getitem__)
    return branch
