"""Maps of several sizes, as students, teachers and labels give them."""

import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.recording import recorded


def resized(maps: Tensor, size: Size) -> Tensor:
    """[R, C, h, w] as [R, C, H, W], bilinear."""
    if not recorded() and map_size(maps) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def map_size(maps: Tensor) -> Size:
    """Height and width of [..., H, W]."""
    return (maps.shape[-2], maps.shape[-1])


def resized_where(maps: Tensor, valid: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Maps of which some pixels mean nothing, in another size.

    Args:
        maps: [R, C, h, w], finite everywhere.
        valid: bool [R, h, w].
        size: height and width of the result.

    Returns:
        [R, C, H, W], and bool [R, H, W], where no invalid pixel has flowed in.
    """
    if map_size(maps) == size:
        return maps, valid
    share = resized(valid[:, None].to(maps.dtype), size)[:, 0]
    return resized(maps, size), share > 0.999  # of weights that sum to 1 but for rounding


def laid(maps: Tensor, view: View, picture: Size, fill: float) -> Tensor:
    """A map of a view [..., h, w] in the picture that the view was cut from, [..., H, W].

    Args:
        maps: at the view's own height and width.
        view: its box may reach beyond the picture; not mirrored.
        picture: height and width.
        fill: stands where the view does not reach.
    """
    whole = maps.new_full((*maps.shape[:-2], *picture), fill)
    top, left = max(view.top, 0), max(view.left, 0)
    bottom, right = min(view.top + view.height, picture[0]), min(view.left + view.width, picture[1])
    whole[..., top:bottom, left:right] = maps[
        ..., top - view.top : bottom - view.top, left - view.left : right - view.left
    ]
    return whole


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """[R], the mean of [R, H, W] over the valid pixels of each row; 0 for a row without any.

    What stands at other pixels may be anything finite.
    """
    count = valid.sum(dim=(1, 2)).clamp(min=1)
    return values.masked_fill(~valid, 0.0).sum(dim=(1, 2)) / count
