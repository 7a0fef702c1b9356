"""Example rows of every task: image, label, and the answers of teacher and student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from distill_mtl.evaluation.evaluation_set import EvaluationSet, Processes
from distill_mtl.evaluation.row_statistics import Student, Teacher, examined, logits_in
from distill_mtl.tasks.base import Shown, TaskKind


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        key: of the row.
        image: as the networks see it.
        label: what is right.
        teacher: what the teacher answers; None for a task without one.
        student: what the student answers.
    """

    key: str
    image: Shown
    label: Shown
    teacher: Shown | None
    student: Shown


@torch.no_grad()
def examples(
    student: Student,
    teachers: Mapping[str, Teacher | None],
    kinds: Mapping[str, TaskKind],
    evaluation_set: EvaluationSet,
    *,
    count: int = 3,
) -> dict[str, list[Example]]:
    """Some rows of every task, spread evenly over its set; for one process alone.

    Args:
        student: put into eval mode meanwhile, if it is a module.
        teachers: by task; absent or None: not shown.
        kinds: the tasks.
        evaluation_set: the rows.
        count: of rows for each task.
    """
    mine = replace(evaluation_set, limit=count, processes=Processes())
    with examined(student):
        return {task: _of_task(task, kind, student, teachers.get(task), mine) for task, kind in kinds.items()}


@torch.no_grad()
def examples_of(
    keys: Mapping[str, Sequence[str]],
    student: Student,
    teachers: Mapping[str, Teacher | None],
    kinds: Mapping[str, TaskKind],
    evaluation_set: EvaluationSet,
) -> dict[str, list[Example]]:
    """The rows with these keys, in this order; for one process alone.

    Args:
        keys: by task; a key that no row has is left out, and so is a task without any.
        student, teachers, kinds, evaluation_set: as `examples` takes them.
    """
    found = {}
    with examined(student):
        for task, wanted in keys.items():
            if not wanted:
                continue
            mine = replace(evaluation_set, only=frozenset(wanted), processes=Processes())
            rows = _of_task(task, kinds[task], student, teachers.get(task), mine)
            found[task] = sorted(rows, key=lambda example: wanted.index(example.key))
    return found


def _of_task(
    task: str, kind: TaskKind, student: Student, teacher: Teacher | None, evaluation_set: EvaluationSet
) -> list[Example]:
    found = []
    for batch in evaluation_set.batches(task):
        pixels = (batch.images * 255).round().to(torch.uint8).cpu()
        answers = logits_in(student(batch.images)[task]).cpu()
        taught = None if teacher is None else teacher(batch.images).logits.cpu()
        labels = batch.labels[task].cpu()
        for row, image in enumerate(pixels):
            found.append(
                Example(
                    key=batch.keys[row],
                    image=Shown(image),
                    label=kind.show_label(labels[row], image),
                    teacher=None if taught is None else kind.show_answer(taught[row], image),
                    student=kind.show_answer(answers[row], image),
                )
            )
    return found
