"""Counts of the rows of each term of each task in a step, over all processes and micro-batches.

Every loss is a mean over the rows that have it in the step's global batch. A mean over local rows
would give more weight to rows of a process that has few of them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.distillation.term import LossConfig, TermRows
from distill_mtl.recipe.schema import task_of

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Counts:
    """Global row counts of one optimizer step.

    Attributes:
        labelled: task -> rows with a label.
        taught: task -> rows with a teacher's target.
        rows: task -> rows with a label or a target.
        total: rows with anything to learn, whatever the task.
        parts: part of the trunk that serves some tasks -> rows with anything to learn for one of them.
        asked: teacher -> rows with its target, for tasks with several.
        present: per micro-batch, the tasks that have a row on any process.
        share: number of local means that DDP and Accelerate average. A sum over local rows, times
            `share`, over a global count, becomes a mean over rows by that average.
    """

    labelled: Mapping[str, int]
    taught: Mapping[str, int]
    rows: Mapping[str, int]
    total: int
    present: Sequence[frozenset[str]]
    share: int
    parts: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)

    def of(self, rows: TermRows) -> Mapping[str, int]:
        """task -> rows that a term with these rows is about."""
        return self.labelled if rows == "labelled" else self.taught

    @property
    def absent(self) -> frozenset[str]:
        """Tasks without any row in the whole step."""
        return frozenset(self.labelled).difference(*self.present)


def count_rows(
    batches: Sequence[Batch],
    taught: Sequence[Mapping[str, Tensor]],
    loss_configs: Mapping[str, LossConfig],
    *,
    parts: Mapping[str, Collection[str]] | None = None,
    several: Sequence[str] = (),
    world: int = 1,
    reduce: Reduce = lambda table: table,
) -> Counts:
    """Count this process's rows and sum them over processes with a single reduction.

    Args:
        batches: the micro-batches of the step on this process.
        taught: per micro-batch, task, or teacher of a task with several -> the rows with its target.
        loss_configs: every task of the recipe, in one order on all processes. A label or a teacher that a
            loss config gives no weight counts for nothing: a task of nothing but such rows is absent.
        parts: part of the trunk -> the tasks that it serves.
        several: the teachers of tasks with several.
        world: number of processes.
        reduce: sums an int64 tensor over the processes.
    """
    tasks, groups = list(loss_configs), list((parts or {}).values())
    # A line per task, one per part and one for any task; columns: rows with a label, with a target, with one of them.
    # Teachers of a task with several have a line each behind these.
    lines = len(tasks) + len(groups) + 1
    table = torch.zeros(len(batches), lines + len(several), 3, dtype=torch.int64)
    for m, (batch, with_target) in enumerate(zip(batches, taught, strict=True)):
        matters = torch.zeros(len(tasks), len(batch), dtype=torch.bool)
        for t, task in enumerate(tasks):
            if loss_configs[task].uses_labels:
                matters[t] |= batch.labelled[task]
                table[m, t, 0] = batch.labelled[task].sum()
            if loss_configs[task].uses_teacher:
                has_target = torch.zeros(len(batch), dtype=torch.bool)
                for name, rows in with_target.items():
                    if task_of(name) == task:
                        has_target[rows] = True
                matters[t] |= has_target
                table[m, t, 1] = has_target.sum()
        table[m, : len(tasks), 2] = matters.sum(1)
        for g, group in enumerate(groups, len(tasks)):
            table[m, g, 2] = matters[[task in group for task in tasks]].any(0).sum()
        table[m, lines - 1, 2] = matters.any(0).sum()
        for s, name in enumerate(several, lines):
            table[m, s, 1] = len(with_target.get(name, ())) * loss_configs[task_of(name)].uses_teacher
    table = reduce(table).cpu()
    labelled, targets, anything = table[:, : len(tasks)].sum(0).T.tolist()
    return Counts(
        labelled=dict(zip(tasks, labelled, strict=True)),
        taught=dict(zip(tasks, targets, strict=True)),
        rows=dict(zip(tasks, anything, strict=True)),
        total=int(table[:, lines - 1, 2].sum()),
        present=[
            frozenset(task for task, count in zip(tasks, per_task, strict=True) if count)
            for per_task in table[:, : len(tasks), :2].sum(2).tolist()
        ],
        share=world * len(batches),
        parts=dict(zip(parts or {}, table[:, len(tasks) : lines - 1, 2].sum(0).tolist(), strict=True)),
        asked=dict(zip(several, table[:, lines:, 1].sum(0).tolist(), strict=True)),
    )
