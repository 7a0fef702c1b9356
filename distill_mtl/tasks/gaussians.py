"""The heat maps that a network with centre points learns: a Gaussian around every object's cell."""

import torch
from torch import Tensor

from distill_mtl.geometry.views import Size

OVERLAP = 0.7
"""Intersection over union that a box still has whose corners are off by the radius."""


def corner_radius(width: Tensor, height: Tensor) -> Tensor:
    """How far both corners of a box may be off, so that it overlaps the true one by at least `OVERLAP`.

    CornerNet's rule (Law & Deng 2018, arXiv:1808.01244, section 3.2) for the three ways to be off: both corners
    inwards, both outwards, or both to one side. Each is the smaller root of a quadratic equation.

    Args:
        width, height: [N], of the boxes, above 0.

    Returns:
        [N], in the same unit.
    """
    area, around = width * height, width + height
    side = _root(1.0, around, area * (1 - OVERLAP) / (1 + OVERLAP))
    inwards = _root(4.0, 2 * around, area * (1 - OVERLAP))
    outwards = _root(4 * OVERLAP, -2 * OVERLAP * around, -area * (1 - OVERLAP))
    return torch.minimum(torch.minimum(side, inwards), outwards)


def draw(place: Tensor, row: Tensor, column: Tensor, radius: Tensor, maps: int, size: Size) -> Tensor:
    """float32 [maps, h, w]: at every cell the largest of the map's Gaussians, exactly 1 in the objects' cells.

    Their standard deviation is a sixth of the diameter, 2 radius + 1 (CornerNet's program; the paper says a
    third of the radius).

    Args:
        place: int64 [N], the map of each object.
        row, column: int64 [N], its cell.
        radius: float32 [N], in cells.
        maps: how many.
        size: height and width.
    """
    height, width = size
    spread = 2 * ((2 * radius + 1) / 6) ** 2
    rows, columns = (torch.arange(side, device=row.device) for side in (height, width))
    down = torch.exp(-((rows - row[:, None]) ** 2) / spread[:, None])
    across = torch.exp(-((columns - column[:, None]) ** 2) / spread[:, None])
    bells = (down[:, :, None] * across[:, None, :]).flatten(1)
    heat = torch.zeros(maps, height * width, device=row.device)
    heat = heat.scatter_reduce(0, place[:, None].expand_as(bells), bells, "amax")
    return heat.unflatten(1, size)


def _root(square: float, linear: Tensor, constant: Tensor) -> Tensor:
    """The root of square r² - linear r + constant = 0 that is nearer to 0."""
    sign = torch.where(linear >= 0, 1.0, -1.0)
    # Not the difference of near equals: the product of both roots is constant / square.
    return 2 * constant / (linear + sign * (linear**2 - 4 * square * constant).clamp_min(0).sqrt())
