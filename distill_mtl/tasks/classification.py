"""One class per image. Labels are class numbers or class names as text (`cls`, `txt`)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import Size
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.additive import AdditiveKind
from distill_mtl.tasks.base import KINDS, USUAL, HeadShape, Shown, Truth
from distill_mtl.tasks.divergence import log_of, soft_divergence, sums_to_one
from distill_mtl.tasks.pooled import PooledHead


@KINDS.register("classification")
class Classification(AdditiveKind):
    """Softmax over the classes; logits [R, C], labels int64 [R].

    Metrics: `accuracy`, the share of right rows, and `balanced_accuracy`, the mean over the classes
    that occur in the labels of the share of right rows.

    Args:
        label_smoothing: share of the supervised target spread over all classes. 0 by default: soft
            targets already smooth, and smoothing erases what they say about similar classes
            (Müller, Kornblith & Hinton 2019, arXiv:1906.02629).
    """

    name = "classification"
    member = "cls"
    metrics = ("accuracy", "balanced_accuracy")
    exclusive = True
    partial = True
    fewest_classes = 2

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = USUAL,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(classes, metric, head=head)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must be at least 0 and below 1, found {label_smoothing}.")
        self.label_smoothing = label_smoothing
        self._index = {name: index for index, name in enumerate(classes)}

    def read_label(self, payload: bytes) -> Tensor:
        try:
            text = payload.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(
                f"the label is not text: {payload[:16]!r}. A class number or name is expected."
            ) from None
        number = int(text) if text.isascii() and text.isdigit() else None
        if number is not None and number >= len(self.classes):
            number = None
        named = self._index.get(text)
        if number is None and named is None:
            raise ValueError(
                f"the label {text[:40]!r} is neither a class number from 0 to {len(self.classes) - 1} "
                f"nor one of the class names ({self._some_names()})."
            )
        if number is not None and named is not None and number != named:
            raise ValueError(
                f"the label '{text}' could be class number {number} ('{self.classes[number]}') or the name "
                f"of class {named}. Give the classes names that are not numbers."
            )
        return torch.tensor(named if number is None else number)

    def has_label(self, label: Tensor) -> bool:
        return True

    def filler(self, size: Size) -> Tensor:
        return torch.tensor(0)

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return ("pooled",)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return PooledHead(features["pooled"].channels, len(self.classes), self.shape)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=self.label_smoothing)

    @classmethod
    def are_probabilities(cls, answer: Tensor) -> bool:
        return sums_to_one(answer)

    @classmethod
    def logits_of(cls, probabilities: Tensor) -> Tensor:
        return log_of(probabilities)

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        # Rounding must not push a divergence below its floor: balancing may take its logarithm.
        return soft_divergence(logits, teacher_logits, temperature).clamp(min=0)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`probabilities` float32 [B, C] and `label` int64 [B]."""
        return {"probabilities": logits.float().softmax(dim=1), "label": logits.argmax(dim=1)}

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return Shown(None, self.classes[int(label)])

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        probability, label = logits.float().softmax(0).max(0)
        return Shown(None, f"{self.classes[int(label)]} {100 * float(probability):.0f} %")

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """accuracy: [right, rows]; balanced_accuracy: [right by class, rows by class], K = 2 C."""
        right = logits.argmax(dim=1) == labels
        if self.metric == "accuracy":
            columns = torch.stack([right, torch.ones_like(right)], dim=1)
        else:
            rows = F.one_hot(labels, len(self.classes))
            columns = torch.cat([rows * right[:, None], rows], dim=1)
        return columns.cpu().double()

    def score_totals(self, totals: Tensor) -> Tensor:
        right, rows = totals.chunk(2, dim=-1)
        recall = right / rows.clamp(min=1)
        return 100 * recall.sum(dim=-1) / (rows > 0).sum(dim=-1).clamp(min=1)

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        return (logits.argmax(dim=1) == other.argmax(dim=1)).cpu().double()

    def label_counts(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=len(self.classes)).cpu().double()

    def constant_score(self, counts: Tensor) -> float:
        """The majority class's share; one class's recall out of those that occur."""
        if self.metric == "accuracy":
            return 100 * float(counts.max() / counts.sum().clamp(min=1))
        return 100 / max(1, int((counts > 0).sum()))

    def describe(self) -> dict[str, object]:
        return super().describe() | {"label_smoothing": self.label_smoothing}

    def _some_names(self) -> str:
        return ", ".join(self.classes[:5]) + (", …" if len(self.classes) > 5 else "")
