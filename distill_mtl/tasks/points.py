"""How near points are to labelled ones (`pck`), and what an answer that never looks would get."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.views import Size

NEAR = 0.1
"""Share of the view's larger side within which a point counts as found."""
_GRID = 20  # cells of the histogram along a side
_REACH = int(NEAR * _GRID)


def distances(first: Tensor, second: Tensor, size: Size) -> Tensor:
    """[R, K, M]: between the centres of objects, in cells of a map of `size`."""
    scale = first.new_tensor([size[1], size[0]])
    return torch.cdist(first[..., 1:3] * scale, second[..., 1:3] * scale)


def near(best: Tensor, labels: Tensor, size: Size) -> Tensor:
    """float64 [R, 2]: labelled centres that the best of their class is near to, and all of them.

    Args:
        best: float64 [R, C, 5], one object of each class, in their order.
        labels: float64 [R, M, 5].
        size: of the map, which has the aspect of the view.
    """
    there = labels[..., 0] >= 0
    number = labels[..., :1].long().clamp_min(0)
    centre = best[..., 1:3].gather(1, number.expand(-1, -1, 2))
    scale = best.new_tensor([size[1], size[0]])
    apart = ((centre - labels[..., 1:3]) * scale).norm(dim=2)
    return torch.stack([(there & (apart <= NEAR * max(size))).sum(1), there.sum(1)], 1).double()


def histogram(labels: Tensor, classes: int) -> Tensor:
    """float64 [C, grid²]: how many of the labels [R, M, 5] have their centre where."""
    known = labels[labels[..., 0] >= 0]
    column, line = (known[:, 1:3] * _GRID).long().clamp(0, _GRID - 1).unbind(1)
    place = (known[:, 0].long() * _GRID + line) * _GRID + column
    return torch.bincount(place, minlength=classes * _GRID**2).view(classes, -1).double()


def best_constant(counts: Tensor) -> float:
    """About the score of the best fixed place of each class, in points of 100, from a `histogram`.

    Centres are taken to lie in the middle of their cell, and views to be square.
    """
    line, column = torch.meshgrid(*[torch.arange(-_REACH, _REACH + 1)] * 2, indexing="ij")
    disk = (line**2 + column**2 <= _REACH**2).double()
    reached = F.conv2d(counts.view(-1, 1, _GRID, _GRID), disk[None, None], padding=_REACH)
    return 100 * float(reached.flatten(1).amax(1).sum() / counts.sum().clamp(min=1))
