"""A linear probe of a teacher's features: do they tell its classes apart, whatever its last layer answers?

The features of a network whose head was replaced still do; those of a network with the weights of another task do
not. The probe is a ridge regression from features to classes, fitted on half of the rows and scored on the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.checks.teacher_score import random_order
from distill_mtl.data.batch import Batch
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

VECTORS = 8192
"""Feature vectors that a probe is fitted on, at most. More would matter for maps only, where neighbours are alike."""
FEWEST = 5
"""Labels that a class needs among the fitted rows; the probe is not scored on rarer classes."""
_ROWS = 32  # the maps of a whole batch, in the size of the finest, may not fit in memory
_RIDGE = 0.1  # as a share of the features' variance


@dataclass(frozen=True)
class ProbeScore:
    """The probe's score, and that of the best constant answer."""

    score: float
    constant: float


Examples = Sequence[tuple[Tensor, Tensor]]
"""Images and labels, a few rows at a time."""
Map = Callable[[Tensor], Tensor]


@torch.no_grad()
def probe(teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]) -> ProbeScore | None:
    """Score a probe on the features that the teacher's answer is computed from.

    Returns:
        None where no probe can be fitted: the network has no features, an image or pixel may have several classes,
        or fewer than two classes have enough rows.
    """
    layers, labels = teacher.network.answer_features, batches[0].labels[task]
    if not layers or not kind.exclusive:
        return None
    fitting, scoring = _half(batches, task, 0), _half(batches, task, 1)
    seen = torch.stack([kind.label_counts(part) for _, part in fitting]).sum(0).to(labels.device) >= FEWEST
    if not kind.dense:
        scoring = [(images[seen[part]], part[seen[part]]) for images, part in scoring if seen[part].any()]
    if seen.sum() < 2 or not scoring:
        return None
    with teacher.network.tapping(layers):
        read = _reader(teacher, layers)
        return _score(_fit(read, kind, seen, fitting), read, kind, scoring)


def _half(batches: Sequence[Batch], task: str, first: int) -> Examples:
    """One half of each batch's rows, at random."""
    parts = []
    for batch in batches:
        for rows in random_order(len(batch))[first::2].split(_ROWS):
            parts.append((batch.images[rows], batch.labels[task][rows]))
    return [(images, labels) for images, labels in parts if len(images)]


def _reader(teacher: Teacher, layers: Sequence[str]) -> Map:
    """Images -> the features [R, C, h, w] side by side in the size of the finest; vectors are maps of one pixel."""

    def read(images: Tensor) -> Tensor:
        features = teacher.raw(images)
        maps = [features[layer].float() for layer in layers]
        maps = [each if each.ndim == 4 else each[:, :, None, None] for each in maps]
        size = max((each.shape[2:] for each in maps), key=lambda size: size[0] * size[1])
        return torch.cat([F.interpolate(each, size) for each in maps], 1)

    return read


def _fit(read: Map, kind: TaskKind, seen: Tensor, rows: Examples) -> Map:
    """A function from features [R, C, h, w] to logits [R, classes, h, w]."""
    vectors, targets = [], []
    for images, labels in rows:
        features = read(images)
        if kind.dense:
            classes = F.interpolate(labels[:, None].float(), features.shape[2:], mode="nearest-exact").long()
        else:
            features, classes = features.mean((2, 3), keepdim=True), labels
        classes = classes.flatten()
        usable = (classes < len(kind.classes)).nonzero().flatten()  # without ignored pixels
        usable = usable[seen[classes[usable]]]
        usable = usable[:: max(1, len(usable) * len(rows) // VECTORS)]
        vectors.append(features.movedim(1, -1).flatten(0, 2)[usable].cpu())
        targets.append(classes[usable].cpu())
    weights, bias = _ridge(torch.cat(vectors).double(), torch.cat(targets), len(kind.classes))
    weights, bias = weights.to(seen.device), bias.to(seen.device)
    return lambda features: torch.einsum("rchw,ck->rkhw", features, weights) + bias[:, None, None]


def _ridge(vectors: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights [C, classes] and bias of least squares from standardised features to one-hot classes."""
    mean, scale = vectors.mean(0), vectors.std(0) + 1e-6
    inputs, wanted = (vectors - mean) / scale, F.one_hot(targets, classes).double()
    shares = wanted.mean(0)
    penalty = _RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    weights = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ (wanted - shares)) / scale[:, None]
    return weights.float(), (shares - mean @ weights).float()


def _score(decide: Map, read: Map, kind: TaskKind, rows: Examples) -> ProbeScore:
    statistics, counts = [], []
    for images, labels in rows:
        answers = decide(read(images))
        answers = answers if kind.dense else answers.mean((2, 3))
        statistics.append(kind.statistics(answers, labels))
        counts.append(kind.label_counts(labels))
    score = kind.score(torch.cat(statistics))
    return ProbeScore(float(score), kind.constant_score(torch.stack(counts).sum(0)))
