"""Kinds whose scores follow from sums over rows: most of them."""

from abc import abstractmethod

from torch import Tensor

from distill_mtl.tasks.base import TaskKind


class AdditiveKind(TaskKind):
    """A kind whose statistics may be summed before they are scored."""

    additive = True

    def score(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.score_totals(statistics.sum(0) if weights is None else weights @ statistics)

    def row_scores(self, statistics: Tensor) -> Tensor:
        return self.score_totals(statistics)

    @abstractmethod
    def score_totals(self, totals: Tensor) -> Tensor:
        """The metric from summed statistics [..., K] -> [...]."""
