"""A pinhole camera: the rays of its pixels, and where on the picture a ball lies."""

import math
from dataclasses import dataclass

import numpy as np

from distill_mtl.data.scenes.vectors import Floats, Vector

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Camera:
    """Where it stands and looks; the picture is square.

    Attributes:
        eye: its place.
        right, up, forward: unit vectors of the picture's axes and of the line of sight.
        spread: tangent of half the angle of view.
    """

    eye: Vector
    right: Vector
    up: Vector
    forward: Vector
    spread: float

    @classmethod
    def towards(cls, eye: Vector, target: Vector, roll: float, spread: float) -> "Camera":
        """A camera at `eye` that sees `target` in its middle; `roll` is the sideways slope of its upright."""
        forward = (target - eye).unit()
        right = forward.cross(Vector(roll, 0, 1)).unit()
        return cls(eye, right, right.cross(forward), forward, spread)

    def rays(self, side: int) -> Floats:
        """Directions [3, side, side] through the centres of the pixels, top row first.

        Their part along the line of sight is 1, so the ray's parameter is the depth.
        """
        steps = (2 * np.arange(side) + 1 - side) * (self.spread / side)
        across, upwards = steps[None, None, :], -steps[None, :, None]
        rays: Floats = self.forward.over(2) + across * self.right.over(2) + upwards * self.up.over(2)
        return rays

    def window(self, centre: Vector, radius: float, side: int) -> Window | None:
        """Rows and columns that hold all pixels of a ball; None where it is out of the picture."""
        place = centre - self.eye
        ahead = place.dot(self.forward)
        if ahead + radius <= 0:
            return None
        columns = self._reach(place.dot(self.right), ahead, radius, side)
        rows = self._reach(-place.dot(self.up), ahead, radius, side)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        return rows, columns

    def _reach(self, aside: float, ahead: float, radius: float, side: int) -> slice:
        """Pixels along one axis of the picture, between the two tangents to the ball."""
        narrow = ahead * ahead - radius * radius
        if ahead <= 0 or narrow <= 0:
            return slice(0, side)
        middle, half = aside * ahead, radius * math.sqrt(aside * aside + narrow)
        low, high = ((middle + sign * half) / (narrow * self.spread) for sign in (-1, 1))
        first, last = math.floor((low + 1) * side / 2 - 1), math.ceil((high + 1) * side / 2 + 1)
        return slice(min(max(first, 0), side), min(max(last, 0), side))
