"""Surface normals, one direction per pixel. Labels are RGB PNG pictures (`normals.png`) or float arrays
(`normals.npy`).

Where many unit vectors point, as counts that add up: for the best constant answer of `normals`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import KINDS, AdditiveKind, Legend, Shown, Truth
from distill_mtl.tasks.drawing import GREY, grey_where_unknown
from distill_mtl.tasks.heads import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.json_values import plain_values
from distill_mtl.tasks.label import CountsTable, LabelCounts, count_pixels, percent
from distill_mtl.tasks.maps import (
    is_png,
    map_size,
    mean_where,
    paste_view,
    read_npy,
    read_png,
    resized,
    resized_where,
    shape_text,
    write_png,
)

_NEAR = 11.25
"""Degrees within which directions count as alike (Fouhey, Gupta & Hebert 2013, section 5)."""
_BIN = 0.1
_BINS = 1800
_SHORTEST = 0.5
"""Length below which a PNG's pixel has no direction: for pixels without a label mid-grey is as usual as black."""
_AXES = Legend(
    {
        "x": (255, 128, 128),
        "y": (128, 255, 128),
        "z": (128, 128, 255),
        "-x": (0, 128, 128),
        "-y": (128, 0, 128),
        "-z": (128, 128, 0),
    }
)
"""The colours of the axes, as `_shown` has them."""
_EPSILON = 1e-4
"""Length below which a vector has no direction."""


@KINDS.register("normals")
class Normals(AdditiveKind):
    """One unit vector per pixel; logits [R, 3, h, w] of any length, labels float32 [R, 3, H, W], 0 where there is none.

    x points right in the picture, so that a mirrored picture has the negative x; what y and z are is the
    labels' matter, and the teacher's must be the same. Logits may have another size than labels: they are
    resized (bilinear) and then brought to length 1. A teacher's zero vector teaches nothing.

    Metrics, over all pixels of all rows together, of the angle between answer and label: `mean_angle` and
    `median_angle` in degrees, and `within_11_25`, the share of pixels, in percent, below 11.25 degrees. The
    median is read from bins of 0.1 degrees, within which angles are taken as evenly spread: it is at most
    0.1 degrees off. A zero vector counts as 90 degrees off.
    """

    name = "normals"
    silent_label = "none of their pixels has a normal"
    member = "normals.png;normals.npy"
    metrics = ("mean_angle", "median_angle", "within_11_25")
    lower_is_better = frozenset({"mean_angle", "median_angle"})
    dense = True
    fixed_classes = ("x", "y", "z")
    from_table = "file"
    asked_as = "file"

    def read_label(self, payload: bytes) -> Tensor:
        return torch.from_numpy(_from_png(payload) if is_png(payload) else _from_npy(payload))

    def has_label(self, label: Tensor) -> bool:
        return bool(label.any())

    def filler(self, size: Size) -> Tensor:
        return torch.zeros(3, *size)

    def label_size(self, label: Tensor) -> Size:
        return map_size(label)

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        count_pixels(label.any(dim=0), counts)

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        pixels = counts.counts["pixels"]
        shares = (percent(pixels[part], pixels.total()) for part in ("labelled", "unlabelled"))
        return CountsTable(("", "with a normal", "without"), [("pixels", *shares)])

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        """In a mirror what faced right faces left."""
        seen = view.map(label, size, 0)
        if view.flip:
            seen[0].neg_()
        return seen

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return pyramid_levels(features)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return PyramidDecoder(features, 3, self.shape)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """1 - cosine, mean over the valid pixels of each row; 0 for a row that a crop left without any."""
        return mean_where(_apart(_facing(logits, map_size(labels)), labels), labels.any(dim=1))

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        """1 - cosine towards the teacher, where it answers with a direction, at the size of the student's logits.

        A direction is not a decision, so `temperature` and `truth` are not used.
        """
        size, theirs = map_size(logits), _finite(teacher_logits.detach())
        valid = theirs.norm(dim=1) > _EPSILON
        theirs, valid = resized_where(theirs, valid, size)
        return mean_where(_apart(_facing(logits, size), _unit(theirs)), valid)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`normals` float32 [B, 3, H, W], unit vectors at the image's size."""
        return {"normals": _facing(logits, size)}

    def to_picture(self, decoded: Mapping[str, Tensor], view: View, picture: Size) -> dict[str, Tensor]:
        """Pixels beyond the view are without a direction."""
        return {"normals": paste_view(decoded["normals"], view, picture, 0.0)}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`mean`: x, y and z of the pixels' mean direction."""
        mean = _unit(_finite(decoded["normals"][None]).sum((2, 3)))[0]
        return {"mean": dict(zip(self.classes, plain_values(mean), strict=True))}

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """An RGB PNG of 8 bits, black where there is no direction; directions are rounded by up to half a degree."""
        vectors = _finite(decoded["normals"][None])[0]
        pixels = (255 * (vectors + 1) / 2).round() * vectors.any(dim=0)
        return "normals.png", write_png(pixels.permute(1, 2, 0).to(torch.uint8).numpy())

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return _shown(label)

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        return _shown(_facing(_finite(logits[None]), map_size(image))[0])

    def legend(self) -> Legend:
        return Legend(
            {"no direction": GREY},
            "Red, green and blue are x, y and z of the direction, from -1 (dark) to 1 (full).",
        )

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """mean_angle, within_11_25: [sum over valid pixels, valid pixels]; median_angle: pixels by bin, K = 1800."""
        angles = _angles(_facing(_finite(logits), map_size(labels)), labels)
        valid = labels.any(dim=1)
        if self.metric == "median_angle":
            return _histograms(angles, valid)
        number = (angles < _NEAR) if self.metric == "within_11_25" else angles
        number = number.double().masked_fill(~valid, 0.0)
        return torch.stack([number.sum(dim=(1, 2)), valid.sum(dim=(1, 2)).double()], dim=1).cpu()

    def score_totals(self, totals: Tensor) -> Tensor:
        if self.metric == "median_angle":
            return _median(totals)
        mean = totals[..., 0] / totals[..., 1].clamp(min=1)
        return mean if self.metric == "mean_angle" else 100 * mean

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """Share of pixels whose two directions are less than 11.25 degrees apart, at the larger of the two sizes."""
        size = max(map_size(logits), map_size(other))
        angles = _angles(*(_facing(_finite(maps), size) for maps in (logits, other)))
        return (angles < _NEAR).flatten(1).double().mean(dim=1).cpu()

    def label_counts(self, labels: Tensor) -> Tensor:
        """Pixels and their sum of vectors, in cells of the sphere (`Directions`)."""
        return Directions.count(labels.movedim(1, -1)[labels.any(dim=1)])

    def constant_score(self, counts: Tensor) -> float:
        """The best of the cells' mean directions and of the mean of all, with every label in the mean direction of
        its cell: as if labels were turned by at most 7.6 degrees, usually by 1.3 (`Directions.error`).
        """
        directions = Directions(counts)
        if not len(directions.pixels):
            return 0.0
        if self.metric == "median_angle":
            return float(directions.medians().min())
        if self.metric == "mean_angle":
            return float(directions.means().min())
        return 100 * float(directions.shares(_NEAR).max())


