"""Heads of kinds of task: a light decoder over the trunk's pyramid, and linear layers on its pooled vector."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import HeadShape

WIDTH = 24
ENLARGE = 4
"""How much larger than a transformer's grid the map is."""


class PyramidDecoder(nn.Module):
    """Stages of a trunk -> one map of logits, as large as the finest stage.

    Top-down sums of 1x1 projections as in feature pyramid networks (Lin et al. 2017,
    arXiv:1612.03144, section 3), but with 3x3 convolutions at the finest stage alone. The caller resizes
    the logits to the size it needs.

    A plain vision transformer, whose blocks share one size, is a pyramid of one level, too coarse for maps
    (stride 16, usually): its last map is enlarged four times before the convolutions, which makes of it the
    finest level of a simple feature pyramid (Li et al. 2022, arXiv:2203.16527, section 3), bilinear and behind
    the projection where that is learned and before it.

    Args:
        features: shapes of the trunk's features; `pyramid_levels` says which are read.
        channels: channels of the result (the classes).
        shape: channels inside, 24 unless it says more, and how many 3x3 convolutions, 1 unless it says more.

    Raises:
        UserError: the trunk has no maps.
    """

    def __init__(self, features: Mapping[str, FeatureShape], channels: int, shape: HeadShape) -> None:
        super().__init__()
        width, depth = shape.width or WIDTH, shape.depth or 1
        self.levels = pyramid_levels(features)
        self.laterals = nn.ModuleList(nn.Conv2d(features[name].channels, width, 1) for name in self.levels)
        inner = [
            layer
            for _ in range(depth)
            for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(width), nn.ReLU())
        ]
        self.enlarge = ENLARGE if len(self.levels) == 1 else 1
        self.fuse = nn.Sequential(_norm(width), nn.ReLU(), *inner, nn.Conv2d(width, channels, 1))

    @property
    def answer(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.fuse[-1]

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """[B, channels, h, w] from maps [B, C, h, w], [B, C', h/2, w/2], ...; [B, channels, 4 h, 4 w] from one map."""
        maps = [lateral(features[name]) for name, lateral in zip(self.levels, self.laterals, strict=True)]
        fused = maps.pop()
        while maps:
            finer = maps.pop()
            fused = finer + F.interpolate(fused, finer.shape[-2:], mode="bilinear", align_corners=False)
        if self.enlarge > 1:
            fused = F.interpolate(fused, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        logits: Tensor = self.fuse(fused)
        return logits


def pyramid_levels(features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
    """Names of the stages that a pyramid is built of, finest first: the deepest stage of every size.

    Raises:
        UserError: the trunk has no stage that is a map.
    """
    deepest: dict[tuple[int, int], str] = {}
    for name, shape in features.items():
        if shape.pyramid and shape.size is not None:
            deepest[shape.size] = name
    if not deepest:
        raise UserError(
            f"the student gives {', '.join(features) or 'nothing'} and no maps of its stages, which a dense task "
            "reads. Not every architecture names its stages: CrossViT, CoaT and networks of vectors do not. Choose "
            "another `student`, such as resnet50, convnext_tiny, hrnet_w18 or vit_small_patch16_224."
        )
    return tuple(deepest[size] for size in sorted(deepest, key=math.prod, reverse=True))


class PooledHead(nn.Module):
    """One linear layer unless more are asked for, so that timm's form can hold it (`linear`).

    Args:
        channels: of the pooled vector.
        outputs: numbers that are answered.
        shape: how many layers, and the width of those between; by default as wide as the pooled vector.

    Raises:
        UserError: a width is given, and nothing lies between.
    """

    def __init__(self, channels: int, outputs: int, shape: HeadShape) -> None:
        super().__init__()
        if shape.width is not None and (shape.depth or 1) == 1:
            raise UserError(
                f"head.width is {shape.width}, but the head is a single linear layer, with nothing inside. "
                "Remove it, or add `depth: 2`."
            )
        width, hidden = shape.width or channels, (shape.depth or 1) - 1
        inputs = [channels, *[width] * hidden]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Linear(inputs[place], width), nn.GELU()) for place in range(hidden))
        )
        self.linear = nn.Linear(inputs[-1], outputs)

    @property
    def answer(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.linear

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """[B, outputs] from features["pooled"] [B, channels]."""
        logits: Tensor = self.linear(self.hidden(features["pooled"]))
        return logits


def reorder_head(head: nn.Module, order: Callable[[str], Tensor]) -> None:
    """Let a head read features whose channels stand in another order.

    Args:
        head: of one of our kinds; it gives the same logits for the features in their new order.
        order: name of a feature -> for each of its channels the one that it was.

    Raises:
        UserError: it is the head of a kind of the user's own.
    """
    readers: dict[str, Any] = {}
    for part in head.modules():
        if isinstance(part, PyramidDecoder):
            readers |= zip(part.levels, part.laterals, strict=True)
        elif isinstance(part, PooledHead):
            linears = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
            readers["pooled"] = linears[0]
    if not readers:
        raise UserError(
            "its head is of your own kind, whose inputs cannot be put in order. Use `head: {init: random}`."
        )
    for feature, reader in readers.items():
        reader.weight.data = reader.weight.data[:, order(feature)]


def _norm(width: int) -> nn.GroupNorm:
    """GroupNorm, not BatchNorm: a head sees few rows, and not the same ones in training and in use."""
    return nn.GroupNorm(math.gcd(width, 8), width)
