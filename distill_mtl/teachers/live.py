"""The teachers of a run, asked during training about the rows whose labels leave them something to say."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.teachers.output import Target, Targets
from distill_mtl.teachers.teacher import Teacher


class LiveTeachers:
    """Runs each teacher on its rows of a batch, and on no other row.

    Args:
        teachers: task -> teacher; a task may have none.
        on: "missing" asks about rows that lack the task's label, "all" about every row, "none" never.
    """

    def __init__(
        self, teachers: Mapping[str, Teacher], on: Literal["missing", "all", "none"] = "missing"
    ) -> None:
        self.teachers = dict(teachers) if on != "none" else {}
        self.on = on

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """task -> int64 [R], the rows of the batch that its teacher speaks about, known before it runs."""
        everything = torch.arange(len(batch))
        if self.on == "all":
            return dict.fromkeys(self.teachers, everything)
        return {task: everything[~batch.labelled[task]] for task in self.teachers}

    def __call__(self, batch: Batch) -> Targets:
        """What the teachers say about a batch that is on the teachers' device."""
        targets: Targets = {}
        for task, rows in self.rows(batch).items():
            if len(rows) == 0:
                continue
            where = rows.to(batch.images.device, non_blocking=True)
            images = batch.images if len(rows) == len(batch) else batch.images[where]
            targets[task] = Target(where, self.teachers[task](images))
        return targets

    def to(self, device: torch.device | str) -> "LiveTeachers":
        """Move every teacher to `device`."""
        for teacher in self.teachers.values():
            teacher.to(device)
        return self