def _finite(maps: Tensor) -> Tensor:
    """float32 [R, 3, h, w], the zero vector for one with a part that is not finite."""
    maps = maps.float()
    return maps.where(torch.isfinite(maps).all(dim=1, keepdim=True), 0.0)


def _unit(vectors: Tensor) -> Tensor:
    """Length 1 along dim 1; a vector too short to have a direction stays short, and its gradient bounded."""
    return nn.functional.normalize(vectors, dim=1, eps=_EPSILON)


def _facing(logits: Tensor, size: Size) -> Tensor:
    return _unit(resized(logits.float(), size))


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """[R, H, W], 1 - cosine of unit vectors [R, 3, H, W] as half their squared distance.

    That is the same number, but never below 0, exactly 0 where they are equal, and smooth there.
    """
    return 0.5 * (one - other).square().sum(dim=1)


def _angles(one: Tensor, other: Tensor) -> Tensor:
    """[R, H, W] in degrees, between unit vectors; an arc cosine would be 0.03 degrees off near 0."""
    return torch.rad2deg(2 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1)))


def _histograms(angles: Tensor, valid: Tensor) -> Tensor:
    """float64 [R, 1800] on the CPU: valid pixels by angle, in bins of 0.1 degrees."""
    rows = len(angles)
    places = (angles / _BIN).long().clamp(max=_BINS - 1)
    places += _BINS * torch.arange(rows, device=angles.device).view(rows, 1, 1)
    return torch.bincount(places[valid], minlength=rows * _BINS).view(rows, _BINS).cpu().double()


def _median(totals: Tensor) -> Tensor:
    """[...] from pixels by bin [..., 1800]; 0 where there are none."""
    upto = totals.cumsum(dim=-1)
    half = upto[..., -1:] / 2
    place = (upto < half).sum(dim=-1, keepdim=True).clamp(max=_BINS - 1)
    inside = totals.gather(-1, place)
    below = upto.gather(-1, place) - inside
    return (_BIN * (place + (half - below) / inside.clamp(min=1e-12))).squeeze(-1)


