"""Maps of several sizes, as students, teachers and labels give them."""

import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.views import Size
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


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """[R], the mean of [R, H, W] over the valid pixels of each row; 0 for a row without any.

    What stands at other pixels may be anything finite.
    """
    count = valid.sum(dim=(1, 2)).clamp(min=1)
    return values.masked_fill(~valid, 0.0).sum(dim=(1, 2)) / count
