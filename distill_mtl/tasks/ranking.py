"""Precision and recall of ranked answers, for kinds whose score does not add up over rows.

An average precision needs every answer in order of its score, so a resample of the rows cannot be scored from
sums. Here the answers are put in order once, and any number of resamples are scored from weights that say how
often each row counts. Everything is float64.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 4_000_000  # weights of one chunk: some hundred MB with what is made of them
# NumPy's, as pycocotools has them: the last bit decides which threshold a recall reaches.
_COCO_RECALLS = torch.from_numpy(np.linspace(0.0, 1.0, 101))


class Curve(NamedTuple):
    """Precision and recall when all answers of a score or more are taken, for every distinct score.

    Attributes:
        precision: float64 [S, K], highest score first; 0 where nothing that counts is taken yet.
        recall: float64 [S, K], rising; 0 where there are no positives.
    """

    precision: Tensor
    recall: Tensor


def precision_recall(scores: Tensor, hits: Tensor, weights: Tensor, positives: Tensor) -> Curve:
    """The curve of each resample. Answers of equal score are taken together, as scikit-learn does.

    Args:
        scores: [N].
        hits: bool [N], which answers are right.
        weights: [S, N], how often each answer counts.
        positives: [S], how many answers could be right, those that nobody gave among them.
    """
    order = scores.argsort(descending=True)
    ranked = scores[order]
    last = torch.ones_like(ranked, dtype=torch.bool)  # of the answers that share a score
    last[:-1] = ranked[1:] != ranked[:-1]
    counted = weights.double()[:, order]
    taken = counted.cumsum(1)[:, last]
    right = (counted * hits[order]).cumsum(1)[:, last]
    wanted = positives.double()[:, None]
    return Curve(
        torch.where(taken > 0, right / taken, 0.0),
        torch.where(wanted > 0, right / wanted, 0.0),
    )


def average_precision(
    scores: Tensor,
    hits: Tensor,
    weights: Tensor,
    positives: Tensor,
    *,
    rows: Tensor | None = None,
    interpolated: bool = False,
) -> Tensor:
    """The area under the precision-recall curve of each resample, in [0, 1].

    Args:
        scores, hits, positives: as in `precision_recall`.
        weights: [S, N]; with `rows` [S, R], how often each row counts, which keeps memory small where a row has
            several answers.
        rows: int64 [N], the row that each answer belongs to.
        interpolated: at COCO's 101 recalls instead of step by step.

    Returns:
        float64 [S]; NaN where there are no positives, which says nothing about the answers.
    """
    area = interpolated_area if interpolated else stepwise_area
    chunk = max(1, _AT_ONCE // max(1, len(scores)))
    parts = [
        area(precision_recall(scores, hits, some if rows is None else some[:, rows], wanted))
        for some, wanted in zip(weights.split(chunk), positives.split(chunk), strict=True)
    ]
    return torch.where(positives > 0, torch.cat(parts), torch.nan)


def stepwise_area(curve: Curve) -> Tensor:
    """[S]: sum of precision times gain in recall, as scikit-learn's `average_precision_score` and torchmetrics."""
    gains = curve.recall.diff(dim=1, prepend=torch.zeros_like(curve.recall[:, :1]))
    return (curve.precision * gains).sum(1)


def interpolated_area(curve: Curve) -> Tensor:
    """[S]: mean over the recalls 0, 0.01, ..., 1 of the best precision at that recall or a higher one.

    As in COCO's evaluation (Lin et al. 2014, arXiv:1405.0312; `COCOeval.accumulate`), which is 0 at a recall that
    is never reached.
    """
    reachable = F.pad(curve.precision, (0, 1)).flip(1).cummax(1).values.flip(1)
    recalls = _COCO_RECALLS.to(curve.recall.device).expand(len(curve.recall), -1).contiguous()
    return reachable.gather(1, torch.searchsorted(curve.recall.contiguous(), recalls)).mean(1)
