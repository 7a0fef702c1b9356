"""The interface of target providers. Training does not know whether teachers or a cache answer.

Below it: rows of several tasks in one pass of a trunk. Those that any task needs run, and each task takes its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.teachers.teacher import Target, Targets, TeacherOutput

Rows = Literal["missing", "all", "none"]


class TargetProvider(ABC):
    """Answers of one teacher per task, for the rows of a batch that get a target.

    Args:
        tasks: those that have a teacher.
        on: which rows get a target: "missing", those without the task's label; "all"; or "none".

    Attributes:
        tasks: those that get targets at all.
    """

    def __init__(self, tasks: Iterable[str], on: Rows) -> None:
        self.tasks = () if on == "none" else tuple(tasks)
        self.on = on

    @abstractmethod
    def ask(self, task: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        """The answers of a task's teacher, on the device of the batch's images.

        Args:
            task: one of `tasks`.
            batch: with the rows.
            rows: int64 [R] on the host, ascending positions in the batch; None: every row.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> "TargetProvider":
        """Move whatever takes room on a device to `device`."""

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """task -> int64 [R], the rows that get a target, known before a network runs."""
        return rows_with_target(batch, self.tasks, self.on)

    def __call__(self, batch: Batch, rows: Mapping[str, Tensor] | None = None) -> Targets:
        """The targets of a batch that is on the device of the student.

        Args:
            batch: with the rows.
            rows: task -> rows that get a target; default: all that `rows` gives. Tasks of other providers are
                left out.
        """
        wanted = self.rows(batch) if rows is None else rows
        mine = {task: of_task for task, of_task in wanted.items() if task in self.tasks and len(of_task)}
        outputs = self._answers(batch, mine)
        device = batch.images.device
        return {
            task: Target(of_task.to(device, non_blocking=True), outputs[task])
            for task, of_task in mine.items()
        }

    def _answers(self, batch: Batch, rows: Mapping[str, Tensor]) -> dict[str, TeacherOutput]:
        """The answers about at least one row for each task."""
        return {
            task: self.ask(task, batch, None if len(mine) == len(batch) else mine)
            for task, mine in rows.items()
        }


def rows_with_target(batch: Batch, tasks: Iterable[str], on: Rows) -> dict[str, Tensor]:
    """task -> int64 [R], the rows of a batch that get a target from whatever teaches these tasks."""
    if on == "none":
        return {}
    everything = torch.arange(len(batch))
    return {task: everything if on == "all" else everything[~batch.labelled[task]] for task in tasks}


def union_of(rows: Mapping[str, Tensor]) -> Tensor:
    """int64 [U]: the rows that some task needs, ascending; task -> int64 [R], ascending, on the host."""
    return next(iter(rows.values())) if len(rows) == 1 else torch.cat(list(rows.values())).unique()


def seen(images: Tensor, union: Tensor) -> Tensor:
    """[U, ...]: the images [B, ...] of these rows."""
    return images if len(union) == len(images) else images[union.to(images.device, non_blocking=True)]


def only(features: Mapping[str, Tensor], union: Tensor, rows: Tensor) -> Mapping[str, Tensor]:
    """What came out of the pass, first dimension U, for some of its rows."""
    if len(rows) == len(union):
        return features
    places = torch.searchsorted(union, rows)
    return {name: value[places.to(value.device, non_blocking=True)] for name, value in features.items()}
