"""The whole evaluation: student against teachers, and what each of them costs."""

from collections.abc import Mapping

from torch import nn

from distill_mtl.evaluation.compare import Progress, compare
from distill_mtl.evaluation.cost import Note
from distill_mtl.evaluation.cross_domain import cross_domain
from distill_mtl.evaluation.expense import Expense, expense_of
from distill_mtl.evaluation.results import Evaluation, allowed_drops
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
    note: Note = lambda text: None,
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
        progress: called with (rows done, rows in all) after every batch of the tasks' own rows.
        note: told what is being done after that.

    Raises:
        ShardError: a task has no labelled row in this split.
    """
    tasks = compare(student, teachers, kinds, view, resamples=resamples, seed=seed, progress=progress)
    note("agreement on the other data sets")
    abroad = cross_domain(student, teachers, kinds, view)
    expense: list[Expense] = []
    if view.processes.rank == 0:  # the others wait, and leave it the machine
        expense.append(
            expense_of(student, teachers, size, view.device, batch_size=view.batch_size, note=note)
        )
    spent = view.processes.join(expense)[0]
    return Evaluation(
        tasks=tasks,
        student_cost=spent.student,
        teachers_cost=spent.teachers,
        acceptance=allowed_drops(acceptance, kinds),
        hashed=frozenset(task for task in kinds if view.split is not None and view.sources.hashed(task)),
        split=view.split,
        heads={task: spent.heads[task] for task in kinds if task in spent.heads},
        each_cost=spent.each,
        machine=spent.machine,
        cross_domain=abroad,
        rule=rule,
    )
