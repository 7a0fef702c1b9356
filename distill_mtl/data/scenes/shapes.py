"""Where rays enter the four shapes, each in its own coordinates, in which it fills the cube from -1 to 1.

All are convex. A function takes origins outside the shape [3, ...] and directions [3, ...], broadcast against
each other, and returns the parameters [...] of the entries (infinite where a ray misses) and the outward
normals there [3, ...], of any length. A solid is such a shape, stretched, turned and put somewhere.
"""

from collections.abc import Callable

import numpy as np

from distill_mtl.data.scenes.vectors import Floats, dot

Entries = tuple[Floats, Floats]


def sphere(origins: Floats, rays: Floats) -> Entries:
    """x² + y² + z² = 1."""
    times, _ = _between_roots(dot(rays, rays), dot(origins, rays), dot(origins, origins) - 1)
    return _ahead(times), origins + times * rays


def box(origins: Floats, rays: Floats) -> Entries:
    """The cube itself: the last of the three pairs of planes to be entered (Kay & Kajiya, 1986)."""
    ones, others = (-1 - origins) / rays, (1 - origins) / rays
    enter, leave = np.minimum(ones, others), np.maximum(ones, others)
    times = np.maximum(np.maximum(enter[0], enter[1]), enter[2])
    gone = np.minimum(np.minimum(leave[0], leave[1]), leave[2])
    normals = np.where(enter == times, -np.sign(rays), 0.0)
    return _ahead(np.where(times <= gone, times, np.inf)), normals


def cylinder(origins: Floats, rays: Floats) -> Entries:
    """x² + y² = 1 between two discs."""
    curve = rays[0] * rays[0] + rays[1] * rays[1]
    slope = origins[0] * rays[0] + origins[1] * rays[1]
    enter, leave = _between_roots(curve, slope, origins[0] * origins[0] + origins[1] * origins[1] - 1)
    ones, others = (-1 - origins[2]) / rays[2], (1 - origins[2]) / rays[2]
    disc = np.minimum(ones, others)
    times = np.maximum(enter, disc)
    inside = times <= np.minimum(leave, np.maximum(ones, others))
    wall = enter > disc
    places = origins + times * rays
    normals = np.stack(
        [
            np.where(wall, places[0], 0.0),
            np.where(wall, places[1], 0.0),
            np.where(wall, 0.0, -np.sign(rays[2])),
        ]
    )
    return _ahead(np.where(inside, times, np.inf)), normals


def cone(origins: Floats, rays: Floats) -> Entries:
    """x² + y² = ((1 - z) / 2)², its tip at z = 1, on a disc at z = -1."""
    curve = rays[0] * rays[0] + rays[1] * rays[1] - rays[2] * rays[2] / 4
    slope = origins[0] * rays[0] + origins[1] * rays[1] + (1 - origins[2]) * rays[2] / 4
    width = 1 - origins[2]
    roots = _roots(curve, slope, origins[0] * origins[0] + origins[1] * origins[1] - width * width / 4)
    nearest, wall = np.full(np.shape(curve), np.inf), np.full(np.shape(curve), False)
    for times in roots:
        heights = origins[2] + times * rays[2]
        better = (np.abs(heights) <= 1) & (times > 0) & (times < nearest)
        nearest, wall = np.where(better, times, nearest), wall | better
    base = (-1 - origins[2]) / rays[2]
    x, y = origins[0] + base * rays[0], origins[1] + base * rays[1]
    better = (x * x + y * y <= 1) & (base > 0) & (base < nearest)
    nearest, wall = np.where(better, base, nearest), wall & ~better
    places = origins + nearest * rays
    normals = np.stack(
        [
            np.where(wall, places[0], 0.0),
            np.where(wall, places[1], 0.0),
            np.where(wall, (1 - places[2]) / 4, -1.0),
        ]
    )
    return nearest, normals


SHAPES: dict[str, Callable[[Floats, Floats], Entries]] = {
    "sphere": sphere,
    "box": box,
    "cylinder": cylinder,
    "cone": cone,
}


def _roots(square: Floats, half_linear: Floats, constant: Floats) -> tuple[Floats, Floats]:
    """Both solutions of square t² + 2 half_linear t + constant = 0, NaN where there is none."""
    root = np.sqrt(half_linear * half_linear - square * constant)
    return (-half_linear - root) / square, (-half_linear + root) / square


def _between_roots(square: Floats, half_linear: Floats, constant: Floats) -> tuple[Floats, Floats]:
    """Entry and exit where `square` is positive; an infinite entry and exit where the ray misses."""
    enter, leave = _roots(square, half_linear, constant)
    missed = np.isnan(enter)
    return np.where(missed, np.inf, enter), np.where(missed, -np.inf, leave)


def _ahead(times: Floats) -> Floats:
    return np.where(times > 0, times, np.inf)