def _from_png(payload: bytes) -> np.ndarray:
    mode, pixels = read_png(payload, "the picture of normals")
    if mode != "RGB":
        raise ValueError(f"the picture of normals has the mode {mode}. It must be an RGB PNG of 8 bits.")
    return _directions(2 * pixels.astype(np.float32) / 255 - 1, _SHORTEST, np.asarray(pixels.any(axis=2)))


def _from_npy(payload: bytes) -> np.ndarray:
    vectors = read_npy(payload)
    if vectors.ndim != 3 or vectors.shape[2] != 3:
        raise ValueError(
            f"the array of normals has the shape {shape_text(vectors)}. It must be height x width x 3."
        )
    return _directions(vectors, 0.0, np.asarray(np.isfinite(vectors).all(axis=2)))


def _directions(vectors: np.ndarray, shortest: float, known: np.ndarray) -> np.ndarray:
    """float32 [3, H, W] of length 1 from [H, W, 3], 0 where they are not known or not longer than `shortest`."""
    vectors = np.where(known[..., None], vectors, 0.0)
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=2, keepdims=True))
    known = known[..., None] & (lengths > shortest)
    units = np.divide(vectors, lengths, out=np.zeros_like(lengths * vectors), where=known)
    return np.ascontiguousarray(units.astype(np.float32).transpose(2, 0, 1))


def _shown(directions: Tensor) -> Shown:
    """(n + 1) / 2 as RGB, as pictures of normals usually are."""
    pixels = (255 * (directions.permute(1, 2, 0) + 1) / 2).round().clamp(0, 255).to(torch.uint8)
    return Shown(grey_where_unknown(pixels, directions.any(dim=0)), legend=_AXES)


_TOGETHER = 512  # candidates compared at a time


class Directions:
    """Unit vectors counted in cells of the sphere, each cell standing for the mean direction in it.

    The cells are those of a square grid on the unfolded octahedron |x| + |y| + |z| = 1 (Meyer et al. 2010, "On
    floating-point normal vectors", section 3.1), whose sizes differ by no more than a factor of 5.

    Args:
        counts: sums of what `count` gave.

    Attributes:
        error: degrees across the widest cell, so the most that a vector lies off its cell's mean direction; 1.3
            are usual.
        pixels: float64 [N], vectors in each cell that has any.
        means_of_cells: float64 [N, 3].
    """

    side: ClassVar[int] = 64
    error: ClassVar[float] = 7.6

    def __init__(self, counts: Tensor) -> None:
        cells = counts.view(4, -1)
        held = cells[0] > 0
        self.pixels, sums = cells[0, held], cells[1:, held].T
        self.means_of_cells = torch.nn.functional.normalize(sums, dim=1)
        mean = torch.nn.functional.normalize(sums.sum(0, keepdim=True), dim=1)
        self._candidates = torch.cat([mean, self.means_of_cells])

    @classmethod
    def count(cls, vectors: Tensor) -> Tensor:
        """float64 [4 * side²] on the CPU, from unit vectors [N, 3]: how many, and their sum, by cell."""
        vectors = vectors.cpu().double()
        flat = vectors / vectors.abs().sum(dim=1, keepdim=True)
        sign = torch.where(flat[:, :2] < 0, -1.0, 1.0)
        folded = (1 - flat[:, [1, 0]].abs()) * sign  # the lower half, unfolded around the upper
        place = torch.where(flat[:, 2:] < 0, folded, flat[:, :2])
        grid = ((place + 1) * (cls.side / 2)).long().clamp(0, cls.side - 1)
        cell = grid[:, 0] * cls.side + grid[:, 1]
        columns = [None, *vectors.unbind(1)]
        return torch.cat([torch.bincount(cell, column, cls.side**2).double() for column in columns])

    def means(self) -> Tensor:
        """[M]: mean angle in degrees of all vectors to each candidate for the best direction."""
        return self._each(lambda angles: angles @ self.pixels / self.pixels.sum())

    def medians(self) -> Tensor:
        """[M]: their median angle."""

        def median(angles: Tensor) -> Tensor:
            ordered, order = angles.sort(dim=1)
            upto = self.pixels[order].cumsum(dim=1)
            place = (upto < self.pixels.sum() / 2).sum(dim=1, keepdim=True)
            return ordered.gather(1, place).squeeze(1)

        return self._each(median)

    def shares(self, degrees: float) -> Tensor:
        """[M]: the share of vectors closer than so many degrees."""
        return self._each(lambda angles: (angles < degrees).double() @ self.pixels / self.pixels.sum())

    def _each(self, number: Callable[[Tensor], Tensor]) -> Tensor:
        """[M], some at a time: all angles at once would take much memory."""
        parts = self._candidates.split(_TOGETHER)
        return torch.cat(
            [number(torch.rad2deg((part @ self.means_of_cells.T).clamp(-1, 1).acos())) for part in parts]
        )
