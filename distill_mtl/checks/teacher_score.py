"""A teacher's score on its own labelled rows, measured through the data path of training, and whether it is enough.

`teacher_check` measures with it, `diagnoses` compares with it. A wrong teacher teaches wrong answers well.
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
"""Rows that a teacher is measured on before training, and that a cause is looked for in."""
RESAMPLES = 400
TOLERANCE = 2.0
"""Points that a score may be below the expected one."""
SIGMAS = 2.0
"""Standard errors that count as chance."""


@dataclass(frozen=True)
class MeasuredScore:
    """A score and how sure it is.

    Attributes:
        score: in the units of the task's metric.
        error: its standard error over rows, or over groups of rows; 0 where all rows are one group.
        rows: how many it was measured on.
        constant: the score of the best constant answer.
        broken: rows whose answer has a number that is not finite.
    """

    score: float
    error: float
    rows: int
    constant: float
    broken: int = 0


@dataclass(frozen=True)
class ExpectedScore:
    """The score that a teacher should reach.

    Attributes:
        score: in the units of the task's metric.
        rows: how many rows it was measured on; None if unknown.
        stated: the recipe says it, so a person has looked at it. False: it was recorded with the weights.
    """

    score: float
    rows: int | None = None
    stated: bool = True


LabelledRows = Callable[[int | None], Iterable[Batch]]
"""Labelled rows on the teacher's device, at most so many, spread evenly; each call reads them again."""

Answer = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [0, 1] -> logits."""


@torch.no_grad()
def measure_score(
    answer: Answer, kind: TaskKind, task: str, batches: Iterable[Batch]
) -> MeasuredScore | None:
    """Score a network on rows that are labelled for its task; None where there are none.

    Args:
        answer: of the network.
        kind: of the task.
        task: its name.
        batches: on the network's device; each is read once and not kept.
    """
    statistics: list[Tensor] = []
    counts: list[Tensor] = []
    groups: list[str] = []
    labelled, broken = False, 0
    for batch in batches:
        labelled = labelled or any(kind.has_label(label) for label in batch.labels[task])
        logits = answer(batch.images)
        finite = logits.isfinite().flatten(1).all(1)
        broken += int((~finite).sum())
        statistics.append(
            kind.statistics(logits if finite.all() else logits.nan_to_num(), batch.labels[task])
        )
        counts.append(kind.label_counts(batch.labels[task]))
        groups += batch.groups
    if not labelled:
        return None
    rows = torch.cat(statistics)
    interval = paired_interval(
        groups, rows, None, kind.score, additive=kind.additive, resamples=RESAMPLES, seed=0
    )
    return MeasuredScore(
        score=float(kind.score(rows)),
        error=(interval[1] - interval[0]) / (2 * 1.96) if interval is not None else 0.0,
        rows=len(groups),
        constant=kind.constant_score(torch.stack(counts).sum(0)),
        broken=broken,
    )


@torch.no_grad()
def row_statistics(answer: Answer, kind: TaskKind, task: str, batches: Iterable[Batch]) -> Tensor:
    """float64 [R, K]: what the score of these rows follows from."""
    return torch.cat([kind.statistics(answer(each.images), each.labels[task]) for each in batches])


def score_gain(kind: TaskKind, groups: Sequence[str], mine: Tensor, other: Tensor) -> tuple[float, float]:
    """How many points one answer gains over another on the same rows, and the lower end of the 95 % interval.

    Args:
        kind: of the task.
        groups: of the rows.
        mine, other: `row_statistics` of the two answers.
    """
    sign = 1 if kind.higher_is_better else -1
    interval = paired_interval(
        groups, mine, other, kind.score, additive=kind.additive, resamples=RESAMPLES, seed=0
    )
    ends = interval or (0.0, 0.0)
    return sign * float(kind.score(mine) - kind.score(other)), min(sign * end for end in ends)


def subsample(batches: Sequence[Batch], rows: int) -> list[Batch]:
    """About so many rows, the same share of each batch, drawn at random because classes may follow in turn.

    All rows where there are not more.
    """
    total = sum(len(batch) for batch in batches)
    if total <= rows:
        return list(batches)
    return [batch.only(random_order(len(batch))[: max(1, len(batch) * rows // total)]) for batch in batches]


def random_order(rows: int) -> Tensor:
    """int64 [rows]: a random permutation, always the same one."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(rows))


def score_problem(measured: MeasuredScore, expected: ExpectedScore | None, kind: TaskKind) -> str | None:
    """What is wrong with a measured teacher, as what follows its name; None if nothing is.

    - No answer may hold a number that is not finite.
    - With an expected score, it may be 2 points lower, or as much lower as chance explains: both scores come from a
      sample, so the difference has both errors. For scores in the label's unit, the 2 points are 2 % of the way
      from a constant answer to the expected score.
    - A recorded score that a constant answer also reaches proves nothing. One that the recipe states is accepted.
    - Without an expected score, it must be clearly better than the best constant answer.
    """
    if measured.broken:
        return f"gives numbers that are not finite (NaN or infinite) for {measured.broken:,} of {measured.rows:,} rows"
    if not math.isfinite(measured.score):
        return f"scores {measured.score}, which is not a finite number,"
    sign = 1 if kind.higher_is_better else -1
    above = sign * (measured.score - measured.constant)
    if expected is not None:
        short = sign * (expected.score - measured.score)
        recorded_error = measured.error * math.sqrt(measured.rows / expected.rows) if expected.rows else 0.0
        tolerance = TOLERANCE if kind.in_points else TOLERANCE / 100 * abs(expected.score - measured.constant)
        likely = short > SIGMAS * math.hypot(measured.error, recorded_error)
        if (short > tolerance and likely) or not math.isfinite(expected.score):
            return f"scores {measured.score:.2f}, expected {expected.score:.2f}"
        if not expected.stated and above <= 0:
            return f"scores {measured.score:.2f}, no better than the best constant answer ({measured.constant:.2f})"
        return None
    # The bar is low without an expected score: a tenth of the way from a constant answer to a perfect one.
    if above <= max(0.1 * abs(kind.perfect - measured.constant), SIGMAS * measured.error):
        return f"scores {measured.score:.2f}, hardly better than the best constant answer ({measured.constant:.2f})"
    return None
