"""What is in a scene. compose.py fills it by chance, trace.py and render.py look at it."""

import math
from dataclasses import dataclass

import numpy as np

from distill_mtl.data.scenes.camera import Camera
from distill_mtl.data.scenes.shapes import SHAPES
from distill_mtl.data.scenes.vectors import Floats, Vector, dot

FAR = 20.0  # metres along the line of sight at which the floor is lost in haze: nothing is labelled from there on


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
        clutter: a pebble, which no label speaks of.
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
        """World vectors [3, ...] along its own axes, in metres."""
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
        solids: the shapes that the labels speak of, then the pebbles.
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
