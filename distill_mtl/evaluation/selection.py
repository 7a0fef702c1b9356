"""Scores along the way: how good the student is so far, for `training.select: best`."""

from collections.abc import Mapping

from distill_mtl.evaluation.rows import Student, Teacher, collect
from distill_mtl.evaluation.view import View
from distill_mtl.tasks.base import TaskKind


def delta_on(
    student: Student,
    teacher_scores: Mapping[str, float | None],
    kinds: Mapping[str, TaskKind],
    view: View,
) -> dict[str, float]:
    """By how many points the student is better than each teacher, positive for better in either direction.

    A task without a teacher counts its own score. Only the student runs: frozen teachers score the
    same every time, so their scores are measured once (`teacher_scores`).

    Args:
        student: put into eval mode while it is measured, if it is a module.
        teacher_scores: by task, on the same rows.
        kinds: the tasks.
        view: the rows, usually of the validation set.
    """
    deltas = {}
    for task, kind in kinds.items():
        score = _score(task, kind, student, view)
        sign = 1 if kind.higher_is_better else -1
        deltas[task] = sign * (score - (teacher_scores.get(task) or 0.0))
    return deltas


def teacher_scores(
    teachers: Mapping[str, Teacher | None], kinds: Mapping[str, TaskKind], view: View
) -> dict[str, float]:
    """Every teacher's score in points on its task's own labelled rows."""
    return {
        task: _score(task, kinds[task], _as_student(task, teacher), view)
        for task, teacher in teachers.items()
        if teacher is not None
    }


def _as_student(task: str, teacher: Teacher) -> Student:
    """A teacher that answers in the form of a student with one task."""
    return lambda images: {task: teacher(images).logits}


def _score(task: str, kind: TaskKind, student: Student, view: View) -> float:
    rows = collect(task, kind, student, None, view)
    return float(kind.score(rows.student))
