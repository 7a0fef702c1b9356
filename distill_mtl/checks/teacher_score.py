"""A teacher's score on its own labelled rows, through the very path that training uses.

Whether a teacher does on its own data what it is known to do. A wrong teacher teaches wrong answers well.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.evaluation.bootstrap import paired_interval
from distill_mtl.tasks.base import TaskKind

LIMIT = 2000
"""Rows that a teacher is measured on before training, and among which a cause is looked for."""
RESAMPLES = 400


@dataclass(frozen=True)
class Measured:
    """A score and how sure it is.

    Attributes:
        score: in the units of the task's metric.
        error: its standard error over rows, or over groups where rows share something; 0 where a single group
            leaves nothing to resample.
        rows: how many it was measured on.
        constant: the score of the best answer that never looks at the image.
    """

    score: float
    error: float
    rows: int
    constant: float


Rows = Callable[[int | None], Iterable[Batch]]
"""Labelled rows on the teacher's device, at most so many, spread evenly; anew at every call."""

Answer = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [0, 1] -> logits."""


@torch.no_grad()
def measure(answer: Answer, kind: TaskKind, task: str, batches: Iterable[Batch]) -> Measured | None:
    """Score a network on rows that are labelled for its task; None where there are none.

    Args:
        answer: of the network.
        kind: of the task.
        task: its name.
        batches: on the network's device; each is looked at once and let go.
    """
    statistics: list[Tensor] = []
    counts: list[Tensor] = []
    groups: list[str] = []
    labelled = False
    for batch in batches:
        labelled = labelled or any(kind.has_label(label) for label in batch.labels[task])
        statistics.append(kind.statistics(answer(batch.images), batch.labels[task]))
        counts.append(kind.label_counts(batch.labels[task]))
        groups += batch.groups
    if not labelled:
        return None
    rows = torch.cat(statistics)
    interval = paired_interval(
        groups, rows, None, kind.score, additive=kind.additive, resamples=RESAMPLES, seed=0
    )
    return Measured(
        score=float(kind.score(rows)),
        error=(interval[1] - interval[0]) / (2 * 1.96) if interval is not None else 0.0,
        rows=len(groups),
        constant=kind.constant_score(torch.stack(counts).sum(0)),
    )


@torch.no_grad()
def gain(
    answer: Answer, over: Answer, kind: TaskKind, task: str, batches: Sequence[Batch]
) -> tuple[float, float]:
    """How much more points one answer scores than another on the same rows, and the lower end of its 95 % interval."""
    groups = [group for batch in batches for group in batch.groups]
    mine, other = (
        torch.cat([kind.statistics(a(b.images), b.labels[task]) for b in batches]) for a in (answer, over)
    )
    sign = 1 if kind.higher_is_better else -1
    interval = paired_interval(
        groups, mine, other, kind.score, additive=kind.additive, resamples=RESAMPLES, seed=0
    )
    ends = interval or (0.0, 0.0)
    return sign * float(kind.score(mine) - kind.score(other)), min(sign * end for end in ends)


def thinned(batches: Sequence[Batch], rows: int) -> list[Batch]:
    """About so many rows, the same share of each batch, drawn by lot; all where there are not more.

    By lot, because classes may follow each other in turn.
    """
    total = sum(len(batch) for batch in batches)
    if total <= rows:
        return list(batches)
    return [batch.only(shuffled(len(batch))[: max(1, len(batch) * rows // total)]) for batch in batches]


def shuffled(rows: int) -> Tensor:
    """int64 [rows]: their numbers in an order by lot, always the same one."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(rows))


TOLERANCE = 2.0
SIGMAS = 2.0


@dataclass(frozen=True)
class Expected:
    """What a teacher is known to score.

    Attributes:
        score: in the units of the task's metric.
        rows: how many rows it was measured on; None where nobody says.
    """

    score: float
    rows: int | None = None


def complaint(measured: Measured, expected: Expected | None, kind: TaskKind) -> str | None:
    """What is wrong with a measured teacher, or None.

    A teacher may fall short of a recorded score by 2 points and by what chance explains: both scores were
    measured on a sample, so the difference has the errors of both. Where scores have a unit of their own, 2 % of
    what lies between a constant answer and the recorded score stand for the 2 points. A recorded score that a
    constant answer reaches is no reason to believe a teacher; the recipe's word is. Without either it must be clearly
    better than the best constant answer.
    """
    sign = 1 if kind.higher_is_better else -1
    above = sign * (measured.score - measured.constant)
    if expected is not None:
        short = sign * (expected.score - measured.score)
        recorded_error = measured.error * math.sqrt(measured.rows / expected.rows) if expected.rows else 0.0
        tolerance = TOLERANCE if kind.in_points else TOLERANCE / 100 * abs(expected.score - measured.constant)
        if short > tolerance and short > SIGMAS * math.hypot(measured.error, recorded_error):
            return f"scores {measured.score:.2f}, expected {expected.score:.2f}"
        if expected.rows is not None and above <= 0:  # as recorded, and yet it knows nothing
            return f"scores {measured.score:.2f}, no better than the best constant answer ({measured.constant:.2f})"
        return None
    # Nobody says what to expect, so the bar is low: a tenth of the way from a constant answer to a perfect one.
    if above <= max(0.1 * abs(kind.perfect - measured.constant), SIGMAS * measured.error):
        return f"scores {measured.score:.2f}, hardly better than the best constant answer ({measured.constant:.2f})"
    return None
