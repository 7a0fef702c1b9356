"""The layers' outputs in the two layouts that the rest of the program knows: maps [B, C, h, w] and vectors [B, C].

Networks give maps with channels first or last, tokens, or vectors; `find_layout` finds out which in a dry forward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureShape:
    """A tapped feature: a map [B, channels, height, width], or a vector [B, channels] (size None).

    Attributes:
        channels: width of the feature.
        size: height and width of the map at the network's own input size; None for a vector.
        pyramid: the feature is a stage output of the trunk, for heads that want several scales.
    """

    channels: int
    size: tuple[int, int] | None
    pyramid: bool = False

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "FeatureShape":
        """From what `dataclasses.asdict` gave, once through JSON. Raises KeyError or TypeError for anything else."""
        size = entry["size"]
        return cls(entry["channels"], None if size is None else (size[0], size[1]), entry["pyramid"])

    @classmethod
    def of(cls, feature: Tensor, *, pyramid: bool = False) -> "FeatureShape":
        """The shape of a feature in the one layout: [B, C, h, w] or [B, C]."""
        size = (feature.shape[2], feature.shape[3]) if feature.ndim == 4 else None
        return cls(feature.shape[1], size, pyramid and size is not None)


@dataclass(frozen=True)
class Layout:
    """How the raw output of one layer is read, found once in a dry forward by `find_layout`.

    Attributes:
        form: channels-first map, channels-last map, tokens [B, N, C], or vector [B, C].
        prefix: tokens before the grid (class token, registers), dropped.
        grid: height and width of the tokens' grid.
    """

    form: Literal["map", "map_last", "tokens", "vector"]
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)

    def __call__(self, raw: Tensor) -> Tensor:
        """[B, C, h, w] for maps and tokens, [B, C] for vectors."""
        if self.form == "map_last":
            return raw.permute(0, 3, 1, 2)
        if self.form == "tokens":
            return raw[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
        return raw

    def put(self, raw: Tensor, feature: Tensor) -> Tensor:
        """A raw output like `raw` that is read as `feature`; tokens before the grid stay as they are."""
        feature = feature.to(raw.dtype)
        if self.form == "map_last":
            return feature.permute(0, 2, 3, 1)
        if self.form == "tokens":
            return torch.cat([raw[:, : self.prefix], feature.flatten(2).transpose(1, 2)], 1)
        return feature


def find_layout(
    raw: Tensor, image: tuple[int, int], *, prefix: int = 0, channels_last: bool = False
) -> Layout:
    """The layout of a layer's output.

    Args:
        raw: what the layer gave for one image.
        image: height and width of that image as the network saw it.
        prefix: tokens that the network puts before the grid; layers may still lack them.
        channels_last: what the network as a whole does, for maps whose shape leaves both readings open.

    Raises:
        ValueError: the output is none of the known forms.
    """
    if raw.ndim == 2:
        return Layout("vector")
    if raw.ndim == 3:
        for count in (prefix, 0):
            if grid := _grid(raw.shape[1] - count, image):
                return Layout("tokens", count, grid)
        raise ValueError(
            f"its {raw.shape[1]} tokens form no grid over an image of {image[0]}x{image[1]} pixels"
        )
    if raw.ndim == 4:
        first = fits((raw.shape[2], raw.shape[3]), image)
        last = fits((raw.shape[1], raw.shape[2]), image)
        return Layout("map_last" if (last if first != last else channels_last) else "map")
    raise ValueError(f"its shape {list(raw.shape)} is not a map, tokens or a vector")


def _grid(tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the grid of `tokens` cells that is most like the image, if there is one."""
    if tokens < 1:
        return None
    height = max(1, round(math.sqrt(tokens * image[0] / image[1])))
    grid = height, tokens // height
    return grid if math.prod(grid) == tokens and fits(grid, image) else None


def fits(grid: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a grid (height and width) has the proportions of the image, to within one cell of rounding."""
    stride = math.sqrt(math.prod(image) / math.prod(grid))
    return all(abs(side / stride - cells) <= 1 for side, cells in zip(image, grid, strict=True))
