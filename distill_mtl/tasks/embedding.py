"""What a network feels: the vector of a picture (DINO, CLIP, a retrieval network), or a map of vectors.

Its label is a teacher's own answer. Seldom has a data set any: then check and evaluation take the teacher's answers for
labels (`teacher_labels`), and every row trains with soft targets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import Size
from distill_mtl.networks.features import FeatureShape
from distill_mtl.recipe.long_form import AUTO
from distill_mtl.tasks.base import DEFAULT_HEAD, KINDS, HeadShape, Shown, TaskKind, Truth
from distill_mtl.tasks.heads import PooledHead, pyramid_levels
from distill_mtl.tasks.maps import map_size, read_npy, resized, write_npy
from distill_mtl.tasks.options import is_number, number, positive_number

_DIGITS = 6  # of mean and std in a recipe
_ROWS_AT_ONCE = 1024  # whose neighbours are looked for
_TIE = 1e-9
"""Two neighbours whose cosines differ by less are equally near."""
_SHOWN = 4  # numbers in a caption
_FLAT = 1e-6
"""Spread of a teacher's answers, as a share of their length, below which they do not depend on the picture."""


@KINDS.register("embedding")
class Embedding(TaskKind):
    """Logits and labels float32 [R, D] in the teacher's own units; classes are the D numbers.

    The head gives standardised numbers, times `std` plus `mean`. The loss compares standardised vectors: 1 - cosine,
    and `smooth_l1` times the mean smooth-L1 distance of their numbers, as AM-RADIO matches features (Ranzinger et al.
    2024, arXiv:2312.06709, section 3.3, equation (3), with 0.9 and 0.1). Temperatures mean nothing here.

    Metrics, of vectors in the teacher's own units and in points: `cosine`, the mean cosine to the label;
    `recall_at_1`, the share of rows whose nearest other row is the one that is nearest by the labels.

    Args:
        map: a map of vectors, [R, D, h, w]; see `EmbeddingMap`.
        mean: of each number over pictures; auto: measured before training from the teacher's answers.
        std: one number for all, so that directions keep their weight against each other (PHI-S, Ranzinger et al. 2024,
            arXiv:2410.01680, without its rotation); auto: measured with the mean.
        smooth_l1: weight of the smooth-L1 distance beside the cosine.
    """

    name = "embedding"
    member = "embedding.npy"
    metrics = ("cosine", "recall_at_1")
    teacher_labels = True
    output_options = ("map",)
    head_options = ("mean", "std")
    settled_options = ("mean", "std")
    from_table = "file"

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        map: bool = False,
        mean: Sequence[float] | str = AUTO,
        std: float | str = AUTO,
        smooth_l1: float = 0.1,
    ) -> None:
        super().__init__(classes, metric, head=head)
        numbers = mean if isinstance(mean, list | tuple) else []
        if mean != AUTO and not (len(numbers) == len(classes) and all(is_number(value) for value in numbers)):
            raise UserError(
                f"options.mean: expected auto, or a list of {len(classes)} numbers, one for each of the vector's."
            )
        self.mean = None if mean == AUTO else tuple(float(value) for value in numbers)
        self.std = None if std == AUTO else positive_number("std", std)
        self.smooth_l1 = number("smooth_l1", smooth_l1)

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type["TaskKind"]:
        said = options.get("map", False)
        if not isinstance(said, bool):
            raise UserError(f"options.map: found {said!r}, expected true or false.")
        return EmbeddingMap if said else Embedding

    @property
    def unsettled(self) -> bool:
        return self.mean is None or self.std is None

    def options_from(self, answers: Iterable[Tensor]) -> dict[str, Any]:
        """`mean` and `std` of a teacher's answers."""
        total = torch.zeros(len(self.classes), dtype=torch.float64)
        squares, count = total.clone(), 0
        for some in answers:
            vectors = some.double().flatten(2).movedim(1, 2).flatten(0, 1) if some.ndim > 2 else some.double()
            total, squares, count = (
                total + vectors.sum(0),
                squares + vectors.square().sum(0),
                count + len(vectors),
            )
        mean = total / max(count, 1)
        std = float((squares / max(count, 1) - mean.square()).clamp(min=0).mean().sqrt())
        if not torch.isfinite(mean).all() or not std > _FLAT * float(mean.square().mean().sqrt()):
            raise UserError(
                "its vectors are alike for all pictures, or not finite, so there is nothing to learn from them. Is "
                "this the right output, and its input as it should be?"
            )
        return {
            "mean": [float(f"{value:.{_DIGITS}g}") for value in mean.tolist()],
            "std": float(f"{std:.{_DIGITS}g}"),
        }

    # ---- labels
    def read_label(self, payload: bytes) -> Tensor:
        vector = read_npy(payload)
        if vector.shape != (len(self.classes),):
            raise ValueError(
                f"the vector has the shape {list(vector.shape)}, expected [{len(self.classes)}]."
            )
        label = torch.from_numpy(vector)
        if not label.isfinite().all():
            raise ValueError("the vector holds a number that is not finite.")
        return label

    def has_label(self, label: Tensor) -> bool:
        return bool(label.isfinite().all()) and label.numel() > 0

    def filler(self, size: Size) -> Tensor:
        return torch.full((len(self.classes),), torch.nan)

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        return self.member, write_npy(decoded["embedding"].float().cpu().numpy())

    # ---- the network
    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return ("pooled",)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return _InUnits(
            PooledHead(features["pooled"].channels, len(self.classes), self.shape), self.mean, self.std
        )

    # ---- losses
    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._distance(logits, labels)

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        return self._distance(logits, teacher_logits.detach())

    def _distance(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """float32 [R], for maps the mean over the pixels of the student's."""
        logits, wanted = logits.float(), wanted.float()
        if logits.ndim == 4:
            wanted = resized(wanted, map_size(logits))
        mine, theirs = self._standardised(logits), self._standardised(wanted)
        apart = _half_square(F.normalize(mine, dim=1), F.normalize(theirs, dim=1))
        moved = F.smooth_l1_loss(mine, theirs, reduction="none").mean(1)
        return _over_pixels(apart + self.smooth_l1 * moved)

    def _standardised(self, vectors: Tensor) -> Tensor:
        if self.mean is not None:
            mean = torch.tensor(self.mean).to(vectors.device, non_blocking=True)
            vectors = vectors - mean.view(-1, *[1] * (vectors.ndim - 2))
        return vectors / (self.std or 1.0)

    # ---- answers
    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`embedding`, unit vectors float32 [B, D]."""
        return {"embedding": F.normalize(logits.float(), dim=1)}

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return self.show_answer(label, image)

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        vector = F.normalize(logits.float().flatten(1).mean(1) if logits.ndim > 1 else logits.float(), dim=0)
        first = " ".join(f"{value:+.2f}" for value in vector[:_SHOWN].tolist())
        return Shown(None, f"{first}{' …' if len(vector) > _SHOWN else ''}")

    # ---- scores
    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[cosine], K = 1; for `recall_at_1` also the unit vectors of answer and label, K = 1 + 2 D.

        Of maps the cosine is a mean over pixels, and the vectors are those of the maps' means.
        """
        logits, labels = logits.float().nan_to_num().cpu().double(), labels.float().cpu().double()
        if logits.ndim == 4:
            labels = resized(labels, map_size(logits))
        cosine = F.cosine_similarity(logits, labels, dim=1)
        cosine = _over_pixels(cosine)[:, None]
        if self.metric == "cosine":
            return cosine
        return torch.cat([cosine, *(F.normalize(_pooled(each), dim=1) for each in (logits, labels))], 1)

    def score(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        of_rows = statistics[:, 0] if self.metric == "cosine" else _same_neighbour(statistics[:, 1:])
        if weights is None:
            return 100 * of_rows.mean()
        return 100 * (weights @ of_rows) / weights.sum(1)

    def row_scores(self, statistics: Tensor) -> Tensor:
        """The cosine, for `recall_at_1` too: a row alone has no neighbour."""
        return 100 * statistics[:, 0]

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """The cosine, 0 where it is below."""
        other = resized(other.float(), map_size(logits)) if logits.ndim == 4 else other.float()
        apart = _half_square(F.normalize(logits.float(), dim=1), F.normalize(other, dim=1))
        return (1 - _over_pixels(apart)).clamp(0, 1).cpu().double()

    def label_counts(self, labels: Tensor) -> Tensor:
        """[sum of the labels' unit vectors, their number], K = D + 1."""
        unit = F.normalize(labels.cpu().double(), dim=1)
        unit = _pooled(unit)
        return torch.cat([unit.sum(0), unit.new_tensor([len(unit)])])

    def constant_score(self, counts: Tensor) -> float:
        """Of `cosine` that of the labels' mean direction, which is the best: the length of the mean of their unit
        vectors. To a constant all rows are equally near, and one of them is right."""
        rows = counts[-1]
        if self.metric == "cosine":
            return 100 * float((counts[:-1] / rows.clamp(min=1)).norm())
        return 100 / max(1.0, float(rows) - 1)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "map": self.dense,
            "mean": AUTO if self.mean is None else list(self.mean),
            "std": AUTO if self.std is None else self.std,
            "smooth_l1": self.smooth_l1,
        }


class EmbeddingMap(Embedding):
    """Logits [R, D, h, w] on the grid of the trunk's coarsest stage; a teacher's maps are resized to it (bilinear).

    Data sets have no labels of it.
    """

    dense = True

    def read_label(self, payload: bytes) -> Tensor:
        raise ValueError("maps of vectors are not read from files: their labels are a teacher's answers.")

    def filler(self, size: Size) -> Tensor:
        return torch.zeros(0)  # not D maps for every row

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return pyramid_levels(features)[-1:]

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        (level,) = self.needs(features)
        return _InUnits(
            _MapHead(level, features[level].channels, len(self.classes), self.shape), self.mean, self.std
        )

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`embedding`, unit vectors float32 [B, D, h, w], on the trunk's grid whatever the size of the image."""
        return super().decode(logits, size)


class _MapHead(nn.Module):
    """1x1 convolutions on a map [B, C, h, w], one unless more are asked for -> [B, D, h, w]."""

    def __init__(self, level: str, channels: int, outputs: int, shape: HeadShape) -> None:
        super().__init__()
        width, hidden = shape.width or channels, (shape.depth or 1) - 1
        self.level, inputs = level, [channels, *[width] * hidden]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(inputs[place], width, 1), nn.GELU()) for place in range(hidden))
        )
        self.project = nn.Conv2d(inputs[-1], outputs, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        vectors: Tensor = self.project(self.hidden(features[self.level]))
        return vectors


class _InUnits(nn.Module):
    """Standardised vectors -> vectors in the teacher's units. Mean and std are the recipe's, not weights."""

    def __init__(self, standardised: nn.Module, mean: Sequence[float] | None, std: float | None) -> None:
        super().__init__()
        self.standardised, self.std = standardised, std or 1.0
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean or (0.0,)), persistent=False)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        vectors: Tensor = self.standardised(features).float() * self.std
        return vectors + self.mean.view(-1, *[1] * (vectors.ndim - 2))


