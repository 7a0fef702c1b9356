"""The whole evaluation: student against teachers, and what each of them costs."""

from collections.abc import Mapping

from torch import nn

from distill_mtl.evaluation.compare import Progress, compare
from distill_mtl.evaluation.cost import cost_of, head_costs
from distill_mtl.evaluation.results import Cost, Evaluation, HeadCost, allowed_drops
from distill_mtl.evaluation.verdict import Rule
from distill_mtl.evaluation.view import View
from distill_mtl.tasks.base import TaskKind


def evaluate(
    student: nn.Module,
    teachers: Mapping[str, nn.Module | None],
    kinds: Mapping[str, TaskKind],
    view: View,
    *,
    size: tuple[int, int],
    acceptance: float | Mapping[str, float] = 1.0,
    rule: Rule = "interval",
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare a student with its teachers on every task's own labelled rows. Every process gets the result.

    Args:
        student: images [B, 3, H, W] in [0, 1] -> logits by task (or dicts with `logits`, as a loaded
            student folder answers); without adapters, whose cost no user pays.
        teachers: by task, each images -> TeacherOutput; absent or None: the task is only scored.
        kinds: the tasks.
        view: the rows, usually of the test set.
        size: height and width of the images, for the cost.
        acceptance: the margin, for all tasks or by task: the largest loss allowed, in points or the score's unit.
        rule: what must stay within it.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: called with (rows done, rows in all) after every batch.

    Raises:
        ShardError: a task has no labelled row in this split.
    """
    tasks = compare(student, teachers, kinds, view, resamples=resamples, seed=seed, progress=progress)
    costs: list[tuple[Cost, Cost | None, dict[str, HeadCost]]] = []
    if view.processes.rank == 0:
        whole, heads = cost_of(student, size, view.device), head_costs(student, size, view.device)
        costs.append((whole, _summed_cost(teachers, size, view), heads))
    student_cost, teachers_cost, heads = view.processes.join(costs)[0]
    return Evaluation(
        tasks=tasks,
        student_cost=student_cost,
        teachers_cost=teachers_cost,
        acceptance=allowed_drops(acceptance, kinds),
        hashed=frozenset(task for task in kinds if view.sources.hashed(task)),
        split=view.split,
        heads={task: heads[task] for task in kinds if task in heads},
        rule=rule,
    )


def _summed_cost(teachers: Mapping[str, nn.Module | None], size: tuple[int, int], view: View) -> Cost | None:
    """Of all teachers together; one that teaches two tasks, or one trunk that several share, counts once."""
    present = [teacher for teacher in teachers.values() if teacher is not None]
    networks = {
        id(getattr(getattr(teacher, "network", None), "trunk", teacher)): teacher for teacher in present
    }
    if not networks:
        return None
    return sum((cost_of(network, size, view.device) for network in networks.values()), Cost(0, 0, 0, 0.0))
