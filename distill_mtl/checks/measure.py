"""A teacher's score on its own labelled rows, through the very path that training uses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.evaluation.bootstrap import group_totals, paired_interval
from distill_mtl.tasks.base import TaskKind

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


@torch.no_grad()
def measure(
    answer: Callable[[Tensor], Tensor], kind: TaskKind, task: str, batches: Sequence[Batch]
) -> Measured:
    """Score a network on rows that are labelled for its task.

    Args:
        answer: images [B, 3, H, W] in [0, 1] -> logits.
        kind: of the task.
        task: its name.
        batches: at least one, on the network's device.
    """
    rows = torch.cat([kind.statistics(answer(batch.images), batch.labels[task]) for batch in batches])
    labels = torch.stack([kind.label_counts(batch.labels[task]) for batch in batches]).sum(0)
    totals = group_totals([group for batch in batches for group in batch.groups], rows)
    # The interval of a score beside one that is always 0 is the interval of the score itself.
    interval = paired_interval(totals, torch.zeros_like(totals), kind.score, resamples=RESAMPLES, seed=0)
    return Measured(
        score=float(kind.score(totals.sum(0))),
        error=(interval[1] - interval[0]) / (2 * 1.96) if interval is not None else 0.0,
        rows=len(rows),
        constant=kind.constant_score(labels),
    )
