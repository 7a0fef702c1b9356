"""Results of comparisons, written by hand."""

from dataclasses import replace
from typing import Any

from distill_mtl.evaluation import Acceptance, Cost, Costs, Evaluation, TaskResult

STUDENT = Cost(124_580, 3_910_000, 500_000, 1.25, 32, 2500.0, 12_000_000)
TEACHERS = Cost(1_245_800, 39_100_000, 5_000_000, 2.5, 32, 1000.0, None)


def task_result(delta: float | None = 0.4, teacher: float = 97.0, **changes: Any) -> TaskResult:
    """A classification; without a delta it has no teacher."""
    base = TaskResult(
        kind="classification",
        metric="accuracy",
        higher_is_better=True,
        rows=1250,
        groups=1250,
        student=teacher,
    )
    if delta is not None:
        base = replace(
            base,
            teacher=teacher,
            student=teacher + delta,
            delta=delta,
            ci95=(delta - 0.25, delta + 0.25),
            agreement=0.9812,
        )
    return replace(base, **changes)


def evaluation_of(tasks: dict[str, TaskResult], **changes: Any) -> Evaluation:
    """With a margin of 1 for each task."""
    fields: dict[str, Any] = {
        "cost": Costs(student=STUDENT, teachers=TEACHERS),
        "acceptance": Acceptance("interval", dict.fromkeys(tasks, 1.0)),
        **changes,
    }
    return Evaluation(tasks=tasks, **fields)


def toy_evaluation() -> Evaluation:
    """Two tasks with a teacher, one of them with a loss, and one without."""
    return evaluation_of(
        {"left": task_result(0.4), "right": task_result(-0.7), "alone": task_result(None)},
        steps=400,
        seconds=61.5,
    )


def with_margins(evaluation: Evaluation, **margins: float) -> Evaluation:
    """Judged by other margins of some tasks."""
    acceptance = evaluation.acceptance
    return evaluation.changed(acceptance=replace(acceptance, margin=acceptance.margin | margins))


def with_rule(evaluation: Evaluation, rule: str) -> Evaluation:
    """Judged by another rule."""
    return evaluation.changed(acceptance=replace(evaluation.acceptance, rule=rule))
