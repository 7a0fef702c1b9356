"""Scores of the student alone on a few rows, so that the report can say why it lost.

`ValidationLooks` looks at validation rows in the last part of the training: did the student still improve when the run
ended? `training_scores` looks at training rows at the end: does it miss there too? Both are for the first process
alone, change no weight, and never end a run: rows that cannot be read are not looked at.
"""

import logging
import math
from collections.abc import Iterator, Mapping

import torch

from distill_mtl.errors import UserError
from distill_mtl.evaluation.bootstrap import paired_interval
from distill_mtl.evaluation.evaluation_set import EvaluationSet, LabelledRows, Student
from distill_mtl.evaluation.result import StudentScore
from distill_mtl.evaluation.row_statistics import RowStatistics, collect
from distill_mtl.recipe import Recipe
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind

LOOKS = 6
_FROM = 0.6
"""The share of the run after which it is looked at."""
_COST = 0.02
"""Rows that are looked at in all, as a share of the rows that are trained on."""
_FEWEST, MOST_ROWS = 64, 512
_RESAMPLES = 500
_log = logging.getLogger(__name__)


class ValidationLooks:
    """When to look at the student, and what is seen.

    Args:
        sources: with the validation rows.
        kinds: the tasks.
        recipe: with the rows of a step.
        steps: of the run.
        processes: that share a step, and wait while the first one looks.
        device: of the student.

    Attributes:
        after: the steps after which the student is looked at; none where the run is too short for the cost.
    """

    def __init__(
        self,
        sources: LabelledRows,
        kinds: Mapping[str, TaskKind],
        recipe: Recipe,
        steps: int,
        *,
        processes: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self._kinds = {task: kind for task, kind in kinds.items() if sources.count(task, "validation")}
        seen = steps * recipe.training.batch_size / processes
        rows = min(int(_COST * seen / (LOOKS * max(1, len(self._kinds)))), MOST_ROWS)
        looks = torch.linspace(_FROM * steps, steps, LOOKS).tolist()
        self.after = frozenset(map(round, looks)) if self._kinds and rows >= _FEWEST else frozenset()
        self._rows = _rows_of(sources, "validation", recipe, rows, device)

    def scores(self, student: Student) -> dict[str, float]:
        """Score by task, on the same rows each time."""
        found = _readable(self._kinds, student, self._rows)
        scores = {task: float(self._kinds[task].score(rows.student)) for task, rows in found}
        return {task: score for task, score in scores.items() if math.isfinite(score)}


def training_scores(
    student: Student,
    sources: LabelledRows,
    kinds: Mapping[str, TaskKind],
    recipe: Recipe,
    *,
    most: Mapping[str, int],
    device: torch.device | str = "cpu",
) -> dict[str, StudentScore]:
    """The student on rows that it was trained on, under plain views; tasks without such rows are left out.

    Args:
        student: at the end of its training.
        sources: with the training rows.
        kinds: the tasks.
        recipe: of the run.
        most: by task, how many rows, if not `MOST_ROWS` are fewer.
        device: of the student.
    """
    scores = {}
    for task, kind in kinds.items():
        rows = _rows_of(sources, "train", recipe, min(most[task], MOST_ROWS), device)
        for _, found in _readable({task: kind} if sources.count(task, "train") else {}, student, rows):
            score = float(kind.score(found.student))
            interval = paired_interval(
                found.groups,
                found.student,
                None,
                kind.score,
                additive=kind.additive,
                resamples=_RESAMPLES,
                seed=recipe.seed,
            )
            if math.isfinite(score) and interval is not None and all(map(math.isfinite, interval)):
                scores[task] = StudentScore(score, len(found.keys), interval)
    return scores


def _rows_of(
    sources: LabelledRows, split: Split, recipe: Recipe, most: int, device: torch.device | str
) -> EvaluationSet:
    return EvaluationSet(
        sources, split, batch_size=recipe.evaluation.batch_size, device=device, limit=max(1, most)
    )


def _readable(
    kinds: Mapping[str, TaskKind], student: Student, rows: EvaluationSet
) -> Iterator[tuple[str, RowStatistics]]:
    for task, kind in kinds.items():
        try:
            yield task, collect(task, kind, student, None, rows)
        except UserError as error:
            _log.warning("the report lacks the %s score of %s: %s", rows.split, task, error)
