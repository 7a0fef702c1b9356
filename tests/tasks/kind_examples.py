"""One example per kind of task, for what every kind must keep: a new kind joins with one more entry."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.tasks.base import TaskKind, build_kind

CLASSES = ("cat", "dog", "bird")
ROWS = 6


@dataclass(frozen=True)
class Example:
    """What the tests need to know of one kind.

    Attributes:
        data: (kind, generator) -> student logits, teacher logits (maps of another size) and labels of ROWS rows.
        constants: (kind, logits of the data) -> answers that never look at the image, the best among them.
        classes: of the task; none where the kind has its own.
        options: some that are not the defaults.
        temperature: it changes the soft-target loss.
        tolerance: how far, as a share, the best constant's score may be off where it is read from bins.
    """

    data: Callable[[TaskKind, torch.Generator], tuple[Tensor, Tensor, Tensor]]
    constants: Callable[[TaskKind, Tensor, Tensor], list[Tensor]]
    classes: tuple[str, ...] = CLASSES
    options: Mapping[str, Any] = field(default_factory=dict)
    temperature: bool = True
    tolerance: float = 1e-6

    def kind(self, name: str, metric: str | None = None, **options: Any) -> TaskKind:
        return build_kind(name, self.classes, metric, **options)

    def draw(self, kind: TaskKind, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        return self.data(kind, torch.Generator().manual_seed(seed))


def one_class(kind: TaskKind, logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Always the same class."""
    found = []
    for index in range(len(kind.classes)):
        constant = torch.zeros_like(logits)
        constant[:, index] = 1
        found.append(constant)
    return found


def _classification(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits, teacher = torch.randn(2, ROWS, len(kind.classes), generator=generator)
    return logits, teacher, torch.randint(len(kind.classes), (ROWS,), generator=generator)


def _segmentation(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(ROWS, len(kind.classes), 4, 4, generator=generator)
    teacher = torch.randn(ROWS, len(kind.classes), 8, 8, generator=generator)
    labels = torch.randint(len(kind.classes), (ROWS, 8, 8), generator=generator)
    labels[:, :2] = kind.ignore_index
    return logits, teacher, labels


def _multilabel(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits, teacher = torch.randn(2, ROWS, len(kind.classes), generator=generator)
    labels = torch.randint(2, (ROWS, len(kind.classes)), generator=generator)
    labels[0], labels[1] = 1, 0
    labels[2, 0], labels[3, 1] = -1, -1
    return logits, teacher, labels


def _regression(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits, teacher, labels = torch.randn(3, ROWS, len(kind.classes), generator=generator)
    labels[2, 0] = labels[3, 1] = math.nan
    return logits, teacher, labels


def _each_decision(kind: TaskKind, logits: Tensor, labels: Tensor) -> list[Tensor]:
    count = len(kind.classes)
    decisions = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * count)
    return [decision.expand_as(logits) for decision in decisions]


def _means(kind: TaskKind, logits: Tensor, labels: Tensor) -> list[Tensor]:
    mean = labels.nanmean(0)
    return [(mean + step).expand_as(logits) for step in (0.0, 0.3, -0.3)]


def _depth(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits, teacher = (0.5 + 2 * torch.rand(ROWS, 1, side, side, generator=generator) for side in (4, 8))
    labels = 0.5 + 2 * torch.rand(ROWS, 8, 8, generator=generator)
    labels[:, :2] = 0
    return logits, teacher, labels


def _every_depth(kind: TaskKind, logits: Tensor, labels: Tensor) -> list[Tensor]:
    return [torch.full_like(logits, 0.4 * 1.005**step) for step in range(400)]


def _normals(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits, teacher = (torch.randn(ROWS, 3, side, side, generator=generator) for side in (4, 8))
    ahead = torch.tensor([0.3, -0.2, 0.9]).view(3, 1, 1)
    labels = F.normalize(ahead + 0.2 * torch.randn(ROWS, 3, 8, 8, generator=generator), dim=1)
    labels[:, :, :2] = 0
    return logits, teacher, labels


def _directions_about_the_mean(kind: TaskKind, logits: Tensor, labels: Tensor) -> list[Tensor]:
    mean, generator = labels.sum((0, 2, 3)) / labels.any(1).sum(), torch.Generator().manual_seed(1)
    turned = mean + 0.1 * torch.randn(300, 3, generator=generator)
    return [direction.view(1, 3, 1, 1).expand_as(logits) for direction in turned]


def _embedding(kind: TaskKind, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    ahead = torch.tensor([1.0, -2.0, 0.5])
    logits, teacher, labels = ahead + torch.randn(3, ROWS, 3, generator=generator)
    return logits, teacher, labels


def _mean_direction(kind: TaskKind, logits: Tensor, labels: Tensor) -> list[Tensor]:
    mean, generator = F.normalize(labels, dim=1).mean(0), torch.Generator().manual_seed(1)
    turned = mean + 0.1 * torch.randn(100, 3, generator=generator)
    return [direction.expand_as(logits) for direction in (mean, *turned)]


EXAMPLES: Mapping[str, Example] = {
    "embedding": Example(
        _embedding,
        _mean_direction,
        options={"mean": [1, 2, 3], "std": 2, "smooth_l1": 0.5, "head": {"width": 8, "depth": 2}},
        temperature=False,
    ),
    "classification": Example(
        _classification,
        one_class,
        options={
            "label_smoothing": 0.1,
            "head": {"depth": 2},
            "dkd": {"beta": 2.0},
            "mirrored": [["cat", "dog"]],
        },
    ),
    "segmentation": Example(
        _segmentation,
        one_class,
        options={
            "ignore_index": 7,
            "head": {"width": 8, "depth": 2},
            "dice": 0.5,
            "mirrored": [["bird", "dog"]],
        },
    ),
    "multilabel": Example(
        _multilabel, _each_decision, options={"mirrored": [["cat", "dog"]], "head": {"width": 8, "depth": 2}}
    ),
    "regression": Example(
        _regression,
        _means,
        options={"loss": "l1", "scale": [1, 2, 3], "offset": 4, "bounded": 0.5, "negated": ["dog"]},
        temperature=False,
    ),
    "depth": Example(
        _depth,
        _every_depth,
        classes=(),
        options={"loss": "silog", "scale": 0.01, "typical": 3, "head": {"width": 8}},
        temperature=False,
        tolerance=0.05,
    ),
    "normals": Example(
        _normals,
        _directions_about_the_mean,
        classes=(),
        options={"head": {"width": 8}},
        temperature=False,
        tolerance=0.1,
    ),
}
