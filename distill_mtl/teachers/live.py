"""The teachers of a run, asked during training about the rows whose labels leave them something to say."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.teachers.output import Target, Targets, TeacherOutput
from distill_mtl.teachers.sharing import by_trunk
from distill_mtl.teachers.teacher import Teacher

Asked = Literal["missing", "all", "none"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LiveTeachers:
    """Runs each teacher on its rows of a batch, and on no other row; teachers of one trunk run it once.

    Args:
        teachers: task -> teacher; a task may have none.
        on: "missing" asks about rows that lack the task's label, "all" about every row, "none" never.
        precisions: task -> fp32, bf16 or fp16; what is not named runs in fp32. Teachers of one trunk that
            differ run in fp32.
        compiled: tasks whose networks go through torch.compile.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        on: Asked = "missing",
        *,
        precisions: Mapping[str, str] | None = None,
        compiled: frozenset[str] = frozenset(),
    ) -> None:
        self.teachers = dict(teachers) if on != "none" else {}
        self.on = on
        self._groups = by_trunk(self.teachers)
        self._precisions = dict(precisions or {})
        # How many rows need a teacher changes from step to step, so one compiled form must do for all.
        self._runs = {
            task: torch.compile(teacher.network.run, dynamic=True)
            if task in compiled
            else teacher.network.run
            for task, teacher in self.teachers.items()
        }

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """task -> int64 [R], the rows of the batch that its teacher speaks about, known before it runs."""
        return rows_to_ask(batch, self.teachers, self.on)

    def __call__(self, batch: Batch, rows: Mapping[str, Tensor] | None = None) -> Targets:
        """What the teachers say about a batch that is on the device of the student.

        Args:
            batch: whose rows are asked about.
            rows: task -> those to ask about, where not all that `rows` gives; what is no task of theirs is
                left to others.
        """
        wanted = self.rows(batch) if rows is None else rows
        asked = {task: mine for task, mine in wanted.items() if task in self.teachers and len(mine)}
        device = batch.images.device
        targets: Targets = {}
        for group in self._groups:
            mine = {task: asked[task] for task in group if task in asked}
            for task, output in self.ask(batch.images, mine).items() if mine else ():
                targets[task] = Target(mine[task].to(device, non_blocking=True), output)
        return {task: targets[task] for task in asked}

    @torch.no_grad()
    def ask(self, images: Tensor, rows: Mapping[str, Tensor]) -> dict[str, TeacherOutput]:
        """The answers of teachers that share one trunk, on the images' device.

        Args:
            images: float [B, 3, H, W] in [0, 1].
            rows: task -> int64 [R] on the host, ascending, R at least 1.
        """
        first = next(iter(rows))
        union = next(iter(rows.values())) if len(rows) == 1 else torch.cat(list(rows.values())).unique()
        place = self.teachers[first].home or images.device
        seen = images if len(union) == len(images) else images[union.to(images.device, non_blocking=True)]
        with self._autocast(rows, place):
            features = self._runs[first](seen.to(place, non_blocking=True))
            return {
                task: self.teachers[task].read(_only(features, union, mine)).to(images.device)
                for task, mine in rows.items()
            }

    def to(self, device: torch.device | str) -> "LiveTeachers":
        """Move every teacher to `device`, but for those that have a home of their own."""
        for teacher in self.teachers.values():
            teacher.to(device)
        return self

    def _autocast(self, rows: Mapping[str, Tensor], device: torch.device) -> AbstractContextManager[None]:
        precisions = {self._precisions.get(task, "fp32") for task in rows}
        dtype = DTYPES[precisions.pop()] if len(precisions) == 1 else torch.float32
        low = dtype != torch.float32
        return torch.autocast(device.type, dtype=dtype if low else None, enabled=low)


def rows_to_ask(batch: Batch, tasks: Iterable[str], on: Asked) -> dict[str, Tensor]:
    """task -> int64 [R], the rows of a batch that whoever teaches these tasks is asked about."""
    if on == "none":
        return {}
    everything = torch.arange(len(batch))
    return {task: everything if on == "all" else everything[~batch.labelled[task]] for task in tasks}


def _only(features: Mapping[str, Tensor], union: Tensor, rows: Tensor) -> Mapping[str, Tensor]:
    """The features of some rows among those that ran."""
    if len(rows) == len(union):
        return features
    places = torch.searchsorted(union, rows)
    return {name: value[places.to(value.device, non_blocking=True)] for name, value in features.items()}
