"""Beside the scores: confidence, and which rows one network alone gets right. For the model card, in Markdown."""

from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.evaluation.task_comparison import worst_classes
from distill_mtl.report.figures import NONE, signed

_COLUMNS = ("task", "ECE teacher", "ECE student", "only teacher right", "only student right", "McNemar p")


def details_table(evaluation: Evaluation) -> str:
    """Of the tasks that have something to say here; nothing where none has."""
    rows = [
        _cells(task, result)
        for task, result in evaluation.tasks.items()
        if result.ece is not None or result.mcnemar is not None
    ]
    if not rows:
        return ""
    rule = ("---", *["---:"] * (len(_COLUMNS) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (_COLUMNS, rule, *rows))


def worst_line(evaluation: Evaluation) -> str:
    """The classes that lose much more than their task, or nothing: `worst: part/door −4.20, part/wheel −2.13`."""
    named = []
    for task, result in evaluation.tasks.items():
        if result.classes is None or result.delta is None:
            continue
        worst = worst_classes(result.classes, result.delta, result.margin)
        named += [f"{task}/{each.name} {signed(each.delta, result)}" for each in worst]
    return f"worst: {', '.join(named)}" if named else ""


def _cells(task: str, result: TaskResult) -> tuple[str, ...]:
    ece, test = result.ece, result.mcnemar
    return (
        task,
        NONE if ece is None or ece.teacher is None else f"{ece.teacher:.2f}",
        NONE if ece is None else f"{ece.student:.2f}",
        NONE if test is None else f"{test.teacher_only:,}",
        NONE if test is None else f"{test.student_only:,}",
        NONE if test is None else f"{test.p:.2g}" + (" (groups)" if test.test == "clustered" else ""),
    )
