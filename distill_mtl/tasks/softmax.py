"""Kinds whose pictures or pixels are of one class each: a softmax over dim 1 of the logits."""

from collections.abc import Sequence

from torch import Tensor

from distill_mtl.geometry.views import View
from distill_mtl.tasks.additive import AdditiveKind
from distill_mtl.tasks.base import HeadShape
from distill_mtl.tasks.divergence import log_of, sums_to_one
from distill_mtl.tasks.mirrored import partners, read_pairs, swapped


class SoftmaxKind(AdditiveKind):
    """What such kinds share: how a teacher's probabilities are read, and classes that a mirror swaps."""

    exclusive = True
    partial = True
    fewest_classes = 2

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None,
        *,
        head: HeadShape,
        mirrored: Sequence[Sequence[str]],
    ) -> None:
        super().__init__(classes, metric, head=head)
        self.mirrored = read_pairs(mirrored, classes)
        self._partners = partners(self.mirrored, classes)

    @classmethod
    def are_probabilities(cls, answer: Tensor) -> bool:
        return sums_to_one(answer)

    @classmethod
    def logits_of(cls, probabilities: Tensor) -> Tensor:
        return log_of(probabilities)

    def describe(self) -> dict[str, object]:
        said = {"mirrored": [list(pair) for pair in self.mirrored]} if self.mirrored else {}
        return super().describe() | said

    def _in_mirror(self, label: Tensor, view: View) -> Tensor:
        """Class numbers as they are where the view is mirrored."""
        return swapped(label, self._partners) if view.flip and self.mirrored else label