def _half_square(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of unit vectors over dimension 1, as half their squared distance: exactly 0 where they are equal."""
    return (one - other).square().sum(1) / 2


def _over_pixels(values: Tensor) -> Tensor:
    """[R] from [R] or [R, h, w]."""
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def _pooled(vectors: Tensor) -> Tensor:
    return vectors.flatten(2).mean(2) if vectors.ndim > 2 else vectors


def _same_neighbour(vectors: Tensor) -> Tensor:
    """float64 [R]: whether the nearest other row by the answers is the nearest by the labels; of several that are
    equally near by the answers, the share of them that is.

    Args:
        vectors: [R, 2 D], unit vectors of answers and labels.
    """
    answers, labels = vectors.chunk(2, dim=1)
    found = torch.zeros(len(vectors), dtype=torch.float64)
    if len(vectors) < 2:
        return found
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = torch.arange(first, min(first + _ROWS_AT_ONCE, len(vectors)))
        mine, theirs = (each[rows] @ each.T for each in (answers, labels))
        for cosines in (mine, theirs):
            cosines[torch.arange(len(rows)), rows] = -torch.inf
        nearest, wanted = (each >= each.amax(1, keepdim=True) - _TIE for each in (mine, theirs))
        found[rows] = (nearest & wanted).sum(1).double() / nearest.sum(1)
    return found
