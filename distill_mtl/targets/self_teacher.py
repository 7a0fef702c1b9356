"""The self-teacher: an earlier copy of the student, for tasks without another teacher. It reduces forgetting.

Learning without Forgetting (Li & Hoiem 2016, section 3) freezes the network before it learns something new
and keeps its answers on the new rows; Kim et al. 2018 do so over and over while batches alternate between data
sets of different tasks. As an average of weights it is a mean teacher (Tarvainen & Valpola 2017).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from distill_mtl.balance.distributed import from_first, world_size
from distill_mtl.data.batch import Batch
from distill_mtl.students.student import Student
from distill_mtl.targets.provider import Rows, only, rows_with_target, seen, union_of
from distill_mtl.teachers.teacher import Target, Targets, TeacherOutput

Context = Callable[[], AbstractContextManager[Any]]


class SelfTeacher:
    """One copy of the student, in evaluation mode and never trained, and the tasks that it teaches.

    It holds the student's weights and the running statistics of its normalisation, and gives soft targets
    alone. Before the first moment of `due` it has no target for any row, for it would teach noise.

    Args:
        student: that trains, on its device, before it is prepared.
        tasks: those that it teaches; one pass through the trunk serves them all.
        due: whether the student is frozen before a step, counted from 0; never before step 0.
        decay: None: what was frozen stays until the next such moment. Else an average that moves before
            every step, with a warm-up as `training.ema` has it, and teaches from the first such moment on.
        on: rows that it teaches, as for other teachers.
        autocast: makes the context in which the student itself runs.
    """

    def __init__(
        self,
        student: Student,
        tasks: Sequence[str],
        due: Callable[[int], bool],
        *,
        decay: float | None = None,
        on: Rows = "missing",
        autocast: Context = nullcontext,
    ) -> None:
        self.tasks = tuple(tasks)
        self.teaches = False
        self._due, self._moves, self._on, self._autocast = due, decay is not None, on, autocast
        self._average = ModelEmaV3(student, decay=decay or 0.0, use_warmup=True)
        self._copy: Student = self._average.module.requires_grad_(False)
        self._copy.tap(())

    def begin(self, step: int, student: Student) -> None:
        """Before step `step`, copy or average the student if that is due."""
        due = step > 0 and self._due(step)
        self.teaches = self.teaches or due
        if self._moves and step > 0:
            self._average.update(student, step=step)
        elif due:
            self._average.set(student)
        else:
            return
        self._agree()

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """task -> int64 [R], the rows that get a target, known before it runs."""
        return rows_with_target(batch, dict.fromkeys(self.tasks), self._on) if self.teaches else {}

    @torch.no_grad()
    def ask(self, images: Tensor, rows: Mapping[str, Tensor]) -> Targets:
        """Its answers.

        Args:
            images: float [B, 3, H, W] in [0, 1], on the student's device.
            rows: task -> int64 [R] on the host, ascending, R at least 1.
        """
        union = union_of(rows)
        targets: Targets = {}
        with self._autocast():
            features = self._copy.trunk(seen(images, union))
            for task, mine in rows.items():
                logits = self._copy.heads[task](self._copy.trunk.of(task, only(features, union, mine)))
                targets[task] = Target(
                    mine.to(images.device, non_blocking=True), TeacherOutput(logits.float(), {})
                )
        return targets

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the copy, and whether it teaches yet."""
        return {"teaches": self.teaches, "copy": self._copy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.teaches = state["teaches"]
        self._copy.load_state_dict(state["copy"])

    @torch.no_grad()
    def _agree(self) -> None:
        """Let every process have the first one's running statistics, as a resumed run has.

        On the CPU BatchNorm's are local to a process until the next forward pass.
        """
        floating = [buffer for buffer in self._copy.buffers() if buffer.is_floating_point()]
        if world_size() == 1 or not floating:
            return
        flat = from_first(torch.cat([buffer.flatten() for buffer in floating]))
        for buffer, values in zip(floating, flat.split([b.numel() for b in floating]), strict=True):
            buffer.copy_(values.view_as(buffer))
