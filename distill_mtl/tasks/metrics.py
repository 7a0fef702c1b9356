"""Metrics that are computed from numbers by row: class scores, average precision and calibration.

`CLASS_SCORES` are the metrics of classification, each from sums over rows. An average precision needs every answer in
order of its score: answers are put in order once (`rank`), and any number of resamples are scored from weights that say
how often each row counts. The calibration error is how far a network's confidence is from how often it is right.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class ClassScore(ABC):
    """One metric, in points of 100.

    Attributes:
        share_of_right: it is the share of right rows, which the first statistic counts.
    """

    share_of_right = False

    @abstractmethod
    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[R, K] of float32 logits [R, C] and labels int64 [R]; whatever is summed over rows."""

    @abstractmethod
    def of(self, totals: Tensor) -> Tensor:
        """The metric from sums [..., K] -> [...]."""

    @abstractmethod
    def of_constant(self, counts: Tensor) -> float:
        """The metric of the best answer that never looks at the image, from rows by class [C]."""

    def of_classes(self, statistics: Tensor, classes: int) -> Tensor | None:
        """[C] from statistics [R, K] of rows, NaN for a class without a label; None: the metric has no classes."""
        return None


class TopShare(ClassScore):
    """Share of the rows whose label is among the `most` likeliest classes. K = 3: right, rows, label.

    The label adds up to nothing: it is there for the scores of each class.
    """

    share_of_right = True

    def __init__(self, most: int) -> None:
        self.most = most

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        right = (self._likeliest(logits) == labels[:, None]).any(1)
        return torch.stack([right.long(), torch.ones_like(labels), labels], dim=1)

    def may_differ(self, logits: Tensor, other: Tensor) -> Tensor:
        """bool [R]: the rows whose likeliest classes are not the same for both networks, in any order."""
        mine, theirs = (self._likeliest(each).sort(1).values for each in (logits, other))
        return (mine != theirs).any(1)

    def _likeliest(self, logits: Tensor) -> Tensor:
        # Not topk for one class: where classes are equally likely, `decode` takes what argmax takes.
        return logits.argmax(1, keepdim=True) if self.most == 1 else logits.topk(self.most, dim=1).indices

    def of(self, totals: Tensor) -> Tensor:
        right, rows, _ = totals.unbind(-1)
        return 100 * right / rows.clamp(min=1)

    def of_classes(self, statistics: Tensor, classes: int) -> Tensor:
        """Of each class's rows the share that is right."""
        totals = torch.zeros(classes, 2, dtype=torch.float64)
        totals.index_add_(0, statistics[:, 2].long(), statistics[:, :2])
        return 100 * totals[:, 0] / totals[:, 1]

    def of_constant(self, counts: Tensor) -> float:
        """The share of the commonest classes."""
        return 100 * float(counts.topk(min(self.most, len(counts))).values.sum() / counts.sum().clamp(min=1))


class ByClass(ClassScore):
    """From right rows, labelled rows and predicted rows of every class, K = 3 C."""

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        labelled, predicted = F.one_hot(labels, classes), F.one_hot(logits.argmax(1), classes)
        return torch.cat([labelled * predicted, labelled, predicted], dim=1)


class BalancedAccuracy(ByClass):
    """Mean over the classes that occur in the labels of the share of their rows that is right."""

    def of(self, totals: Tensor) -> Tensor:
        right, labelled, _ = totals.chunk(3, dim=-1)
        return 100 * _mean(right / labelled.clamp(min=1), labelled > 0)

    def of_classes(self, statistics: Tensor, classes: int) -> Tensor:
        """Each class's recall."""
        right, labelled, _ = statistics.sum(0).chunk(3)
        return 100 * right / labelled

    def of_constant(self, counts: Tensor) -> float:
        """One class's recall out of those that occur."""
        return 100 / max(1, int((counts > 0).sum()))


class MacroF1(ByClass):
    """Mean of 2 right / (labelled + predicted) over the classes that occur in labels or predictions.

    As torchmetrics has it: a class that is only predicted counts with 0.
    """

    def of(self, totals: Tensor) -> Tensor:
        right, labelled, predicted = totals.chunk(3, dim=-1)
        rows = labelled + predicted
        return 100 * _mean(2 * right / rows.clamp(min=1), rows > 0)

    def of_classes(self, statistics: Tensor, classes: int) -> Tensor:
        """Each class's F1; none for a class that is only predicted, whose truth nobody knows."""
        right, labelled, predicted = statistics.sum(0).chunk(3)
        return (100 * 2 * right / (labelled + predicted)).where(labelled > 0, torch.nan)

    def of_constant(self, counts: Tensor) -> float:
        """The commonest class's F1 out of those that occur."""
        most, rows = float(counts.max()), float(counts.sum())
        return 100 * 2 * most / max(1.0, most + rows) / max(1, int((counts > 0).sum()))


