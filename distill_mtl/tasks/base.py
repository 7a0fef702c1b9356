"""A kind of task: everything that differs between, say, classification and segmentation.

One file per kind implements this class and registers itself under the name that a recipe uses. The
rest of the program only speaks this interface: it never asks which kind it holds.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.features import FeatureShape
from distill_mtl.registry import Registry

KINDS: Registry[type["TaskKind"]] = Registry("kind of task", "distill_mtl.tasks")


class TaskKind(ABC):
    """One kind of task, for one list of classes.

    Losses and statistics are *per row*: the caller takes the mean over the rows of the step's global
    batch, so that no number depends on how the batch was split over processes or micro-batches.
    A dense row's loss is a mean over its pixels. Everything is computed in float32 whatever the
    precision of the logits; gradients reach the student's logits alone.

    Attributes:
        name: the kind, as the recipe and results.json call it.
        member: file ending of the label in a shard unless the recipe names another ("cls").
        metrics: names of the scores this kind can report; the first is the default.
        metric: the one that this task reports.
        higher_is_better: direction of the score.
        exclusive: a row (or pixel) is of one class, so that answers are a softmax over dim 1 of the logits.
        dense: the label is a map that follows the image's geometry (crop, flip, resize).
        ignore_index: dense kinds alone: the value of a pixel without a label, and of padding.
    """

    name: ClassVar[str]
    member: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    dense: ClassVar[bool] = False
    ignore_index: int = 255

    def __init__(self, classes: tuple[str, ...], metric: str | None = None) -> None:
        """Raises UserError for a list of classes or a metric that this kind cannot work with."""
        if len(classes) < 2:
            raise UserError(f"a {self.name} task needs at least two classes, found {list(classes)}.")
        if repeated := sorted({name for name in classes if classes.count(name) > 1}):
            raise UserError(f"class names must differ, found more than once: {', '.join(repeated)}.")
        if metric is not None and metric not in self.metrics:
            known = ", ".join(self.metrics)
            hint = nearest(metric, self.metrics)
            raise UserError(f"unknown metric '{metric}' of kind {self.name}.{hint} Known: {known}.")
        self.classes = classes
        self.metric = metric or self.metrics[0]

    # ---- the label on disk ------------------------------------------------------------------------
    @abstractmethod
    def read_label(self, payload: bytes) -> Tensor:
        """Decode one label member, int64. Raises ValueError, in words for the user, if it makes no sense."""

    @abstractmethod
    def has_label(self, label: Tensor) -> bool:
        """False for a label that says nothing (all pixels ignored); such a row counts as unlabelled."""

    # ---- the network ------------------------------------------------------------------------------
    @abstractmethod
    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        """Names of the trunk's features that this kind's head reads. Raises UserError if it has none."""

    @abstractmethod
    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        """A light head: forward(features by name) -> logits."""

    # ---- losses -----------------------------------------------------------------------------------
    @abstractmethod
    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float32 [R], one loss per row."""

    @abstractmethod
    def soft_target_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """float32 [R], one divergence per row, 0 where both agree, times temperature squared."""

    # ---- what a user gets -------------------------------------------------------------------------
    @abstractmethod
    def decode(self, logits: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """The answers a user of the model wants, by name; `size` is the height and width of the image."""

    # ---- scores -----------------------------------------------------------------------------------
    @abstractmethod
    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float64 [R, K] on the CPU: additive counts per row; `score` follows from their sum."""

    @abstractmethod
    def score(self, totals: Tensor) -> Tensor:
        """The metric in points of 100 from summed statistics [..., K] -> [...]."""

    @abstractmethod
    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """float64 [R] on the CPU, in [0, 1]: how far two networks decide alike on each row."""

    @abstractmethod
    def label_counts(self, labels: Tensor) -> Tensor:
        """float64 [classes] on the CPU: how often each class is the label, summed over the rows."""

    @abstractmethod
    def constant_score(self, counts: Tensor) -> float:
        """The score of the best answer that never looks at the image, from summed `label_counts`."""

    def describe(self) -> dict[str, Any]:
        """What config.json of a student folder keeps: `build_kind(**kind.describe())` is this kind again."""
        return {"kind": self.name, "classes": list(self.classes), "metric": self.metric}


def build_kind(kind: str, classes: Sequence[str], metric: str | None = None, **options: Any) -> TaskKind:
    """The kind of task that a recipe or a student folder names.

    Raises:
        UserError: unknown kind, metric or option, or a value that the kind refuses.
    """
    cls = KINDS[kind]
    known = [name for name in inspect.signature(cls).parameters if name not in ("classes", "metric")]
    for option in options:
        if option not in known:
            hint = nearest(option, known)
            raise UserError(
                f"unknown option '{option}' of kind {kind}.{hint} Known: {', '.join(known) or 'none'}."
            )
    return cls(tuple(classes), metric=metric, **options)


__all__ = ["KINDS", "TaskKind", "build_kind"]
