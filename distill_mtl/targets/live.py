"""The teachers of a run, asked during training about the rows whose labels leave them something to say."""

from collections.abc import Mapping

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.targets.base import Rows, TargetSource
from distill_mtl.teachers.output import TeacherOutput
from distill_mtl.teachers.teacher import Teacher


class LiveTeachers(TargetSource):
    """Runs each teacher on its rows of a batch, and on no other row.

    Args:
        teachers: task -> teacher; a task may have none.
        on: which rows they are asked about.
    """

    def __init__(self, teachers: Mapping[str, Teacher], on: Rows = "missing") -> None:
        super().__init__(teachers, on)
        self.teachers = {task: teachers[task] for task in self.tasks}

    def ask(self, task: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        images = batch.images
        if rows is not None:
            images = images[rows.to(images.device, non_blocking=True)]
        output: TeacherOutput = self.teachers[task](images)
        return output

    def to(self, device: torch.device | str) -> "LiveTeachers":
        for teacher in self.teachers.values():
            teacher.to(device)
        return self