class CalibrationError(ClassScore):
    """Expected calibration error: how far the largest probability is from the share of right answers.

    As `calibration_error` defines it, from numbers by row. K = 3 x 16: probability, right, rows.
    """

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        probability, predicted = logits.softmax(1).max(1)
        within = F.one_hot(confidence_bins(probability), BINS).double()
        right = predicted == labels
        return torch.cat([within * probability[:, None], within * right[:, None], within], dim=1)

    def of(self, totals: Tensor) -> Tensor:
        probability, right, rows = totals.chunk(3, dim=-1)
        return 100 * (probability - right).abs().sum(-1) / rows.sum(-1).clamp(min=1)

    def of_constant(self, counts: Tensor) -> float:
        """100, the worst there is: the shares of the classes as the answer to everything are perfectly
        calibrated, so a comparison with a constant answer would refuse every network."""
        return 100.0


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Over the last dimension, of the values where something holds; 0 where it holds nowhere."""
    return (values * where).sum(-1) / where.sum(-1).clamp(min=1)


CLASS_SCORES: Mapping[str, ClassScore] = {
    "accuracy": TopShare(1),
    "balanced_accuracy": BalancedAccuracy(),
    "macro_f1": MacroF1(),
    "top5": TopShare(5),
    "ece": CalibrationError(),
}


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


class Ranking(NamedTuple):
    """Answers in order, highest score first.

    Attributes:
        columns: int64 [N], of the weights, those of each answer's row or its own.
        hits: bool [N], which answers are right.
        last: bool [N], the last answer of each score.
    """

    columns: Tensor
    hits: Tensor
    last: Tensor


def rank(scores: Tensor, hits: Tensor, rows: Tensor | None = None) -> Ranking:
    """Put answers in order, for any number of resamples.

    Args:
        scores: [N].
        hits: bool [N], which answers are right.
        rows: int64 [N], the row that each answer belongs to; None: each is a row.
    """
    order = scores.argsort(descending=True)
    ranked = scores[order]
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]
    return Ranking(order if rows is None else rows[order], hits[order], last)


def precision_recall(ranking: Ranking, weights: Tensor, positives: Tensor) -> Curve:
    """The curve of each resample. Answers of equal score are taken together, as scikit-learn does.

    Args:
        ranking: of the answers.
        weights: [S, R], how often each row counts.
        positives: [S], how many answers could be right, also those that were not given.
    """
    counted = weights.double()[:, ranking.columns]
    taken = counted.cumsum(1)[:, ranking.last]
    right = (counted * ranking.hits).cumsum(1)[:, ranking.last]
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
        scores, hits, rows: as in `rank`. Rows keep memory small where they have several answers.
        weights, positives: as in `precision_recall`.
        interpolated: at COCO's 101 recalls instead of step by step.

    Returns:
        float64 [S]; NaN without positives.
    """
    area = interpolated_area if interpolated else stepwise_area
    chunk = max(1, _AT_ONCE // max(1, len(scores)))
    ranking = rank(scores, hits, rows)
    parts = [
        area(precision_recall(ranking, some, wanted))
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


BINS = 16
"""Of confidence: 15 equal ones, each with its lower border, and one for exactly 1, as torchmetrics has them."""
_UNIT = 2**24  # whole numbers: their sum is the same in any order, however rows were split


def confidence_bins(confidence: Tensor) -> Tensor:
    """int64, like `confidence` in [0, 1]: the bin of each answer."""
    borders = torch.linspace(0, 1, BINS, dtype=confidence.dtype, device=confidence.device)
    return (torch.bucketize(confidence, borders, right=True) - 1).clamp(0, BINS - 1)


def confidence_counts(confidence: Tensor, right: Tensor) -> Tensor:
    """int64 [3, BINS] on the CPU: summed confidence (in 1 / 2^24), right answers and answers of each bin.

    Args:
        confidence: float32 [N], the probability of what was answered.
        right: bool [N].
    """
    place = confidence_bins(confidence)
    counts = torch.zeros(3, BINS, dtype=torch.long, device=confidence.device)
    counts[0].index_add_(0, place, (confidence * _UNIT).long())
    counts[1].index_add_(0, place, right.long())
    counts[2].index_add_(0, place, torch.ones_like(place))
    return counts.cpu()


def calibration_error(counts: Tensor) -> float:
    """In points of 100, from summed `confidence_counts`; 0 where nothing was answered.

    The mean over answers of the distance, in their bin, between mean confidence and share of right answers (Guo et al.
    2017, arXiv:1706.04599, equation 3).

    To four digits: the last bits of a confidence depend on how many rows its network answered at once.
    """
    confidence, right, answers = counts.double()
    return round(100 * float((confidence / _UNIT - right).abs().sum() / answers.sum().clamp(min=1)), 4)
