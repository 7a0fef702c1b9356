"""Patterns from 0 to 1 over points of space: what mixes the two colours of a surface."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.scenes.vectors import Floats
from distill_mtl.data.splitmix import fold, uniforms

PATTERNS = ("plain", "stripes", "checker", "noise")

_CELLS = 16  # of the noise along each axis, before it repeats


def pattern(name: str, places: Floats) -> Floats:
    """How much of the second colour [...] there is at points [3, ...], given in cells of the pattern.

    Stripes run across the third axis of the points.
    """
    if name == "plain":
        return np.zeros(places.shape[1:])
    if name == "noise":
        return np.clip(1.4 * (0.65 * _noise(places) + 0.35 * _noise(2 * places + 5.5)) - 0.2, 0, 1)
    cells = np.floor(places)
    total = cells[2] if name == "stripes" else cells[0] + cells[1] + cells[2]
    return total - 2 * np.floor(total / 2)


def _noise(places: Floats) -> Floats:
    """Value noise [...]: random numbers at whole places, blended in between (Perlin's fade of 1985)."""
    cells = np.floor(places)
    parts = places - cells
    x, y, z = parts * parts * (3 - 2 * parts)
    low = cells.astype(np.int64) & (_CELLS - 1)
    high = (low + 1) & (_CELLS - 1)
    lattice = _lattice()

    def row(j: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
        start = (j * _CELLS + k) * _CELLS
        one, other = np.take(lattice, start + low[0]), np.take(lattice, start + high[0])
        return one + x * (other - one)

    def sheet(k: NDArray[np.int64]) -> Floats:
        one, other = row(low[1], k), row(high[1], k)
        return one + y * (other - one)

    one, other = sheet(low[2]), sheet(high[2])
    blended: Floats = one + z * (other - one)
    return blended


@cache
def _lattice() -> Floats:
    return uniforms(fold("scenes", "noise"), _CELLS**3)[0]
