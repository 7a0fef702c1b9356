"""Maps of several sizes, as students, teachers and labels give them."""

import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.views import Size


def resized(maps: Tensor, size: Size) -> Tensor:
    """[R, C, h, w] as [R, C, H, W], bilinear."""
    if map_size(maps) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def map_size(maps: Tensor) -> Size:
    """Height and width of [..., H, W]."""
    return (maps.shape[-2], maps.shape[-1])
