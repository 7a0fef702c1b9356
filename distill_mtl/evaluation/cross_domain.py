"""How student and teacher agree on images that the task has no labels for: does the student switch mode?

A student learns each task on all data sets, with its teacher's word where a label lacks. One that answers a task
well on the data set of its labels and otherwise elsewhere has learned to tell data sets apart. Its own test rows
cannot show that; the images of the others can. A teacher may be lost there too, so that what is low is judged
beside the agreement at home. Called by `evaluate`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill_mtl.evaluation.known import known_to
from distill_mtl.evaluation.rows import Student, Teacher, examined, logits_in
from distill_mtl.evaluation.view import View
from distill_mtl.tasks.base import TaskKind

if TYPE_CHECKING:
    from distill_mtl.evaluation.results import Evaluation

MOST_ROWS = 512
"""Images of a source that are looked at."""
NOTABLE = 0.1
"""Agreement may be this much lower than at home without a word."""


@dataclass(frozen=True)
class Abroad:
    """Student and teacher of one task on the images of a source that has no labels of it.

    Attributes:
        rows: images that were looked at.
        agreement: how often they decide alike, in [0, 1]; None without images.
    """

    rows: int
    agreement: float | None


def cross_domain(
    student: Student,
    teachers: Mapping[str, Teacher | None],
    kinds: Mapping[str, TaskKind],
    view: View,
    *,
    tick: Callable[[int], None] = lambda rows: None,
) -> dict[str, dict[str, Abroad]]:
    """Every head on every other source's images; the same on every process.

    Args:
        student, teachers: on the view's device; a task without a teacher has nobody to agree with.
        kinds: the tasks.
        view: its sources and set, usually the test set; at most `MOST_ROWS` rows of each source, spread evenly.
        tick: told how many rows were looked at after every batch.

    Returns:
        task -> source -> agreement; a task whose labels every source has gets an empty mapping.
    """
    found: dict[str, dict[str, Abroad]] = {task: {} for task in kinds}
    for source, tasks in foreign(teachers, kinds, view).items():
        agreements: dict[str, list[tuple[str, float]]] = defaultdict(list)
        with torch.no_grad(), examined(student):
            for batch in view.pictures(source, MOST_ROWS):
                answers = student(batch.images)
                for task in tasks:
                    alike = _alike(kinds[task], logits_in(answers[task]), teachers[task], batch.images)
                    agreements[task] += zip(batch.keys, alike.tolist(), strict=True)
                tick(len(batch))
        for task in tasks:
            # In the order of the keys, so that sums round alike however many processes there are.
            joined = sorted(view.processes.join(agreements[task]))
            total = sum(agreement for _, agreement in joined)
            found[task][source] = Abroad(len(joined), total / len(joined) if joined else None)
    return found


def foreign(
    teachers: Mapping[str, Teacher | None], kinds: Mapping[str, TaskKind], view: View
) -> dict[str, list[str]]:
    """The sources that lack labels of some task with a teacher, and these tasks."""
    sources: dict[str, list[str]] = {}
    for task in kinds:
        if teachers.get(task) is not None:
            for source in view.sources.unlabelled(task):
                sources.setdefault(source, []).append(task)
    return sources


def notable(home: float | None, agreement: float | None, rows: int) -> bool:
    """Whether a student agrees with its teacher notably less on another source's images than at home.

    Notable is what is more than 10 points lower, and more than 1 / sqrt(rows): twice the largest standard error
    that a mean of so many numbers between 0 and 1 can have.

    Args:
        home: agreement on the task's own rows, in [0, 1]; None: nobody to agree with.
        agreement: on the other source's images; None: no images.
        rows: images of that source that were looked at.
    """
    if home is None or agreement is None:
        return False
    return home - agreement > max(NOTABLE, 1 / math.sqrt(rows))


def notes(evaluation: "Evaluation") -> Iterator[str]:
    """A line for each source on which a student agrees with its teacher notably less than at home."""
    for task, sources in evaluation.cross_domain.items():
        home = evaluation.tasks[task].agreement
        for source, abroad in sources.items():
            if notable(home, abroad.agreement, abroad.rows):
                assert home is not None
                assert abroad.agreement is not None
                yield (
                    f"{task} agrees with its teacher on {100 * abroad.agreement:.1f} % of {abroad.rows:,} images of "
                    f"'{source}', at home on {100 * home:.1f} %: does the student answer otherwise there?"
                )


def _alike(kind: TaskKind, logits: Tensor, teacher: Teacher | None, images: Tensor) -> Tensor:
    """float64 [R]: agreement on the classes that the teacher knows, as in the comparison at home."""
    assert teacher is not None
    known = known_to(teacher)
    compared = slice(None) if known is None or kind.exclusive else list(known)
    return kind.agreement(logits[:, compared], teacher(images).logits[:, compared])
