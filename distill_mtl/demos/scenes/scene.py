"""The parts of a scene and their geometry: vectors, camera, shapes and materials.

compose.py draws a random scene, render.py renders it. Sums over vectors are written out, because a library's dot
product may add in another order on another machine.

The four shapes are convex, and each fills the cube from -1 to 1 in its own coordinates. Their functions take origins
outside the shape [3, ...] and directions [3, ...], broadcast against each other, and return the parameters [...] of
the entries (infinite where a ray misses) and the outward normals there [3, ...], of any length. A solid is such a
shape after stretch, rotation and translation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Vector(NamedTuple):
    """One point, direction or colour."""

    x: float
    y: float
    z: float

    def __sub__(self, other: "Vector") -> "Vector":
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def along(self, direction: "Vector", length: float) -> "Vector":
        """The point `length` times `direction` away."""
        return Vector(
            self.x + length * direction.x, self.y + length * direction.y, self.z + length * direction.z
        )

    def dot(self, other: "Vector") -> float:
        """Inner product."""
        return self.x * other.x + self.y * other.y + self.z * other.z

    def cross(self, other: "Vector") -> "Vector":
        """Vector product."""
        return Vector(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )

    def unit(self) -> "Vector":
        """The same direction with length 1."""
        length = math.sqrt(self.dot(self))
        return Vector(self.x / length, self.y / length, self.z / length)

    def over(self, rank: int) -> Floats:
        """As an array [3, 1, ...] that broadcasts against arrays of vectors [3, ...] of that many axes more."""
        return np.array(self).reshape(3, *[1] * rank)


def turn(half_tangent: float) -> tuple[float, float]:
    """Cosine and sine of the angle whose half has this tangent, without a library's sine."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def dot(one: Floats, other: Floats) -> Floats:
    """Inner products [...] of vectors [3, ...]."""
    product: Floats = one[0] * other[0] + one[1] * other[1] + one[2] * other[2]
    return product


def unit(vectors: Floats) -> Floats:
    """Vectors [3, ...] with length 1."""
    scaled: Floats = vectors / np.sqrt(dot(vectors, vectors))
    return scaled


def at(vectors: Floats, rows: NDArray[np.intp]) -> Floats:
    """Some [3, K] of the vectors [3, N]; five times as fast as indexing."""
    return np.take(vectors, rows, axis=1)


Window = tuple[slice, slice]


@dataclass(frozen=True)
class Camera:
    """Its position and direction; the picture is square.

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


FAR = 20.0  # metres along the line of sight at which the floor is lost in haze: nothing is labelled from there on


PATTERNS = ("plain", "stripes", "checker", "noise")
"""Of a material."""


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        first, second: the colours that the pattern mixes, red, green and blue in 0 to 1, as linear light.
        pattern: of textures.PATTERNS.
        cells: of the pattern, per metre.
        offset: of the pattern, in cells.
        upright: stripes stand instead of lying.
        shine: share of the surroundings that it mirrors; 0 is dull.
    """

    first: Vector
    second: Vector
    pattern: str
    cells: float
    offset: Vector
    upright: bool = False
    shine: float = 0.0


@dataclass(frozen=True)
class Solid:
    """A shape, stretched to its half sizes, turned about the vertical and put at its centre.

    Attributes:
        shape: of shapes.SHAPES.
        centre: of the box around it, half its height above the floor.
        half: half its sizes along its own axes.
        cosine, sine: of its turn.
        colour: name of the first colour of its material.
        clutter: a pebble, which is not labelled.
    """

    shape: str
    centre: Vector
    half: Vector
    cosine: float
    sine: float
    material: Material
    colour: str
    clutter: bool = False

    @property
    def radius(self) -> float:
        """Of a ball about the centre that holds it."""
        x, y, z = self.half
        if self.shape == "sphere":
            return max(x, y, z)
        wide = x * x + y * y if self.shape == "box" else x * x
        return math.sqrt(wide + z * z)

    def turned(self, vectors: Floats) -> Floats:
        """World vectors [3, ...] in its own axes, in metres."""
        return np.stack(
            [
                self.cosine * vectors[0] + self.sine * vectors[1],
                self.cosine * vectors[1] - self.sine * vectors[0],
                vectors[2],
            ]
        )

    def enter(self, origins: Floats, rays: Floats) -> tuple[Floats, Floats]:
        """Parameters [...] of the entries of rays [3, ...], and outward normals in the world, of any length."""
        rank = max(origins.ndim, rays.ndim) - 1
        half = self.half.over(rank)
        own = self.turned(origins - self.centre.over(rank)) / half
        times, normals = SHAPES[self.shape](own, self.turned(rays) / half)
        x, y, z = normals / half
        return times, np.stack([self.cosine * x - self.sine * y, self.sine * x + self.cosine * y, z])


@dataclass(frozen=True)
class Plane:
    """The floor or the wall behind.

    Attributes:
        point: on it.
        normal: towards the camera, length 1.
        along: a unit vector in it, the first axis of its pattern; the other is normal x along.
    """

    point: Vector
    normal: Vector
    along: Vector
    material: Material

    def enter(self, eye: Vector, rays: Floats) -> Floats:
        """Parameters [...] at which rays [3, ...] from `eye` meet it; infinite where they never do."""
        towards = dot(self.normal.over(rays.ndim - 1), rays)
        times = (self.point - eye).dot(self.normal) / towards
        return np.where(towards < 0, times, np.inf)

    def on_it(self, places: Floats) -> Floats:
        """Points of it [3, ...] as places of its pattern, stripes along `along`."""
        rank = places.ndim - 1
        offsets = places - self.point.over(rank)
        across = self.normal.cross(self.along).over(rank)
        first = dot(offsets, self.along.over(rank))
        return np.stack([first, np.zeros_like(first), dot(offsets, across)])


@dataclass(frozen=True)
class Light:
    """A lamp in the room, or the sun: a lamp far away.

    Attributes:
        place: of its middle.
        radius: of its ball, which softens shadows.
        colour: of what it sends to a surface that faces it.
        ambient: of what comes from everywhere else.
    """

    place: Vector
    radius: float
    colour: Vector
    ambient: Vector


@dataclass(frozen=True)
class Scene:
    """All of it.

    Attributes:
        solids: the labelled shapes, then the pebbles.
        wall: None under the open sky.
        horizon, zenith: colours of the sky, or of what stands for it in the mirrors of a room.
        exposure: of the picture.
        grain: amplitude of the sensor's noise, of 255.
        hard: shadows are dark.
        noise_key: uint64 key of the picture's noise.
    """

    camera: Camera
    solids: tuple[Solid, ...]
    floor: Plane
    wall: Plane | None
    light: Light
    horizon: Vector
    zenith: Vector
    exposure: float
    grain: float
    hard: bool
    noise_key: int

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The floor, and the wall where there is one."""
        return (self.floor,) if self.wall is None else (self.floor, self.wall)
