"""Validation scores during training, for `training.select: best`."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from distill_mtl.evaluation.evaluation_set import Comparison, EvaluationSet, Student, Teacher
from distill_mtl.evaluation.row_statistics import KnownClasses, collect, known_classes, no_row
from distill_mtl.tasks.base import TaskKind


@dataclass(frozen=True)
class Reference:
    """The reference of a task's score. It does not change while the student learns, so it is measured once.

    Attributes:
        score: of the teacher. Of a task without one: 0 where the score is in points; else, as no unit fits beside
            points, that of the best answer that never looks at the image.
        known: classes that the teacher knows, on which the student is measured too; None: all.
    """

    score: float
    known: KnownClasses = None


def references(
    teachers: Mapping[str, Teacher | None], kinds: Mapping[str, TaskKind], rows: EvaluationSet
) -> dict[str, Reference]:
    """Of every task, measured on its own labelled rows.

    Raises:
        ShardError: a task has no labelled row in this set.
    """
    return {task: _reference(task, kind, teachers.get(task), rows) for task, kind in kinds.items()}


def delta_on(comparison: Comparison, against: Mapping[str, Reference]) -> dict[str, float]:
    """By how much the student is better than each reference, positive for better in either direction.

    In points; where the score is in the labels' unit, in percent of the reference's error, so that metres and
    dollars can stand beside points in one mean. A reference without error has no percent: there the difference
    counts as it is. Only the student runs.

    Args:
        comparison: of the student, usually on the validation rows.
        against: by task, from the same rows.
    """
    deltas = {}
    for task, kind in comparison.kinds.items():
        reference = against[task]
        sign = 1 if kind.higher_is_better else -1
        score = _score(task, kind, comparison.student, reference.known, comparison.rows)
        delta = sign * (score - reference.score)
        in_percent = not kind.in_points and reference.score != 0
        deltas[task] = 100 * delta / abs(reference.score) if in_percent else delta
    return deltas


def _reference(task: str, kind: TaskKind, teacher: Teacher | None, rows: EvaluationSet) -> Reference:
    if teacher is not None:
        known = known_classes(teacher)
        return Reference(_score(task, kind, _as_student(task, teacher), known, rows), known)
    return Reference(0.0 if kind.in_points else _constant(task, kind, rows))


def _constant(task: str, kind: TaskKind, rows: EvaluationSet) -> float:
    counts = [kind.label_counts(batch.labels[task]) for batch in rows.batches(task)]
    counts = rows.processes.join(counts)
    if not counts:
        raise no_row(task, rows)
    return kind.constant_score(torch.stack(counts).sum(0))


def _as_student(task: str, teacher: Teacher) -> Student:
    """A teacher that answers in the form of a student with one task."""
    return lambda images: {task: teacher(images).logits}


def _score(task: str, kind: TaskKind, student: Student, known: KnownClasses, rows: EvaluationSet) -> float:
    found = collect(task, kind, student, None, rows, known=known)
    return float(kind.score(found.student))
