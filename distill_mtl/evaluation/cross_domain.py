"""Agreement of student and teacher on images of other data sets: does the student behave differently there?

A student learns each task on all data sets, with its teacher's word where a label lacks. One that answers a task
well on the data set of its labels and otherwise elsewhere has learned to tell data sets apart. Its own test rows
cannot show that; the images of the others can. A teacher may be lost there too, so that what is low is judged
beside the agreement on the task's own rows. Called by `compare_networks`.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor

from distill_mtl.evaluation.evaluation_set import Comparison, Teacher
from distill_mtl.evaluation.result import CrossDomainAgreement
from distill_mtl.evaluation.row_statistics import examined, known_classes, logits_in
from distill_mtl.tasks.base import TaskKind

MOST_ROWS = 512
"""Images of a source that are looked at."""
NOTABLE = 0.1
"""How much lower than on the task's own rows the agreement may be before it is reported."""


def cross_domain(comparison: Comparison) -> dict[str, dict[str, CrossDomainAgreement]]:
    """Every head on every other source's images; the same on every process.

    Args:
        comparison: a task without a teacher has no agreement. At most `MOST_ROWS` rows of each source are used,
            spread evenly.

    Returns:
        task -> source -> agreement; a task whose labels every source has gets an empty mapping.
    """
    student, teachers, rows = comparison.student, comparison.teachers, comparison.rows
    found: dict[str, dict[str, CrossDomainAgreement]] = {task: {} for task in comparison.kinds}
    for source, tasks in _unlabelled(comparison).items():
        agreements: dict[str, list[tuple[str, float]]] = defaultdict(list)
        with torch.no_grad(), examined(student):
            for batch in rows.pictures(source, MOST_ROWS):
                answers = student(batch.images)
                for task in tasks:
                    kind, logits = comparison.kinds[task], logits_in(answers[task])
                    alike = _alike(kind, logits, teachers[task], batch.images)
                    agreements[task] += zip(batch.keys, alike.tolist(), strict=True)
        for task in tasks:
            # In the order of the keys, so that sums round alike however many processes there are.
            joined = sorted(rows.processes.join(agreements[task]))
            total = sum(agreement for _, agreement in joined)
            found[task][source] = CrossDomainAgreement(len(joined), total / len(joined) if joined else None)
    return found


def notable(own: float | None, agreement: float | None, rows: int) -> bool:
    """Whether a student agrees with its teacher notably less on another source's images than on its own.

    Notable is what is more than 10 points lower, and more than 1 / sqrt(rows): twice the largest standard error
    that a mean of so many numbers between 0 and 1 can have.

    Args:
        own: agreement on the task's own rows, in [0, 1]; None: no teacher.
        agreement: on the other source's images; None: no images.
        rows: images of that source that were looked at.
    """
    if own is None or agreement is None:
        return False
    return own - agreement > max(NOTABLE, 1 / math.sqrt(rows))


def _unlabelled(comparison: Comparison) -> dict[str, list[str]]:
    """The sources that lack labels of some task with a teacher, and these tasks."""
    sources: dict[str, list[str]] = {}
    for task in comparison.kinds:
        if comparison.teachers.get(task) is not None:
            for source in comparison.rows.sources.unlabelled(task):
                sources.setdefault(source, []).append(task)
    return sources


def _alike(kind: TaskKind, logits: Tensor, teacher: Teacher | None, images: Tensor) -> Tensor:
    """float64 [R]: agreement on the classes that the teacher knows, as in the comparison on its own rows."""
    assert teacher is not None
    known = known_classes(teacher)
    compared = slice(None) if known is None or kind.exclusive else list(known)
    return kind.agreement(logits[:, compared], teacher(images).logits[:, compared])
