"""From heat maps, sizes and offsets to objects: the peaks of a network with centre points."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Cells. A network may say less than nothing, and a box without area does not even overlap itself.
_LEAST_SIDE = 0.01


class Found(NamedTuple):
    """K objects of each row.

    Attributes:
        objects: float32 [R, K, 5], class (-1: none), x and y of the centre, width and height as shares of
            the view's sides.
        scores: float32 [R, K] in [0, 1], 0 where there is none.
    """

    objects: Tensor
    scores: Tensor


def strongest(logits: Tensor, classes: int, most: int) -> Found:
    """The peaks of all classes together, strongest first: cells that none of their eight neighbours exceeds.

    The 3x3 maximum stands in for non-maximum suppression (Zhou et al. 2019, arXiv:1904.07850, section 4).

    Args:
        logits: float32 [R, classes + 4, h, w]; the last four are width and height in cells, and offsets.
        classes: heat maps.
        most: peaks of a row; fewer where the maps have not so many cells.
    """
    heat = logits[:, :classes]
    heat = heat.masked_fill(F.max_pool2d(heat, 3, stride=1, padding=1) != heat, -torch.inf).flatten(1)
    top, index = heat.topk(min(most, heat.shape[1]))
    cells = logits.shape[-2] * logits.shape[-1]
    return _found(logits, top, index // cells, index % cells, sized=True)


def best_of_each(logits: Tensor, classes: int, *, sized: bool) -> Found:
    """The highest cell of every class, in the order of the classes.

    Args:
        logits: float32 [R, C, h, w]; behind the heat maps stand sizes, if there are some, and two offsets.
        classes: heat maps.
        sized: there are.
    """
    top, index = logits[:, :classes].flatten(2).max(2)
    numbers = torch.arange(classes, device=logits.device).expand_as(index)
    return _found(logits, top, numbers, index, sized=sized)


def _found(logits: Tensor, top: Tensor, classes: Tensor, index: Tensor, *, sized: bool) -> Found:
    """What stands in the cells `index` [R, K], counted row by row."""
    height, width = logits.shape[-2:]
    behind = logits[:, -4:] if sized else logits[:, -2:]
    read = behind.flatten(2).gather(2, index[:, None].expand(-1, behind.shape[1], -1))
    x = (index % width + read[:, -2]) / width
    y = (index // width + read[:, -1]) / height
    if sized:
        across, down = read[:, :2].clamp_min(_LEAST_SIDE).unbind(1)
        sides = [across / width, down / height]
    else:
        sides = [torch.zeros_like(x)] * 2
    numbers = torch.where(top.isinf(), -1, classes).float()
    objects = torch.stack([numbers, x, y, *sides], 2)
    return Found(objects, top.sigmoid())
