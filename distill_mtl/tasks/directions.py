"""Where many unit vectors point, as counts that add up: for the best constant answer of `normals`."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

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
