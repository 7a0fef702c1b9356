"""Who speaks about the rows that lack a label: teachers, the student's former self, and whether they are heard.

The loop asks `Voices` alone; it does not know whose answer a target is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.distillation.former_self import FormerSelf
from distill_mtl.distillation.gate import Gate
from distill_mtl.distillation.lesson import Lesson
from distill_mtl.students.student import Student
from distill_mtl.targets.base import TargetSource
from distill_mtl.teachers.output import Targets


class Voices:
    """Teachers and former selves, no task taught by two of them.

    Args:
        teachers: frozen networks.
        selves: the student as it was, one for each way of remembering.
        gates: task -> on which rows its teacher is heard; every row where none is named.
    """

    def __init__(
        self,
        teachers: TargetSource,
        selves: Sequence[FormerSelf] = (),
        gates: Mapping[str, Gate] | None = None,
    ) -> None:
        self.teachers, self.selves, self.gates = teachers, tuple(selves), dict(gates or {})

    def begin(self, step: int, student: Student) -> None:
        """Before step `step`, counted from 0: let the former selves look at the student."""
        for former in self.selves:
            former.begin(step, student)

    def rows(self, batch: Batch, lessons: Mapping[str, Lesson]) -> dict[str, Tensor]:
        """task -> int64 [R], the rows that someone will be asked about, known before anyone is.

        Args:
            batch: on the host.
            lessons: of the step; a task whose loss does not use a teacher's answer asks none.
        """
        offered = self.teachers.rows(batch)
        for former in self.selves:
            offered |= former.rows(batch)
        return {task: rows for task, rows in offered.items() if lessons[task].uses_teacher}

    def __call__(self, batch: Batch, rows: Mapping[str, Tensor]) -> Targets:
        """What they say.

        A row that a gate shuts out stays in its target, marked: how many rows a mean runs over is agreed
        between processes before anyone has answered, and waiting for the answers would cost a second
        reduction in every step.

        Args:
            batch: on the device of the student.
            rows: what `rows` gave for it.
        """
        asked = {task: mine for task, mine in rows.items() if len(mine)}
        targets = self.teachers(batch, asked)
        for former in self.selves:
            mine = {task: asked[task] for task in former.tasks if task in asked}
            if mine:
                targets |= former.ask(batch.images, mine)
        for task, gate in self.gates.items():
            if task in targets:
                heard = gate.hears(targets[task].output.logits)
                targets[task] = replace(targets[task], heard=heard)
        return targets

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps: the former selves."""
        return [former.state_dict() for former in self.selves]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from `state_dict`."""
        for former, kept in zip(self.selves, state, strict=True):
            former.load_state_dict(kept)
