"""Depth of each pixel. Labels are 16-bit grey PNG pictures (`depth.png`) or float arrays (`depth.npy`)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import DEFAULT_HEAD, KINDS, AdditiveKind, HeadShape, Legend, Shown, Truth
from distill_mtl.tasks.doubts import Doubt, impossible_values
from distill_mtl.tasks.drawing import GREY, color_ramp, grey_where_unknown
from distill_mtl.tasks.heads import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.json_values import plain_values
from distill_mtl.tasks.label import CountsTable, LabelCounts, NumberStats, count_pixels, percent
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
    write_npy,
)
from distill_mtl.tasks.options import positive_number

_WIDE_MODES = ("I;16", "I;16B", "I")  # PIL's names of grey pictures of 16 bits; the last is an older Pillow's
_ALIKE = 1.25
"""Depths whose ratio stays below this count as alike (Eigen, Puhrsch & Fergus 2014, arXiv:1406.2283, section 4.2)."""
_LARGEST = "largest depth of each row"
_REACH = 10.0
"""The head's depths lie within a factor of e^10, 22 thousand, of the typical one."""
_STEP = 0.01
_FIRST, _BINS = math.log(1e-5), 3000
"""Bins of 1 % from 1e-5 to 1e8, in which labels are counted."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(depths [R, H, W], what they should be, where that is known) -> [R]."""


