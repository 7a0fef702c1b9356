"""What training asks for targets; it does not know whether teachers or a cache answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.teachers.output import Target, Targets, TeacherOutput

Rows = Literal["missing", "all", "none"]


class TargetSource(ABC):
    """Answers of one teacher per task, for the rows of a batch whose labels leave it something to say.

    Args:
        tasks: those that have a teacher.
        on: "missing" asks about rows that lack the task's label, "all" about every row, "none" never.

    Attributes:
        tasks: those that are asked at all.
    """

    def __init__(self, tasks: Iterable[str], on: Rows) -> None:
        self.tasks = () if on == "none" else tuple(tasks)
        self.on = on

    @abstractmethod
    def ask(self, task: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        """What the teacher of a task says, on the device of the batch's images.

        Args:
            task: one of `tasks`.
            batch: whose rows are asked about.
            rows: int64 [R] on the host, positions in the batch; None: every row.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> "TargetSource":
        """Move whatever takes room on a device to `device`."""

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """task -> int64 [R], the rows of the batch that its teacher speaks about, known before it is asked."""
        everything = torch.arange(len(batch))
        if self.on == "all":
            return dict.fromkeys(self.tasks, everything)
        return {task: everything[~batch.labelled[task]] for task in self.tasks}

    def __call__(self, batch: Batch) -> Targets:
        """What the teachers say about a batch that is on their device."""
        targets: Targets = {}
        for task, rows in self.rows(batch).items():
            if len(rows) == 0:
                continue
            output = self.ask(task, batch, None if len(rows) == len(batch) else rows)
            targets[task] = Target(rows.to(batch.images.device, non_blocking=True), output)
        return targets
