"""How a classifier is scored: each metric from sums over rows. Called by the kind `classification`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.tasks.calibration import BINS, places


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
        """[C] from statistics [R, K] of rows, NaN for a class that does not occur; None: the metric has no classes."""
        return None


class TopShare(ClassScore):
    """Share of the rows whose label is among the `most` likeliest classes. K = 3: right, rows, label.

    The label adds up to nothing: it is there for the scores of each class.
    """

    share_of_right = True

    def __init__(self, most: int) -> None:
        self.most = most

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Not topk for one class: where classes are equally likely, `decode` takes what argmax takes.
        likeliest = (
            logits.argmax(1, keepdim=True) if self.most == 1 else logits.topk(self.most, dim=1).indices
        )
        right = (likeliest == labels[:, None]).any(1)
        return torch.stack([right.long(), torch.ones_like(labels), labels], dim=1)

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
        """Each class's F1."""
        right, labelled, predicted = statistics.sum(0).chunk(3)
        return 100 * 2 * right / (labelled + predicted)

    def of_constant(self, counts: Tensor) -> float:
        """The commonest class's F1 out of those that occur."""
        most, rows = float(counts.max()), float(counts.sum())
        return 100 * 2 * most / max(1.0, most + rows) / max(1, int((counts > 0).sum()))


class CalibrationError(ClassScore):
    """Expected calibration error: how far the largest probability is from the share of right answers.

    As `calibration` defines it, from numbers by row. K = 3 x 16: probability, right, rows.
    """

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        probability, predicted = logits.softmax(1).max(1)
        within = F.one_hot(places(probability), BINS).double()
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