@KINDS.register("depth")
class Depth(AdditiveKind):
    """One distance per pixel; logits [R, 1, h, w] are depths, labels float32 [R, H, W], 0 where there is none.

    Both are in one unit, that of `scale` times a PNG's values (metres), of an npy file's values as they
    stand, and of what a teacher answers. A number that is not finite or not above 0 is not a depth, in a label
    and in a teacher's answer: such pixels of either teach nothing. Logits may have another size than labels:
    they are resized (bilinear).

    Metrics, over all pixels of all rows together: `abs_rel`, the mean of |d - d*| / d* in percent; `rmse`,
    in the labels' unit; `delta1`, the share of pixels, in percent, with max(d / d*, d* / d) < 1.25. A pixel that
    a network gives no depth counts as 0.

    Args:
        scale: unit of a PNG's values: 0.001 for millimetres that become metres.
        typical: a depth in the labels' unit about which the head starts; the middle of a usual picture.
        loss: `l1` by default, which does not let a few wrong pixels outweigh the others: measured depth and
            teachers err most, and by much, at the edges of things. `silog` judges ratios of depths, and
            judges their pattern twice as strictly as the scale of the whole.
    """

    name = "depth"
    silent_label = "none of their pixels has a depth"
    member = "depth.png;depth.npy"
    metrics = ("abs_rel", "rmse", "delta1")
    lower_is_better = frozenset({"abs_rel", "rmse"})
    unit_metrics = frozenset({"rmse"})
    dense = True
    fixed_classes = ("depth",)
    head_options = ("typical",)
    from_table = "file"
    asked_as = "file"
    label_options = ("scale",)

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        scale: float = 0.001,
        typical: float = 1.0,
        loss: str = "l1",
    ) -> None:
        super().__init__(classes, metric, head=head)
        if not isinstance(loss, str) or loss not in _LOSSES:
            hint = nearest(str(loss), _LOSSES)
            raise UserError(f"unknown loss '{loss}' of kind depth.{hint} Known: {', '.join(_LOSSES)}.")
        self.scale, self.typical = positive_number("scale", scale), positive_number("typical", typical)
        self.loss = loss

    def read_label(self, payload: bytes) -> Tensor:
        depths = self._from_png(payload) if is_png(payload) else _from_npy(payload)
        return _cleaned(torch.from_numpy(depths))

    def has_label(self, label: Tensor) -> bool:
        return bool((label > 0).any())

    def filler(self, size: Size) -> Tensor:
        return torch.zeros(size)

    def label_size(self, label: Tensor) -> Size:
        return map_size(label)

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        depths = label[label > 0]
        counts.measure("depth", depths)
        count_pixels(label > 0, counts)
        if len(depths):
            counts.count_values(_LARGEST, [float(depths.max())])

    def doubts(self, counts: LabelCounts) -> list[Doubt]:
        found, numbers = super().doubts(counts), counts.numbers.get("depth", NumberStats())
        if numbers.count > 1 and numbers.least == numbers.largest:
            found.append(
                Doubt(
                    f"every depth is {numbers.least:g}. A constant answers it, so these labels teach nothing. Are "
                    "these the right files?"
                )
            )
        return found + impossible_values(_LARGEST, counts.counts.get(_LARGEST, {}))

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        numbers, pixels = counts.numbers.get("depth"), counts.counts["pixels"]
        figures = (numbers.least, numbers.mean, numbers.largest) if numbers else ()
        cells = (*(f"{figure:,.5g}" for figure in figures), *["–"] * (3 - len(figures)))
        line = ("in the labels' unit", *cells, percent(pixels["unlabelled"], pixels.total()))
        return CountsTable(("depth", "min", "mean", "max", "pixels without"), [line])

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        """Distances stay what they are: a crop is a part of the picture, not a step towards the things in it."""
        return view.map(label, size, 0)

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return pyramid_levels(features)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return DepthDecoder(features, self.shape, self.typical)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Over the valid pixels of each row; 0 for a row that a crop left without any."""
        depths = resized(logits.float(), map_size(labels))[:, 0]
        return _LOSSES[self.loss](depths, labels, labels > 0)

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        """The supervised loss towards the teacher, where it answers with a depth, at the size of the student's
        logits. A depth is not a decision, so `temperature` and `truth` are not used.
        """
        theirs = _cleaned(teacher_logits.detach().float())
        goal, valid = resized_where(theirs, theirs[:, 0] > 0, map_size(logits))
        return _LOSSES[self.loss](logits[:, 0].float(), goal[:, 0], valid)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`depth` float32 [B, H, W] at the image's size, in the labels' unit."""
        return {"depth": resized(logits.float(), size)[:, 0]}

    def to_picture(self, decoded: Mapping[str, Tensor], view: View, picture: Size) -> dict[str, Tensor]:
        """Pixels beyond the view are without a depth."""
        return {"depth": paste_view(decoded["depth"], view, picture, 0.0)}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`nearest`, `median` and `farthest` of the pixels' depths, in the labels' unit; None where there is none."""
        depths = _cleaned(decoded["depth"])
        depths = depths[depths > 0]
        if not len(depths):
            return dict.fromkeys(("nearest", "median", "farthest"))
        return {
            "nearest": plain_values(depths.min()),
            "median": plain_values(depths.median()),
            "farthest": plain_values(depths.max()),
        }

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """An npy file in the labels' unit: exact, and no depth is too large for it, as for a PNG of 16 bits."""
        return "depth.npy", write_npy(_cleaned(decoded["depth"]).numpy())

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return _shown(label)

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        return _shown(_predicted(logits[None], map_size(image))[0])

    def legend(self) -> Legend:
        return Legend(
            {"no depth": GREY},
            "Light is near, dark is far, each picture on its own scale; under it the range in the labels' unit.",
        )

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[sum of the metric's number over valid pixels, valid pixels], K = 2."""
        depths, valid = _predicted(logits, map_size(labels)).double(), labels > 0
        true = labels.double().where(valid, 1.0)
        if self.metric == "abs_rel":
            number = (depths - true).abs() / true
        elif self.metric == "rmse":
            number = (depths - true).square()
        else:
            number = _alike(depths, true).double()
        number = number.masked_fill(~valid, 0.0)
        return torch.stack([number.sum(dim=(1, 2)), valid.sum(dim=(1, 2)).double()], dim=1).cpu()

    def score_totals(self, totals: Tensor) -> Tensor:
        mean = totals[..., 0] / totals[..., 1].clamp(min=1)
        return mean.sqrt() if self.metric == "rmse" else 100 * mean

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """Share of pixels whose two depths are alike (ratio below 1.25), at the larger of the two sizes."""
        size = max(map_size(logits), map_size(other))
        same = _alike(*(_predicted(maps, size) for maps in (logits, other)))
        return same.flatten(1).double().mean(dim=1).cpu()

    def label_counts(self, labels: Tensor) -> Tensor:
        """How many pixels each depth has, in bins of 1 %, K = 3000."""
        places = (labels[labels > 0].double().log() - _FIRST) / _STEP
        return torch.bincount(places.long().clamp(0, _BINS - 1), minlength=_BINS).cpu().double()

    def constant_score(self, counts: Tensor) -> float:
        """The best single depth for all pixels, with every label in the middle of its bin: off by half a percent of
        a depth.
        """
        depths = (_FIRST + _STEP * (torch.arange(_BINS, dtype=torch.float64) + 0.5)).exp()
        pixels = counts.sum().clamp(min=1)
        if self.metric == "rmse":
            mean = (counts * depths).sum() / pixels
            return float(((counts * (depths - mean).square()).sum() / pixels).sqrt())
        if self.metric == "abs_rel":  # a sum of weighted distances: the weighted median is best
            weights = (counts / depths).cumsum(0)
            best = depths[int((weights < weights[-1] / 2).sum())]
            return 100 * float((counts * (depths - best).abs() / depths).sum() / pixels)
        reach = math.ceil(math.log(_ALIKE) / _STEP) - 1  # bins on either side that are still alike
        window = counts.new_ones(1, 1, 2 * reach + 1)
        return 100 * float(nn.functional.conv1d(counts.view(1, 1, -1), window, padding=reach).max() / pixels)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"scale": self.scale, "typical": self.typical, "loss": self.loss}

    def _from_png(self, payload: bytes) -> np.ndarray:
        mode, pixels = read_png(payload, "the picture of depth")
        if mode in ("L", "P", "1"):
            raise ValueError(
                f"the depth picture has 8 bits or fewer per pixel (mode {mode}), which shows depth but does not "
                "measure it. It must be a grey PNG of 16 bits, or a float npy file."
            )
        if mode not in _WIDE_MODES:
            raise ValueError(
                f"the depth picture is a colour picture (mode {mode}). It must be a grey PNG of 16 bits."
            )
        return pixels.astype(np.float32) * np.float32(self.scale)


