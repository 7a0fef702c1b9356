"""What is known of each task of a run before it is trained: the numbers that a forecast is made from."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from distill_mtl.evaluation.evaluation_set import EvaluationSet
from distill_mtl.evaluation.forecast.law import Features, error_of
from distill_mtl.evaluation.network_costs import Costs
from distill_mtl.evaluation.row_statistics import collect
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.parts import Parts

TEST_ROWS = 2000
"""Rows that a teacher is measured on, spread evenly over the test rows."""


def forecastable(parts: Parts) -> tuple[list[str], dict[str, str]]:
    """The tasks that can be forecast, and why the others cannot."""
    left_out = {}
    for task, kind in parts.kinds.items():
        names = parts.teachers.of(task)
        if not names:
            left_out[task] = "it has no teacher"
        elif parts.recipe.training.teachers_on == "none":
            left_out[task] = "its teacher does not teach it: training.teachers_on is none"
        elif names != [task]:
            left_out[task] = "it has several teachers"
        elif kind.teacher_labels:
            left_out[task] = "its teacher's answers are its labels"
        elif task in parts.student.trunk.frozen:
            left_out[task] = "it does not train"
    return [task for task in parts.kinds if task not in left_out], left_out


def teacher_errors(
    parts: Parts, tasks: list[str], device: torch.device, tick: Callable[[int], None]
) -> dict[str, float]:
    """Task -> its teacher's error on test rows, in the score's unit.

    The forecast's delta is a difference to it. No student is measured on these rows.

    Args:
        parts: of the run.
        tasks: that have one teacher.
        device: where the teachers are.
        tick: called with the number of rows after every batch.
    """
    rows = EvaluationSet(
        parts.sources, "test", parts.recipe.evaluation.batch_size, device=device, limit=TEST_ROWS
    )
    errors = {}
    for task in tasks:
        kind, teacher = parts.kinds[task], parts.teachers[task]
        found = collect(task, kind, partial(_answers, task, teacher), None, rows, tick, known=teacher.known)
        errors[task] = error_of(
            float(kind.score(found.student)), higher_is_better=kind.higher_is_better, in_points=kind.in_points
        )
    return errors


def _answers(task: str, teacher: Teacher, images: Tensor) -> dict[str, Tensor]:
    return {task: teacher(images).logits}


def features_of(parts: Parts, tasks: list[str], costs: Costs) -> dict[str, Features]:
    """The features of the tasks whose teacher's size is known."""
    rows = sum(summary.rows["train"] for summary in parts.sources.summary())
    passes = parts.steps * parts.recipe.training.batch_size / rows
    student = costs.student.parameters
    return {
        task: Features(passes=passes, size=teacher / student)
        for task in tasks
        if student and (teacher := costs.each[task].parameters)
    }
