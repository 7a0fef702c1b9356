"""Example rows of every task: image, label, and the answers of teacher and student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from distill_mtl.evaluation.evaluation_set import Comparison, EvaluationSet, Processes
from distill_mtl.evaluation.row_statistics import examined, logits_in
from distill_mtl.tasks.base import Shown


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
def examples(comparison: Comparison, *, count: int = 3) -> dict[str, list[Example]]:
    """`count` rows of every task, spread evenly over its set; for one process alone."""
    rows = replace(comparison.rows, limit=count, processes=Processes())
    with examined(comparison.student):
        return {task: _of_task(task, comparison, rows) for task in comparison.kinds}


@torch.no_grad()
def examples_of(keys: Mapping[str, Sequence[str]], comparison: Comparison) -> dict[str, list[Example]]:
    """The rows with these keys, in this order; for one process alone.

    Args:
        keys: by task; a key that no row has is left out, and so is a task without any.
        comparison: who answers them.
    """
    found = {}
    with examined(comparison.student):
        for task, wanted in keys.items():
            if not wanted:
                continue
            rows = replace(comparison.rows, only=frozenset(wanted), processes=Processes())
            shown = _of_task(task, comparison, rows)
            found[task] = sorted(shown, key=lambda example: wanted.index(example.key))
    return found


def _of_task(task: str, comparison: Comparison, rows: EvaluationSet) -> list[Example]:
    kind, teacher = comparison.kinds[task], comparison.teachers.get(task)
    found = []
    for batch in rows.batches(task):
        pixels = (batch.images * 255).round().to(torch.uint8).cpu()
        answers = logits_in(comparison.student(batch.images)[task]).cpu()
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