class DepthDecoder(PyramidDecoder):
    """A pyramid's one channel x as the depth typical * exp(10 tanh(x / 10)).

    An exponential, because errors of depth are judged as ratios, and because it finds the scale of the labels
    soon even where `typical` misses it by orders of magnitude; bounded, so that no step overflows; and by a tanh,
    so that every depth keeps a gradient. It starts near `typical`, as a new decoder's channel is near 0.

    Args:
        features, shape: of the pyramid.
        typical: depth at 0.
    """

    def __init__(self, features: Mapping[str, FeatureShape], shape: HeadShape, typical: float) -> None:
        super().__init__(features, 1, shape)
        self.typical = typical

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """float32 [B, 1, h, w]."""
        x = super().forward(features).float()
        return self.typical * (_REACH * (x / _REACH).tanh()).exp()


def l1(depths: Tensor, goal: Tensor, valid: Tensor) -> Tensor:
    """[R], mean |d - d*| over the valid pixels, in shares of the mean d* over them.

    So it is the same number in metres and in millimetres, and a near scene counts as much as a far one. A
    setting such as `typical` would do the first alone, and only where it is right.
    """
    return mean_where((depths - goal).abs(), valid) / _or_one(mean_where(goal, valid))


def silog(depths: Tensor, goal: Tensor, valid: Tensor) -> Tensor:
    """[R], the scale-invariant error in log space, mean(g²) - ½ mean(g)² with g = log d - log d*.

    Eigen, Puhrsch & Fergus 2014 (arXiv:1406.2283), equation (4) with λ = ½ as published. Later practice takes
    the root with λ = 0.85, whose gradient is not defined at the floor, where a good student lives.
    """
    tiny = torch.finfo(torch.float32).tiny
    gaps = depths.clamp_min(tiny).log() - goal.where(valid, 1.0).log()
    return mean_where(gaps.square(), valid) - 0.5 * mean_where(gaps, valid).square()


_LOSSES: dict[str, Loss] = {"l1": l1, "silog": silog}


def _cleaned(depths: Tensor) -> Tensor:
    """0 for an invalid depth."""
    return depths.where(torch.isfinite(depths) & (depths > 0), 0.0)


def _predicted(logits: Tensor, size: Size) -> Tensor:
    """[R, H, W], the depths that a network gives, 0 where it gives none."""
    return resized(_cleaned(logits.float()), size)[:, 0]


def _alike(one: Tensor, other: Tensor) -> Tensor:
    larger, smaller = torch.maximum(one, other), torch.minimum(one, other)
    return (larger < _ALIKE * smaller) | (larger == smaller)


def _or_one(means: Tensor) -> Tensor:
    """1 in place of the 0 of a row without a valid pixel."""
    return means.where(means > 0, 1.0)


def _from_npy(payload: bytes) -> np.ndarray:
    depths = read_npy(payload)
    if depths.ndim != 2:
        raise ValueError(f"the depth array has the shape {shape_text(depths)}. It must be height x width.")
    return depths


def _shown(depths: Tensor) -> Shown:
    """Log depth from light (near) to dark (far), between the 2nd and the 98th percentile of the picture."""
    depths, valid = depths.cpu(), depths.cpu() > 0
    if not valid.any():
        return Shown(grey_where_unknown(color_ramp(depths), valid))
    near, far = (float(end) for end in np.percentile(depths[valid].numpy(), (2, 98)))
    place = (depths.where(valid, 1.0).log() - math.log(near)) / max(math.log(far / near), 1e-6)
    return Shown(
        grey_where_unknown(color_ramp(1 - place), valid),
        f"{near:.3g} to {far:.3g}",
        legend=Legend(
            {
                f"{near:.3g}": _color(1.0),
                f"{math.sqrt(near * far):.3g}": _color(0.5),
                f"{far:.3g}": _color(0.0),
            }
        ),
    )


def _color(place: float) -> tuple[int, int, int]:
    red, green, blue = color_ramp(torch.tensor(place)).tolist()
    return red, green, blue
