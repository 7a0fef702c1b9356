"""Would a teacher score better with another preprocessing, or with its classes in another order?

Tried for every teacher, because most survive such a mistake and lose some points: on few rows first, then on more.
`diagnoses` asks the same question about a teacher that falls short, where the mistake must explain the whole loss.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.checks.preprocessings import Candidate, best_order, candidates, confusion, reordered
from distill_mtl.checks.teacher_score import (
    TOLERANCE,
    LabelledRows,
    MeasuredScore,
    row_statistics,
    score_gain,
    subsample,
)
from distill_mtl.data.batch import Batch
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

FEW, MORE, MOST = 64, 256, 1024
"""Rows: of each candidate, of the best `_KEPT` ones, and of the one that is better on those, to be sure."""
_KEPT = 3
_NEAR = 3
"""Of readings whose gains differ by less than so many times the least one, more rows decide."""
_SECONDS = 10.0
"""After so long (of processor time, whatever else runs) no other candidate is tried; the usual mistakes come first."""


@dataclass(frozen=True)
class BetterReading:
    """A way to run a teacher that does better on the same rows, beyond chance.

    Attributes:
        candidate: it.
        score: on these rows.
        gain: points over the teacher as it is.
        low: lower end of the 95 % interval of the gain (paired bootstrap over rows).
        rows: how many.
    """

    candidate: Candidate
    score: float
    gain: float
    low: float
    rows: int

    def counts(self, least: float) -> bool:
        """Whether it gains so much, and beyond chance."""
        return self.gain >= least and self.low > 0

    def describe(self, kind: TaskKind) -> str:
        """The cause, with the score and how sure it is."""
        unit = "points" if kind.in_points else "in the label's unit"
        return (
            f"{self.candidate.cause} (it then scores {self.score:.2f}: {self.gain:.2f} {unit} better on the same "
            f"{self.rows:,} rows, 95 % interval from {self.low:.2f})"
        )


def least_gain(kind: TaskKind, measured: MeasuredScore) -> float:
    """What a reading must gain to count: 2 points, or 2 % of what a constant answer lacks to a perfect one."""
    return TOLERANCE if kind.in_points else TOLERANCE / 100 * abs(kind.perfect - measured.constant)


@torch.no_grad()
def find_better_reading(
    teacher: Teacher, kind: TaskKind, task: str, rows: LabelledRows, measured: MeasuredScore
) -> BetterReading | None:
    """The reading that is clearly better than the teacher's own; None where there is none.

    Args:
        teacher: that was measured.
        kind, task, rows: what it was measured on.
        measured: its score.
    """
    least = least_gain(kind, measured)
    if abs(kind.perfect - measured.score) < least:
        return None  # nothing is left to gain
    batches = list(rows(MORE))
    # Sizes far above its own cost most, and would leave a teacher near a constant answer.
    far = abs(kind.perfect - measured.score) > abs(measured.score - measured.constant)
    order = _best_order(teacher, kind, task, batches)
    if order is not None and not order.counts(least) and measured.rows > order.rows and not kind.dense:
        # Of two classes among many, few rows show too little.
        order = _best_order(teacher, kind, task, list(rows(MOST)))
    found = [*_best_preprocessings(teacher, kind, task, batches, far), order]
    better = [each for each in found if each is not None and each.counts(least)]
    if not better:
        return None
    best = max(better, key=_gain)
    if best.candidate.order is None and measured.rows > best.rows:
        # The best of many is lucky: it must be better on more rows too, and than those that are about as good.
        most = list(rows(MOST))
        own = _as_it_is(teacher, kind, task, most)
        near = [
            each.candidate
            for each in better
            if each.candidate.order is None and each.gain > best.gain - _NEAR * least
        ]
        best = max((_compare(each, kind, task, most, own) for each in near), key=_gain)
    return best if best.counts(least) else None


def _gain(reading: BetterReading) -> float:
    return reading.gain


def _best_preprocessings(
    teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch], far: bool
) -> list[BetterReading]:
    """The few that do best."""
    sign = 1 if kind.higher_is_better else -1
    few, start = subsample(batches, FEW), time.process_time()
    own = sign * float(kind.score(_as_it_is(teacher, kind, task, few)))
    better: list[tuple[float, Candidate]] = []
    for candidate in candidates(teacher, few, far=far):
        score = sign * float(kind.score(row_statistics(candidate, kind, task, few)))
        if score > own:
            better.append((score, candidate))
        if time.process_time() - start > _SECONDS:
            break
    if not better:
        return []
    base = _as_it_is(teacher, kind, task, batches)
    # The order is stable: of candidates that are alike the commonest mistake is named.
    kept = sorted(better, key=lambda each: -each[0])[:_KEPT]
    return [_compare(each, kind, task, batches, base) for _, each in kept]


def _best_order(
    teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]
) -> BetterReading | None:
    """The best order of the classes, measured on rows that it was not fitted to (two halves, crosswise).

    It needs no further pass: each batch's answers are read in both orders.
    """
    if not kind.exclusive:
        return None
    number = len(kind.classes)
    counts = torch.zeros(2, number, number, dtype=torch.int64)
    answered: list[tuple[Tensor, Tensor]] = []
    batches = subsample(batches, FEW) if kind.dense else batches
    for batch in batches:
        logits, labels = teacher(batch.images).logits, batch.labels[task]
        answered.append((logits, labels))
        for half in (0, 1):
            if len(part := labels[half::2]):
                found = confusion(kind, logits[half::2], part, batch.images[half::2])
                if found is None:
                    return None
                counts[half] += found
    everywhere, halves = best_order(counts.sum(0)), [best_order(each) for each in counts]
    if everywhere is None:
        return None
    mine, base = list[Tensor](), list[Tensor]()
    for logits, labels in answered:
        for half in (0, 1):
            if len(part := labels[half::2]):
                order, seen = halves[1 - half], logits[half::2]
                base.append(kind.statistics(seen, part))
                mine.append(
                    base[-1] if order is None else kind.statistics(seen[:, order.to(seen.device)], part)
                )
    groups = [group for batch in batches for half in (0, 1) for group in batch.groups[half::2]]
    return _compared(reordered(teacher, kind, everywhere), kind, groups, torch.cat(mine), torch.cat(base))


def _as_it_is(teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]) -> Tensor:
    return row_statistics(lambda images: teacher(images).logits, kind, task, batches)


def _compare(
    candidate: Candidate, kind: TaskKind, task: str, batches: Sequence[Batch], base: Tensor
) -> BetterReading:
    groups = [group for batch in batches for group in batch.groups]
    return _compared(candidate, kind, groups, row_statistics(candidate, kind, task, batches), base)


def _compared(
    candidate: Candidate, kind: TaskKind, groups: Sequence[str], mine: Tensor, base: Tensor
) -> BetterReading:
    gain, low = score_gain(kind, groups, mine, base)
    return BetterReading(candidate, float(kind.score(mine)), gain, low, len(groups))
